"""Merging, compressing and sampling of Custom Diffusion, on small matrices and networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gengauge.reference.custom_diffusion.compress import compress, rank_of, reconstruct, stored_numbers
from gengauge.reference.custom_diffusion.losses import scaled_linear_abar
from gengauge.reference.custom_diffusion.merge import (
    distinct,
    feature_rows,
    has_prefix,
    in_order,
    merge,
    prepare,
    target_prompts,
    text_features,
)
from gengauge.reference.custom_diffusion.sampling import sample, uniform_schedule, with_ddim

K, V = (f"mid_block.attentions.0.transformer_blocks.0.attn2.to_{x}.weight" for x in "kv")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- merge -------------------------------------------------------------------------------------------------------------


def test_the_merge_is_the_nearest_of_all_that_hold() -> None:
    c_reg, c, w0, values = drawn(40, 8), drawn(3, 8, seed=1), drawn(5, 8, seed=2), drawn(3, 5, seed=3)
    merged = prepare(c_reg, c).solve(w0, values)
    assert torch.allclose(c @ merged.T, values)
    # By Lagrange: 2 A (W - W0)^T is in the span of C^T, solved as one linear system.
    a = c_reg.T @ c_reg
    system = torch.cat([torch.cat([a, c.T], 1), torch.cat([c, torch.zeros(3, 3)], 1)])
    solution = torch.linalg.solve(system, torch.cat([a @ w0.T, values]))[:8].T
    assert torch.allclose(merged, solution)
    # Any move that keeps the constraint goes away from W0.
    kernel = torch.linalg.svd(c).Vh[3:]
    moved = merged + 0.1 * drawn(5, 5, seed=4) @ kernel
    assert torch.allclose(c @ moved.T, values)
    assert ((moved - w0) @ c_reg.T).norm() > ((merged - w0) @ c_reg.T).norm()


def test_a_merge_of_concepts_gives_each_its_values_and_leaves_captions() -> None:
    base = {K: drawn(6, 16), V: drawn(4, 16, seed=1)}
    tuned = [{name: w + 0.1 * drawn(*w.shape, seed=5 + n) for name, w in base.items()} for n in range(2)]
    c_reg, targets = drawn(50, 16, seed=8), [drawn(3, 16, seed=9), drawn(2, 16, seed=10)]
    merged, report = merge(base, tuned, c_reg, targets)
    for name, weight in merged.items():
        for c, each in zip(targets, tuned, strict=True):
            assert torch.allclose(c @ weight.T, c @ each[name].T)
    drifts = [((merged[name] - base[name]) @ c_reg.T).norm(dim=0).mean() for name in base]
    assert report.drift == pytest.approx(float(sum(drifts)) / 2)
    assert report.target_residual < 1e-12
    assert report.condition == pytest.approx(float(torch.linalg.cond(c_reg.T @ c_reg)), rel=1e-6)
    same, _ = merge(base, [base, base], c_reg, targets)
    assert all(torch.allclose(same[name], base[name]) for name in base)


def test_few_captions_need_a_ridge() -> None:
    c_reg, c, w0, values = drawn(5, 8), drawn(2, 8, seed=1), drawn(4, 8, seed=2), drawn(2, 4, seed=3)
    with pytest.raises(ValueError, match="5 rows of captions cannot hold 8 dimensions; give more captions, or a ridge"):
        prepare(c_reg, c)
    merged = prepare(c_reg, c, ridge=1e-6).solve(w0, values)
    assert torch.allclose(c @ merged.T, values)
    full = drawn(40, 8)
    assert torch.allclose(prepare(full, c, 1e-12).gain, prepare(full, c).gain)


def test_features_that_sum_to_zero_are_singular_in_single_precision_too() -> None:
    """What a text encoder gives whose last norm has not been trained."""
    c_reg = drawn(60, 8)
    c_reg = c_reg - c_reg.mean(1, keepdim=True)
    for features in (c_reg, c_reg.float()):
        with pytest.raises(ValueError, match="do not span all 8 dimensions"):
            prepare(features, drawn(2, 8, seed=1).to(features))


@pytest.mark.parametrize(
    ("c_reg", "c", "match"),
    [
        (drawn(20, 4), drawn(5, 4), "5 targets cannot all hold in 4 dimensions"),
        (drawn(20, 4), drawn(1, 4).expand(2, 4), "2 targets are not independent"),
        (drawn(20, 4), drawn(2, 5), "of 4 dimensions, targets of 5"),
        (drawn(20, 4), drawn(2, 4) * math.nan, "target features hold values that are no finite"),
        (drawn(20, 4) * math.inf, drawn(2, 4), "regularisation features hold values that are no finite"),
        (drawn(20, 4).long(), drawn(2, 4), "regularisation features are"),
        (drawn(20, 4), drawn(0, 4), "target features are"),
    ],
)
def test_features_that_cannot_be_merged(c_reg: Tensor, c: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        prepare(c_reg, c)


def test_weights_that_cannot_be_merged() -> None:
    c_reg, c = drawn(20, 4), [drawn(2, 4, seed=1)]
    base = {K: drawn(3, 4)}
    query = K.replace("to_k", "to_q")
    with pytest.raises(ValueError, match=r"to_q\.weight is no key or value"):
        merge({query: drawn(3, 4)}, [{query: drawn(3, 4)}], c_reg, c)
    with pytest.raises(ValueError, match="concept 2 differs from the first"):
        merge(base, [base, {**base, V: drawn(3, 4)}], c_reg, c * 2)
    with pytest.raises(ValueError, match="the base has no"):
        merge({}, [base], c_reg, c)
    with pytest.raises(ValueError, match="no concept has weights of its own"):
        merge(base, [{}] * len(c), c_reg, c)
    with pytest.raises(ValueError, match="2 concepts with targets of 1"):
        merge(base, [base, base], c_reg, c)
    with pytest.raises(ValueError, match="do not go with targets"):
        prepare(c_reg, c[0]).solve(drawn(3, 5), drawn(2, 3))
    with pytest.raises(ValueError, match="the values hold values that are no finite"):
        prepare(c_reg, c[0]).solve(drawn(3, 4), drawn(2, 3) * math.nan)
    with pytest.raises(ValueError, match="the ridge is -1"):
        prepare(c_reg, c[0], -1)


# -- prompts and rows --------------------------------------------------------------------------------------------------


def test_target_prompts_of_both_codes() -> None:
    assert target_prompts("cat", "<new1>") == ("<new1> cat", "photo of a <new1> cat")
    assert target_prompts("cat", "<new1>", "compvis") == ("<new1> cat", "a photo of <new1> cat")
    style = ("<new2> cartoon", "painting in the style of <new2> cartoon")
    assert target_prompts("cartoon", "<new2>") == target_prompts("cartoon", "<new2>", "compvis") == style
    assert target_prompts("cartoon", "<new2>", style=False)[1] == "photo of a <new2> cartoon"
    assert target_prompts("monet", "<new2>", style=True)[1] == "painting in the style of <new2> monet"
    with pytest.raises(ValueError, match="a category and a token"):
        target_prompts(" ", "<new1>")
    with pytest.raises(ValueError, match="no variant 'sdxl'"):
        target_prompts("cat", "<new1>", "sdxl")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("photo of a cat", True),
        ("a photo of a cat", True),  # the rule is of letters: here it drops "a", "photo" and "of"
        ("nice photo of a cat", True),
        ("photo of <new1> cat", False),
        ("this is a photo of a cat", False),
        ("a photo of <new1> cat", False),
    ],
)
def test_the_prefix_is_looked_for_in_fifteen_characters(caption: str, expected: bool) -> None:
    assert has_prefix(caption) is expected


def test_rows_of_a_caption() -> None:
    features = torch.arange(8.0)[:, None]
    ids = [1, 5, 6, 7, 8, 2, 2, 2]
    assert feature_rows(features, ids, 2).flatten().tolist() == [1, 2, 3, 4, 5]
    assert feature_rows(features, ids, 2, prefix=True).flatten().tolist() == [4, 5]
    with pytest.raises(ValueError, match="no end-of-text token 9"):
        feature_rows(features, ids, 9)
    with pytest.raises(ValueError, match="are no rows of 3 tokens"):
        feature_rows(features, [1, 5, 2], 2)


def test_features_of_captions_come_in_their_order() -> None:
    ids = [[1, 5, 2], [1, 6, 7, 8, 9, 2], [1, 8, 2], [1, 9, 2]]
    sizes = []

    def encode(batch: Tensor) -> Tensor:
        sizes.append(tuple(batch.shape))
        return batch[..., None].float()

    found = text_features(encode, ids, ["a", "photo of a b", "c", "d"], 2, batch=2)
    assert found.flatten().tolist() == [5, 2, 9, 2, 8, 2, 9, 2]
    assert sorted(sizes) == [(1, 3), (1, 6), (2, 3)]
    with pytest.raises(ValueError, match="4 rows of token ids for 1 captions"):
        text_features(encode, ids, ["a"], 2)


def test_equal_rows_and_tokens_of_several_concepts() -> None:
    a, b = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[3.0, 4], [5, 6], [5, 6]])
    kept = distinct([a, b])
    assert [each.tolist() for each in kept] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert in_order([{"<v>": 1, "<w>": 2}, {"<v>": 3}]) == {"<new1>": 1, "<new2>": 3}
    with pytest.raises(ValueError, match="concept 2 has no token"):
        in_order([{"<v>": 1}, {}])


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "rank"), [(0.1, 0), (0.39, 0), (0.4, 1), (0.65, 1), (0.7, 2), (0.9, 3), (0.999, 3), (1.0, 3)]
)
def test_the_value_that_crosses_the_ratio_is_dropped(ratio: float, rank: int) -> None:
    assert rank_of(torch.tensor([4.0, 3, 2, 1], dtype=torch.float64), ratio) == rank


def test_factors_of_changes() -> None:
    base = {"a": drawn(6, 5), "b": drawn(4, 5, seed=1)}
    change = {"a": drawn(6, 2, seed=2) @ drawn(2, 5, seed=3), "b": torch.zeros(4, 5)}
    tuned = {name: base[name] + change[name] for name in base}
    exact = compress(base, tuned, rank=2)
    assert torch.allclose(exact["a"][0] @ exact["a"][1], change["a"].float(), atol=1e-6)
    assert all(torch.allclose(w, tuned[name], atol=1e-6) for name, w in reconstruct(base, exact).items())
    assert stored_numbers(exact, [torch.ones(7)]) == 2 * (6 + 5) + 2 * (4 + 5) + 7
    assert compress(base, tuned, rank=99)["b"][0].shape == (4, 4)
    none = compress(base, tuned, rank=0)
    assert none["a"][0].shape == (6, 0)
    assert all(torch.equal(w, base[name]) for name, w in reconstruct(base, none).items())
    assert compress(base, tuned)["b"][0].shape[1] == 0
    assert reconstruct({"a": base["a"].half()}, {"a": exact["a"]})["a"].dtype == torch.float16


def test_what_cannot_be_compressed() -> None:
    base = {"a": drawn(6, 5)}
    for kwargs in ({"ratio": 0.0}, {"ratio": 1.5}, {"rank": -1}, {"rank": 1, "ratio": 0.5}):
        with pytest.raises(ValueError, match=r"ratio is|rank is|not both"):
            compress(base, base, **kwargs)
    for tuned, match in (
        ({"a": drawn(6)}, "only matrices"),
        ({"a": drawn(6, 4)}, "of another base"),
        ({"z": drawn(6, 5)}, "of another base"),
        ({"a": drawn(6, 5) * math.nan}, "no finite numbers"),
    ):
        with pytest.raises(ValueError, match=match):
            compress(base, tuned)


# -- sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "count", "last"), [(50, 50, 981), (200, 200, 996), (7, 8, 995), (250, 250, 997), (3, 4, 1000)]
)
def test_uniform_times(steps: int, count: int, last: int) -> None:
    abar = scaled_linear_abar()
    if last >= len(abar):
        with pytest.raises(ValueError, match="the last time is 1000 of 1000"):
            uniform_schedule(abar, steps)
        return
    schedule = uniform_schedule(abar, steps)
    assert len(schedule) == count
    assert (int(schedule.times[0]), int(schedule.times[-1])) == (1, last)
    assert float(schedule.abar_before[0]) == pytest.approx(float(abar[0]))


def test_a_network_that_knows_the_noise_finds_the_picture() -> None:
    """DDIM without fresh noise is exact for it; with fresh noise each draw is taken away again."""
    abar = scaled_linear_abar()
    clean = drawn(2, 4, 3, 3).float()

    def network(x: Tensor, t: Tensor) -> Tensor:
        kept = abar.double()[t][:, None, None, None]
        return ((x - kept.sqrt() * clean) / (1 - kept).sqrt()).float()

    start = drawn(2, 4, 3, 3, seed=1).float()
    seen: list[int] = []
    for eta in (0.0, 1.0):
        schedule = uniform_schedule(abar, 10, eta)
        found = sample(
            network, start, schedule, generator=torch.Generator().manual_seed(0), callback=lambda i, _: seen.append(i)
        )
        # The last step ends at time 0, where a little noise is left.
        assert float((found - float(abar[0]) ** 0.5 * clean).abs().max()) < 6 * (1 - float(abar[0])) ** 0.5
    assert seen == [*range(10)] * 2
    again = sample(network, start, schedule, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


def test_what_cannot_be_sampled() -> None:
    abar = scaled_linear_abar()
    start = torch.zeros(1, 4, 2, 2)
    for steps, eta in ((0, 1.0), (1000, 1.0), (10, 1.5)):
        with pytest.raises(ValueError, match=r"do not fit|eta is"):
            uniform_schedule(abar, steps, eta)
    schedule = uniform_schedule(abar, 2)
    with pytest.raises(ValueError, match="each step needs a noise"):
        sample(lambda x, t: x, start, schedule, noises=[start])
    with pytest.raises(ValueError, match="step 0 gives values that are no finite numbers"):
        sample(lambda x, t: x * math.nan, start, schedule)
    with pytest.raises(ValueError, match="the start is"):
        sample(lambda x, t: x, start[0], schedule)


def test_a_pipeline_gets_ddim_with_its_own_variances_and_prediction() -> None:
    diffusers = pytest.importorskip("diffusers")
    own = {"beta_start": 0.001, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "v_prediction"}
    pipeline = type("Pipeline", (), {"scheduler": diffusers.PNDMScheduler(**own)})()
    scheduler = with_ddim(pipeline).scheduler
    assert isinstance(scheduler, diffusers.DDIMScheduler)
    assert scheduler.config.prediction_type == "v_prediction"
    assert float(scheduler.betas[-1]) == pytest.approx(0.02)
    assert not scheduler.config.clip_sample
    scheduler.set_timesteps(50)
    abar = scheduler.alphas_cumprod
    assert torch.equal(scheduler.timesteps.flip(0), uniform_schedule(abar, 50).times)
    # The step takes eta: with another draw the latents are others.
    x = torch.zeros(1, 4, 2, 2)
    noises = (drawn(1, 4, 2, 2).float(), drawn(1, 4, 2, 2, seed=1).float())
    one, other = (scheduler.step(x, 981, x, eta=1.0, variance_noise=noise).prev_sample for noise in noises)
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="has no betas"):
        with_ddim(type("Pipeline", (), {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler()})())
