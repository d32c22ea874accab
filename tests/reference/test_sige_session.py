"""SparseSession on diffusers' networks with random weights: alone, in sampling loops, and where it must refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.sige import samplers
from gengauge.reference.sige.policy import everywhere
from gengauge.reference.sige.session import SparseSession

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def unconditional(size: int = 32) -> nn.Module:
    """A small UNet2DModel with attention at half its size."""
    return diffusers.UNet2DModel(
        sample_size=size,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    ).eval()


def stable_diffusion() -> nn.Module:
    """As SD 1.x: convolutions before and after each transformer."""
    return diffusers.UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24,
        norm_num_groups=8,
        attention_head_dim=4,
    ).eval()


def stable_diffusion_xl() -> nn.Module:
    """As SDXL: linear layers around transformers of several blocks, and sizes as a further condition."""
    return diffusers.UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=24,
        norm_num_groups=8,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
        transformer_layers_per_block=(1, 2),
    ).eval()


def conditions(images: int, xl: bool) -> dict[str, Any]:
    text = {"encoder_hidden_states": torch.randn(images, 5, 24)}
    if not xl:
        return text
    sizes = {"text_embeds": torch.randn(images, 16), "time_ids": torch.randn(images, 6)}
    return {**text, "added_cond_kwargs": sizes}


NETWORKS: list[Any] = [
    pytest.param(unconditional, 3, lambda n: {}, id="UNet2DModel"),
    pytest.param(stable_diffusion, 4, lambda n: conditions(n, False), id="SD"),
    pytest.param(stable_diffusion_xl, 4, lambda n: conditions(n, True), id="SDXL"),
]


def square(x: Tensor, side: int = 8) -> tuple[Tensor, Tensor]:
    """An edit in the middle, and its mask."""
    mask = torch.zeros(x.shape[2:], dtype=torch.bool)
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    mask[top : top + side, left : left + side] = True
    return torch.where(mask, torch.randn_like(x), x), mask


@pytest.mark.parametrize(("make", "channels", "given"), NETWORKS)
@pytest.mark.parametrize("images", [1, 2])
def test_edits_of_diffusers_networks(
    make: Callable[[], nn.Module], channels: int, given: Callable[[int], dict[str, Any]], images: int
) -> None:
    network, x, kwargs = make(), torch.randn(images, channels, 32, 32), given(images)
    session = SparseSession(network, always_sparse=True)
    with torch.no_grad():
        dense = network(x, 7, **kwargs).sample
    assert torch.allclose(session.cache(x, 7, **kwargs), dense, atol=1e-4)
    assert session.refusal is None
    edited, mask = square(x)
    with torch.no_grad():
        target = network(edited, 7, **kwargs).sample
    out = session.edit(edited)
    assert session.choice is not None
    assert session.choice.way == "sparse"
    assert 0 < session.choice.edit_ratio < 0.2
    # Inside the edit it is near what the network makes of it, far from what the original was.
    near, far = (out - target)[..., mask].abs().mean(), (dense - target)[..., mask].abs().mean()
    assert near < 0.35 * far
    assert torch.equal(out, session.edit(edited, mask))
    assert torch.equal(session.edit(x), session.cache(x, 7, **kwargs))
    everything = session.edit(torch.randn_like(x), torch.ones(32, 32, dtype=torch.bool))
    assert session.choice.way == "dense"
    assert everything.shape == dense.shape


@pytest.mark.parametrize(("make", "channels", "given"), NETWORKS)
def test_a_full_mask_gives_what_the_network_gives(
    make: Callable[[], nn.Module], channels: int, given: Callable[[int], dict[str, Any]]
) -> None:
    network, x, kwargs = make(), torch.randn(2, channels, 32, 32), given(2)
    session = SparseSession(network)
    session.cache(x, 3, **kwargs)
    edited = torch.randn_like(x)
    with torch.no_grad():
        target = network(edited, 3, **kwargs).sample
    assert torch.allclose(session.edit(edited, torch.ones(32, 32, dtype=torch.bool)), target, atol=1e-4)


def test_sdedit_with_a_pipelines_network_and_scheduler() -> None:
    pipeline = diffusers.DDIMPipeline(unconditional(), diffusers.DDIMScheduler(num_train_timesteps=100))
    pipeline.set_progress_bar_config(disable=True)
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(10)
    session = SparseSession(pipeline.unet, always_sparse=True)
    original = torch.rand(1, 3, 32, 32) * 2 - 1
    edited, mask = square(original)
    noise = torch.randn_like(original)
    steps = scheduler.timesteps[5:]
    x = scheduler.add_noise(edited, noise, steps[:1])
    for i, t in enumerate(steps):
        x0 = scheduler.add_noise(original, noise, t[None])
        x = torch.where(mask, x, x0)  # outside the edit both are the same
        session.cache(x0, t)
        x = scheduler.step(session.edit(x), t, x).prev_sample
        assert session.choice is not None
        assert session.choice.way == "sparse", i
    assert torch.isfinite(x).all()


def test_a_pair_through_this_projects_sampler() -> None:
    network = unconditional()
    session = SparseSession(network, always_sparse=True)
    original = torch.rand(1, 3, 32, 32) * 2 - 1
    edited, mask = square(original)
    noise, times = torch.randn_like(original), samplers.uniform_times(500, 5)
    betas = samplers.linear_betas()
    pair = samplers.paired(session.cache, lambda x, t: session.edit(x, mask))
    start = samplers.diffuse(torch.cat([original, edited]), times[-1], noise, betas)
    edit = samplers.Edit(original, noise, mask)
    out = samplers.sample_ddim(pair, start, times, betas, edit, generator=torch.Generator().manual_seed(0))
    assert out.shape == (2, 3, 32, 32)
    assert torch.allclose(out[0], original[0], atol=1e-5)  # as it was, and outside the edit in both
    assert torch.allclose(out[1][:, ~mask], original[0][:, ~mask], atol=1e-5)


def test_several_steps_are_kept_and_forgotten() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    session = SparseSession(network, always_sparse=True)
    outs = {step: session.cache(x, t, step=step) for step, t in enumerate((5, 50))}
    one = session.cache_bytes // 2
    edited, _ = square(x)
    assert not torch.allclose(session.edit(edited, step=0), session.edit(edited, step=1))
    assert torch.equal(session.edit(x, step=1), outs[1])
    session.forget(0)
    assert session.cache_bytes == one
    with pytest.raises(ValueError, match="step 0 is not cached"):
        session.edit(edited, step=0)


def test_an_edit_of_an_edit() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    session = SparseSession(network, always_sparse=True)
    session.cache(x, 7)
    first, _ = square(x)
    out = session.edit(first, update=True)
    assert torch.equal(session.edit(first), out)  # the edit is the original now
    second = first.clone()
    second[..., :4, :4] = 0
    again = session.edit(second)
    assert session.choice is not None
    assert session.choice.edit_ratio == 16 / 1024
    assert not torch.equal(again, out)


def test_memory_has_a_limit() -> None:
    session = SparseSession(unconditional(), max_cache_bytes=1000)
    with pytest.raises(ValueError, match="above max_cache_bytes"):
        session.cache(torch.randn(1, 3, 32, 32), 7)
    assert session.cache_bytes == 0


@pytest.mark.parametrize(
    ("edited", "mask", "message"),
    [
        (torch.zeros(1, 3, 32, 16), None, "they must agree"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), None, "they must agree"),
        (torch.full((1, 3, 32, 32), float("nan")), None, "not finite"),
        (torch.zeros(1, 3, 32, 32), torch.zeros(32, 32, dtype=torch.bool), "no pixel"),
        (torch.zeros(1, 3, 32, 32), torch.ones(16, 16, dtype=torch.bool), "as the picture"),
        (torch.zeros(1, 3, 32, 32), torch.ones(32, 32), "as the picture"),
    ],
)
def test_bad_edits_are_refused(edited: Tensor, mask: Tensor | None, message: str) -> None:
    session = SparseSession(unconditional())
    session.cache(torch.randn(1, 3, 32, 32), 7)
    with pytest.raises(ValueError, match=message):
        session.edit(edited, mask)


def test_bad_originals_are_refused() -> None:
    session = SparseSession(unconditional())
    with pytest.raises(ValueError, match="nothing is cached"):
        _ = session.engine
    with pytest.raises(ValueError, match="not cached"):
        session.edit(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="not finite"):
        session.cache(torch.full((1, 3, 32, 32), float("inf")), 7)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        session.cache(torch.zeros(3, 32, 32), 7)
    with pytest.raises(ValueError, match="training mode"):
        SparseSession(unconditional().train()).cache(torch.zeros(1, 3, 32, 32), 7)


class Unrecordable(nn.Module):
    """A network that the engine cannot follow: it looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if float(x.mean()) > 0 else -self.conv(x)


def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    network, x = Unrecordable().eval(), torch.rand(1, 3, 16, 16)
    session = SparseSession(network)
    with torch.no_grad():
        assert torch.equal(session.cache(x), network(x))
        edited, _ = square(x)
        assert torch.equal(session.edit(edited), network(edited))
        assert torch.equal(session.edit(-x), network(-x))
    assert session.refusal is not None
    assert session.choice is not None
    assert session.choice.way == "dense"
    out = session.edit(edited, update=True)
    assert torch.equal(session.edit(edited), out)
    assert session.choice.way == "cached"


class Alternating(nn.Module):
    """A network whose recorded calls are not what it does the next time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.silu(self.conv(x)) * (1.0 if self.calls != 3 else 5.0)  # the third call is the recording


def test_an_engine_that_differs_from_the_network_is_not_trusted() -> None:
    network, x = Alternating().eval(), torch.rand(1, 3, 16, 16)
    session = SparseSession(network)
    with torch.no_grad():
        expected = F.silu(network.conv(x))
        assert torch.allclose(session.cache(x), expected)
        assert session.refusal is not None
        assert "differs" in session.refusal
        edited, _ = square(x)
        assert torch.allclose(session.edit(edited), F.silu(network.conv(edited)))


def test_the_quicker_way_is_taken_and_told() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    session = SparseSession(network)
    session.cache(x, 7)
    edited, _ = square(x)
    session.always_sparse = True
    session.edit(edited)
    session.edit(edited)  # the first laid out weights, and was not timed
    session.always_sparse = False
    session._measured = dict.fromkeys(session._measured, 1.0)
    session._dense_seconds = 1e-9
    with torch.no_grad():
        target = network(edited, 7).sample
    assert torch.allclose(session.edit(edited), target, atol=1e-4)
    assert session.choice is not None
    assert session.choice.way == "dense"
    assert "expected on tiles" in session.choice.why
    session._dense_seconds = session._full_seconds = 1e9
    session.edit(edited)
    assert session.choice.way == "sparse"


def test_another_policy_and_another_size() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    session = SparseSession(network, everywhere(), always_sparse=True)
    session.cache(x, 7)
    edited, _ = square(x)
    with torch.no_grad():
        assert torch.allclose(session.edit(edited), network(edited, 7).sample, atol=1e-4)
    session = SparseSession(network, always_sparse=True)
    session.cache(x, 7)
    session.cache(torch.randn(1, 3, 48, 40), 7)  # another size: what was cached before is gone
    with pytest.raises(ValueError, match="they must agree"):
        session.edit(edited)


class TwoGivens(nn.Module):
    """Adds and multiplies by what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return self.conv(x) * a + b


def test_the_order_of_keywords_does_not_matter() -> None:
    network, x = TwoGivens().eval(), torch.rand(1, 3, 16, 16)
    session = SparseSession(network)
    a, b = torch.full((1, 3, 1, 1), 2.0), torch.full((1, 3, 1, 1), 50.0)
    assert torch.allclose(session.cache(x, a=a, b=b), session.cache(x, b=b, a=a, step=1))


def test_changed_weights_are_seen() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    session = SparseSession(network, always_sparse=True)
    session.cache(x, 7)
    edited, _ = square(x)
    network.load_state_dict(unconditional().state_dict())
    with pytest.raises(ValueError, match="weights were changed"):
        session.edit(edited)
    with torch.no_grad():
        assert torch.allclose(session.cache(x, 7), network(x, 7).sample, atol=1e-4)
    network.train()
    with pytest.raises(ValueError, match="training mode"):
        session.cache(x, 7)


def test_inference_mode() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        session = SparseSession(network, always_sparse=True)
        session.cache(x, 7)
        session.edit(square(x)[0])
    assert session.refusal is None
    assert session.choice is not None
    assert session.choice.way == "sparse"


def test_a_mask_of_the_text_and_odd_sizes() -> None:
    network, x = stable_diffusion(), torch.randn(2, 4, 33, 35)
    kwargs = {**conditions(2, False), "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}
    session = SparseSession(network, always_sparse=True)
    session.cache(x, 7, **kwargs)
    assert session.refusal is None
    edited, mask = square(x)
    with torch.no_grad():
        target = network(edited, 7, **kwargs).sample
        before = network(x, 7, **kwargs).sample
    out = session.edit(edited)
    assert (out - target)[..., mask].abs().mean() < 0.35 * (before - target)[..., mask].abs().mean()


class Moving(nn.Module):
    """Two convolutions between which pixels are put elsewhere, and back."""

    def __init__(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.there, self.back = there, back

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.b(self.there(self.a(x))))


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (lambda x: x.flip(3), lambda x: x.flip(3)),
        (lambda x: torch.roll(x, 8, 2), lambda x: torch.roll(x, -8, 2)),
        (lambda x: x.transpose(2, 3), lambda x: x.transpose(2, 3)),
        (lambda x: x.permute(0, 1, 3, 2), lambda x: x.permute(0, 1, 3, 2)),
        (lambda x: F.pad(x, (3, 3, 3, 3), "reflect"), lambda x: x[:, :, 3:-3, 3:-3]),
    ],
    ids=["flip", "roll", "transpose", "permute", "reflect"],
)
def test_pixels_that_move_are_followed(there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
    network, x = Moving(there, back).eval(), torch.rand(1, 3, 32, 32)
    session = SparseSession(network, always_sparse=True)
    session.cache(x)
    edited = x.clone()
    edited[..., 2:8, 4:9] = 0
    with torch.no_grad():
        assert torch.allclose(session.edit(edited), network(edited), atol=1e-5)


class Tokens(nn.Module):
    """A transformer's arithmetic with what is easily overlooked."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv_in, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.linear, self.across = nn.Linear(8, 8), nn.Linear(16, 16)
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        tokens = h.flatten(2).transpose(1, 2)
        heads = tokens[:, None] if self.kind == "other" else tokens.view(len(x), -1, 2, 4).transpose(1, 2)
        causal = self.kind == "causal"
        mixed = F.scaled_dot_product_attention(heads, heads, heads, is_causal=causal)
        y = mixed.transpose(1, 2).reshape(len(x), -1, 8)
        y = torch.add(tokens, self.linear(y), alpha=5.0) if self.kind == "alpha" else tokens + self.linear(y)
        z = y.transpose(1, 2).reshape(h.shape)
        if self.kind == "across":
            z = self.across(z)
        if self.kind == "gate":
            z = z * torch.sigmoid(self.gate(z.mean((2, 3))))[:, :, None, None]
        if self.kind == "whole norm":
            z = F.layer_norm(z, z.shape[1:])
        return self.out(z)


@pytest.mark.parametrize("kind", ["plain", "alpha", "causal", "across", "gate", "whole norm"])
def test_what_is_not_done_token_by_token_is_done_on_all(kind: str) -> None:
    network, x = Tokens(kind).eval(), torch.rand(1, 3, 16, 16)
    session = SparseSession(network, always_sparse=True)
    session.cache(x)
    edited, mask = square(x, 4)
    with torch.no_grad():
        before, target = network(x), network(edited)
    error = (session.edit(edited) - target)[..., mask].abs()
    # What mixes tokens after the transformer reads those that the edit does not touch from the original.
    if kind in ("across", "gate", "whole norm"):
        assert error.mean() < 0.1 * (before - target)[..., mask].abs().mean()
    else:
        assert error.max() < 1e-4


def test_an_update_keeps_what_the_mask_leaves_out() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    session = SparseSession(network, always_sparse=True)
    session.cache(x, 7)
    edited, _ = square(x, 16)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[12:20, 12:20] = True
    session.edit(edited, mask, update=True)
    session.edit(edited)
    assert session.choice is not None
    assert session.choice.way == "sparse"  # most of the edit is not there yet


def test_most_of_a_picture_is_a_picture_of_its_own() -> None:
    network, x = unconditional(), torch.randn(1, 3, 32, 32)
    session = SparseSession(network)
    session.cache(x, 7)
    edited = torch.randn_like(x)
    edited[..., 0, 0] = x[..., 0, 0]
    with torch.no_grad():
        assert torch.allclose(session.edit(edited), network(edited, 7).sample, atol=1e-4)
    assert session.choice is not None
    assert "of its own" in session.choice.why


class Sometimes(nn.Module):
    """A network that looks at values only when it is given a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        return y if condition is None else y * float(condition)


def test_arguments_of_another_kind_start_anew() -> None:
    network, x = Sometimes().eval(), torch.rand(1, 3, 16, 16)
    session = SparseSession(network, always_sparse=True)
    edited, _ = square(x, 4)
    for first, second in ((torch.tensor(2.0), None), (None, torch.tensor(2.0))):
        session.cache(x, first)
        session.cache(x, second, step=1)
        with pytest.raises(ValueError, match="step 0 is not cached"):
            session.edit(edited, step=0)
        with torch.no_grad():
            assert torch.allclose(session.edit(edited, step=1), network(edited, second), atol=1e-5)
        assert (session.refusal is None) == (second is None)
