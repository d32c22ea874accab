"""SDEdit's samplers beyond the goldens: options, masks, draws, repeats, levels, known distributions, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from gengauge.reference.sdedit.editing import (
    PAPER,
    PUBLISHED,
    Behaviour,
    Step,
    edit,
    edit_ve,
    from_learned_variance,
    from_noise,
    from_score,
    in_type,
    paste,
)
from gengauge.reference.sdedit.exact import ExactDenoiser
from gengauge.reference.sdedit.schedule import DDPM, FACES, Levels, VESchedule, VPSchedule, continuous_levels

LEVELS = DDPM.levels(0.5, 6)
SHAPE = (2, 3, 4, 5)
Run = Callable[..., Tensor]


def eps_net(x: Tensor, t: Tensor) -> Tensor:
    """Made up: no two times have the same result, and a pixel sees all of its channel, also where that is kept."""
    return 0.5 * torch.tanh(x + x.mean((2, 3), keepdim=True)) + 0.1 * torch.sin(t).view(-1, 1, 1, 1)


def score_net(x: Tensor, sigma: Tensor) -> Tensor:
    return -eps_net(x, sigma) / sigma.view(-1, 1, 1, 1)


def vp(guide: Tensor, editable: Tensor | None = None, behaviour: Behaviour = PUBLISHED, **options: object) -> Tensor:
    reverse = from_noise(eps_net, LEVELS, behaviour)
    return edit(reverse, guide, LEVELS, editable, behaviour=behaviour, **options)  # type: ignore[arg-type]


def ve(guide: Tensor, editable: Tensor | None = None, **options: object) -> Tensor:
    return edit_ve(score_net, guide, FACES, editable, t0=0.4, steps=len(LEVELS), **options)  # type: ignore[arg-type]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> list[Tensor]:
    generator = seeded(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.fixture
def guide() -> Tensor:
    return torch.rand(SHAPE, generator=seeded(2))


@pytest.fixture
def mask() -> Tensor:
    """Bool (H, W), True in a corner."""
    mask = torch.zeros(SHAPE[2:], dtype=torch.bool)
    mask[:2, :3] = True
    return mask


both = pytest.mark.parametrize("run", [vp, ve], ids=["vp", "ve"])

# ----------------------------------------------------------------------------------------------------------------------
# Where code and paper differ


def test_a_steps_variance_is_the_posteriors_or_beta(guide: Tensor) -> None:
    small, large = (from_noise(eps_net, LEVELS, behaviour) for behaviour in (PUBLISHED, PAPER))
    for i in range(len(LEVELS)):
        (mean, deviation), (same, larger) = small(guide, i), large(guide, i)
        assert torch.equal(mean, same)
        assert larger == pytest.approx(math.sqrt(LEVELS.betas[i]))
        assert deviation == pytest.approx(math.sqrt(LEVELS.small[i]) if i else 1e-10)
        assert deviation < larger


@pytest.mark.parametrize("kept", ["once", "fresh"])
def test_kept_pixels_have_one_noise_or_that_of_the_step(guide: Tensor, kept: str) -> None:
    noises, seen = drawn(7), []
    behaviour = replace(PUBLISHED, kept_noise=kept)  # type: ignore[arg-type]
    nowhere = torch.zeros(SHAPE[2:], dtype=torch.bool)
    vp(guide, nowhere, behaviour, noises=noises, callback=lambda step: seen.append(step.x))
    for x, i, own in zip(seen, reversed(range(len(LEVELS))), noises[1:], strict=True):
        noise = noises[0] if kept == "once" else own
        assert torch.allclose(x, LEVELS.abar[i].sqrt() * guide + (1 - LEVELS.abar[i]).sqrt() * noise, atol=1e-6)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_last_noise_is_left_out_or_added(guide: Tensor, variance: str) -> None:
    noises = drawn(7)
    published, paper = (Behaviour(variance, last_noise=last) for last in (False, True))  # type: ignore[arg-type]
    without, with_noise = vp(guide, None, published, noises=noises), vp(guide, None, paper, noises=noises)
    deviation = math.sqrt(LEVELS.betas[0]) if variance == "large" else 1e-10
    assert torch.allclose(with_noise, without + deviation * noises[-1], atol=1e-6)
    assert torch.equal(without, vp(guide, None, published, noises=[*noises[:-1], 9 * noises[-1]]))


def test_the_whole_of_both_behaviours_differs(guide: Tensor, mask: Tensor) -> None:
    assert Behaviour("small", "once", last_noise=False, clamp=False) == PUBLISHED
    noises = drawn(7)
    ours, theirs = vp(guide, mask, PUBLISHED, noises=noises), vp(guide, mask, PAPER, noises=noises)
    assert ((ours - theirs).abs() > 1e-3).float().mean() > 0.9


@pytest.mark.parametrize("clamp", [False, True])
def test_a_cut_of_the_clean_picture_is_that_of_the_posteriors_mean(clamp: bool) -> None:
    """The same mean in its other form: from the clean picture instead of the noise."""
    x = 3 * drawn(1)[0]
    ours = from_noise(eps_net, LEVELS, Behaviour(clamp=clamp))
    other = from_learned_variance(lambda x, t: torch.cat([eps_net(x, t), torch.zeros_like(x)], 1), LEVELS, clamp=clamp)
    for i in range(len(LEVELS)):
        mean, _ = ours(x, i)
        assert torch.allclose(mean, other(x, i)[0], atol=1e-5)
    assert (ours(x, 0)[0].abs().max() <= 1 + 1e-6) == clamp  # the last step's mean is the clean picture


def test_a_learned_variance_lies_between_the_two(guide: Tensor) -> None:
    for share, expected in ((-1.0, LEVELS.small), (1.0, LEVELS.betas)):
        reverse = from_learned_variance(
            lambda x, t, share=share: torch.cat([eps_net(x, t), torch.full_like(x, share)], 1),  # type: ignore[misc]
            LEVELS,
        )
        for i in range(1, len(LEVELS)):
            assert torch.allclose(torch.as_tensor(reverse(guide, i)[1]), expected[i].sqrt().float())
    one = DDPM.levels(0.001)
    assert len(one) == 1
    alone = from_learned_variance(lambda x, t: torch.cat([eps_net(x, t), torch.zeros_like(x)], 1), one)
    assert edit(alone, guide, one, generator=seeded()).isfinite().all()


def test_a_classifier_moves_the_mean_by_variance_times_gradient(guide: Tensor) -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([eps_net(x, t), torch.tanh(x)], 1)

    free = from_learned_variance(network, LEVELS)
    guided = from_learned_variance(network, LEVELS, gradient=lambda x, t: 2 * torch.ones_like(x))
    mean, deviation = free(guide, 3)
    assert torch.allclose(guided(guide, 3)[0], mean + 2 * torch.as_tensor(deviation) ** 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_is_minus_the_noise_over_its_deviation(guide: Tensor, dtype: torch.dtype) -> None:
    levels, x = continuous_levels(0.5, 50), guide.to(dtype)
    told: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        told.append(t)
        index = (levels.times - t[0].double()).abs().argmin()
        return -eps_net(x, 0 * t) / (1 - levels.abar[index]).sqrt().item()

    ours = edit(from_score(score, levels), x, levels, behaviour=PAPER, generator=seeded())
    noise = from_noise(lambda x, t: eps_net(x, 0 * t), levels, PAPER)
    assert torch.allclose(ours, edit(noise, x, levels, behaviour=PAPER, generator=seeded()), atol=1e-5)
    assert torch.allclose(torch.stack(told)[:, 0].double(), levels.times.flip(0))
    assert told[0].dtype == dtype


# ----------------------------------------------------------------------------------------------------------------------
# Masks


@both
def test_no_mask_is_one_that_is_true_everywhere(run: Run, guide: Tensor) -> None:
    free = run(guide, None, repeats=2, generator=seeded())
    assert torch.equal(free, run(guide, torch.ones(SHAPE, dtype=torch.bool), repeats=2, generator=seeded()))


@both
def test_a_mask_of_any_shape_that_fits_means_the_same(run: Run, guide: Tensor, mask: Tensor) -> None:
    first = run(guide, mask, generator=seeded())
    for shape in ((1, *SHAPE[2:]), (1, 1, *SHAPE[2:]), (2, 1, *SHAPE[2:]), SHAPE):
        assert torch.equal(first, run(guide, mask.expand(shape), generator=seeded()))


@both
def test_each_picture_and_channel_can_have_a_mask_of_its_own(run: Run, guide: Tensor) -> None:
    editable = torch.zeros(SHAPE, dtype=torch.bool)
    editable[1, 2] = True
    free, kept = (run(guide, torch.full(SHAPE, flag), generator=seeded()) for flag in (True, False))
    assert torch.equal(run(guide, editable, generator=seeded())[1, 2], free[1, 2])  # this network mixes no channels
    assert torch.equal(run(guide, editable, generator=seeded())[~editable], kept[~editable])


def test_kept_pixels_end_with_the_noise_of_the_first_level_and_can_be_pasted_back(guide: Tensor, mask: Tensor) -> None:
    noises = drawn(14)
    out = vp(guide, mask, repeats=2, noises=noises)
    expected = LEVELS.abar[0].sqrt() * guide + (1 - LEVELS.abar[0]).sqrt() * noises[7]  # the second repeat's
    assert torch.allclose(out[..., ~mask], expected[..., ~mask].float(), atol=1e-6)
    assert (1 - LEVELS.abar[0]).sqrt() == pytest.approx(0.01)
    assert not torch.equal(out[..., ~mask], guide[..., ~mask])
    pasted = paste(guide, out, mask)
    assert torch.equal(pasted[..., ~mask], guide[..., ~mask])
    assert torch.equal(pasted[..., mask], out[..., mask])
    assert torch.equal(paste(guide, out, None), out)


def test_kept_pixels_of_the_exploding_form_end_with_the_noise_of_its_first_step(guide: Tensor, mask: Tensor) -> None:
    noises = drawn(7)
    out, (_, first, *_) = ve(guide, mask, noises=noises), FACES.sigmas(0.4, 6)
    assert torch.allclose(out[..., ~mask], (guide + first * noises[-1])[..., ~mask], atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------------
# Draws, repeats, callbacks


@both
def test_a_generator_draws_in_the_published_order(run: Run, guide: Tensor, mask: Tensor) -> None:
    """For every repeat one for the start, then one a step, also where the last one is not used."""
    generator, again = seeded(3), seeded(3)
    out = run(guide, mask, repeats=2, generator=generator)
    noises = [torch.randn(SHAPE, generator=again) for _ in range(2 * (1 + len(LEVELS)))]
    assert torch.equal(out, run(guide, mask, repeats=2, noises=noises))
    assert torch.equal(generator.get_state(), again.get_state())
    torch.manual_seed(3)
    assert torch.equal(out, run(guide, mask, repeats=2))  # the global generator, where none is given


@both
def test_a_batch_is_its_pictures_one_by_one(run: Run, guide: Tensor, mask: Tensor) -> None:
    noises = drawn(14)
    out = run(guide, mask, repeats=2, noises=noises)
    for i in range(len(guide)):
        alone = run(guide[i : i + 1], mask, repeats=2, noises=[z[i : i + 1] for z in noises])
        assert torch.allclose(out[i : i + 1], alone, atol=1e-6)


@both
@pytest.mark.parametrize("masked", [False, True])
def test_a_repeat_starts_from_the_last_ones_result_in_editable_pixels(
    run: Run, guide: Tensor, mask: Tensor, masked: bool
) -> None:
    editable = mask if masked else None
    noises = drawn(21)
    chained = guide
    for part in (noises[:7], noises[7:14], noises[14:]):
        chained = run(paste(guide, chained, editable), editable, noises=part)
    assert torch.equal(run(guide, editable, repeats=3, noises=noises), chained)
    assert not torch.equal(chained, run(guide, editable, noises=noises))


@both
def test_the_callback_counts_the_steps_of_all_repeats(run: Run, guide: Tensor, mask: Tensor) -> None:
    steps: list[Step] = []
    out = run(guide, mask, repeats=2, generator=seeded(), callback=steps.append)
    assert [(step.number, step.total) for step in steps] == [(n, 12) for n in range(1, 13)]
    assert torch.equal(steps[-1].x, out)


@both
def test_the_guide_is_not_changed_and_nothing_is_recorded_for_gradients(run: Run, guide: Tensor, mask: Tensor) -> None:
    before = guide.clone()
    out = run(guide.requires_grad_(), mask, repeats=2, generator=seeded())
    assert torch.equal(guide, before)
    assert not out.requires_grad


def test_a_network_can_work_in_another_type(guide: Tensor) -> None:
    torch.manual_seed(0)
    network, seen = nn.Conv2d(3, 3, 3, padding=1), []

    def run(net: nn.Module, dtype: torch.dtype) -> Tensor:
        def call(x: Tensor, t: Tensor) -> Tensor:
            seen.append((x.dtype, t.dtype))
            return net(x)

        return edit(from_noise(in_type(call, dtype), LEVELS), guide, LEVELS, generator=seeded())

    exact, near = run(network, torch.float32), run(network.bfloat16(), torch.bfloat16)
    assert seen == [(torch.float32, torch.float32)] * 6 + [(torch.bfloat16, torch.float32)] * 6
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 0.1 * exact.std()


# ----------------------------------------------------------------------------------------------------------------------
# Levels


@pytest.mark.parametrize(("t0", "steps"), [(1.0, 100), (0.5, 12), (0.5, 499), (0.3, 7), (0.01, 2), (0.01, 10)])
def test_levels_by_number_keep_the_noise_of_their_times(t0: float, steps: int) -> None:
    levels, native = DDPM.levels(t0, steps), round(1000 * t0)
    times = levels.times.long()
    assert len(levels) == len(times.unique()) == steps
    assert (times[0], times[-1]) == (0, native - 1)
    assert torch.equal(levels.abar, DDPM.abar64[times])
    assert torch.allclose((1 - levels.betas).cumprod(0), levels.abar, rtol=1e-12)
    assert levels.small[0] == 0


@pytest.mark.parametrize("t0", [0.002, 0.4, 1.0])
def test_as_many_levels_as_there_are_steps_are_the_native_ones(t0: float) -> None:
    native = DDPM.levels(t0)
    asked = DDPM.levels(t0, len(native))
    for name in ("betas", "abar", "small", "times"):
        assert torch.allclose(getattr(asked, name), getattr(native, name), rtol=1e-5, atol=1e-12), name
    assert torch.equal(native.abar, DDPM.abar[: len(native)].double())


def test_one_level_is_the_last() -> None:
    (time,) = DDPM.levels(0.5, 1).times
    assert time == 499


def test_continuous_levels_go_to_t0() -> None:
    levels = continuous_levels(0.5, 100)
    assert levels.times[-1] == pytest.approx(0.5)
    assert levels.betas[-1] == pytest.approx((0.1 + 0.5 * 19.9) * 0.005)
    # exp(-integral of beta): the noise of the continuous process, which many steps reach.
    expected = math.exp(-(0.1 * 0.5 + 19.9 * 0.125))
    assert continuous_levels(0.5, 100_000).abar[-1] == pytest.approx(expected, rel=1e-3)


def test_noise_levels_of_the_exploding_form() -> None:
    schedule = VESchedule(380.0)
    sigmas = schedule.sigmas(1.0, 4)
    assert sigmas[0] == 0
    assert sigmas[-1] == pytest.approx(380)
    assert [b / a for a, b in pairwise(sigmas[1:])] == pytest.approx([38000**0.25] * 3)


# ----------------------------------------------------------------------------------------------------------------------
# Known distributions


@pytest.fixture
def pictures() -> Tensor:
    """Two pictures in [-1, 1], each the other's negative, far from one another."""
    one = torch.rand(1, 3, 4, 4, generator=seeded(5)).mul(1.6).sub(0.8)
    return torch.cat([one, -one])


def whichever(results: Tensor, pictures: Tensor, tolerance: float) -> Tensor:
    """The number of the picture that each result is (N,)."""
    distances = (results[:, None] - pictures).abs().amax((2, 3, 4))
    assert (distances.amin(1) < tolerance).all()
    return distances.argmin(1)


@pytest.mark.parametrize("levels", [DDPM.levels(), DDPM.levels(steps=60)], ids=["native", "respaced"])
@pytest.mark.parametrize("behaviour", [PUBLISHED, Behaviour("large"), Behaviour(clamp=True)], ids=str)
def test_from_pure_noise_the_exact_prior_gives_its_pictures_equally_often(
    pictures: Tensor, levels: Levels, behaviour: Behaviour
) -> None:
    reverse = from_noise(ExactDenoiser(pictures), levels, behaviour)
    nothing = torch.zeros(400, *pictures.shape[1:])
    found = whichever(edit(reverse, nothing, levels, behaviour=behaviour, generator=seeded()), pictures, 1e-3)
    assert abs(int(found.sum()) - 200) < 40  # four standard deviations of 400 fair throws


@pytest.mark.parametrize("t0", [0.001, 0.01, 0.1])
def test_from_near_a_picture_the_exact_prior_gives_this_picture(pictures: Tensor, t0: float) -> None:
    levels = DDPM.levels(t0)
    guides = pictures.repeat_interleave(20, 0) + 0.1 * torch.randn(40, 3, 4, 4, generator=seeded(6))
    found = whichever(
        edit(from_noise(ExactDenoiser(pictures), levels), guides, levels, generator=seeded()), pictures, 1e-3
    )
    assert torch.equal(found, torch.arange(2).repeat_interleave(20))


def test_the_exact_score_and_the_exact_noise_are_one(pictures: Tensor) -> None:
    x, t = 2 * drawn(1, (2, 3, 4, 4))[0], torch.tensor([3, 700])
    exact = ExactDenoiser(pictures)
    deviation = (1 - DDPM.abar64[t]).sqrt().view(-1, 1, 1, 1).float()
    assert torch.allclose(exact.score(x, t), -exact(x, t) / deviation)


@pytest.mark.parametrize(("t0", "spread"), [(1.0, 0.0), (0.2, 1.0)])
def test_the_exploding_form_gives_the_pictures_of_an_exact_score(pictures: Tensor, t0: float, spread: float) -> None:
    """From the middle between two pictures each comes equally often; from near a picture this one comes."""
    pictures = (pictures + 1) / 2
    rows, steps = pictures.flatten(1).double(), 300

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        variance = sigma.double()[:, None] ** 2
        distances = (x.flatten(1).double()[:, None] - rows).square().sum(2)
        clean = torch.softmax(-distances / (2 * variance), 1) @ rows
        return ((clean - x.flatten(1).double()) / variance).view(x.shape).to(x.dtype)

    middle, truth = pictures.mean(0), torch.arange(400) % 2
    guides = middle + spread * (pictures[truth] - middle)
    generator = seeded()
    noises = [torch.randn(guides.shape, generator=generator) for _ in range(steps)]
    out = edit_ve(score, guides, t0=t0, steps=steps, noises=[*noises, torch.zeros(guides.shape)])
    found = whichever(out, pictures, 1e-3)
    if spread:
        assert torch.equal(found, truth)
    else:
        assert abs(int(found.sum()) - 200) < 40


def test_proposition_1_without_a_score() -> None:
    """The way back is then pure noise of variance sigma(t0)^2, which the bound is of."""
    schedule, guide = FACES, torch.zeros(2000, 3, 4, 4)
    sigma = schedule.sigma(0.3)
    bound = schedule.error_bound(0.3, 0.0, 48, delta=0.05)
    assert bound == pytest.approx(sigma**2 * (48 + 2 * math.sqrt(48 * 2.995732) + 2 * 2.995732))
    assert schedule.error_bound(0.3, 2.0, 48, 0.05) == pytest.approx(bound + 2 * sigma**4)
    assert schedule.error_bound(0.3, 0.0, 48) > bound
    noises = [torch.randn(guide.shape, generator=seeded(i)) for i in range(9)]
    out = edit_ve(lambda x, t: torch.zeros_like(x), guide, schedule, t0=0.3, steps=8, noises=noises)
    way_back = (out - sigma * noises[0]).flatten(1).square().sum(1)
    assert way_back.mean() == pytest.approx(48 * sigma**2, rel=0.05)
    assert 0 < (way_back > bound).float().mean() < 0.05
    # The noise at the start comes on top: of the guide itself the bound does not hold.
    assert (out.flatten(1).square().sum(1) > bound).float().mean() > 0.5


# ----------------------------------------------------------------------------------------------------------------------
# Refusals


@both
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.byte(), r"floating point, not torch.uint8"),
        (lambda x: x[0], r"\(N, C, H, W\) floating point, not torch.float32 \(3, 4, 5\)"),
        (lambda x: x.index_fill(3, torch.tensor([2]), math.nan), "no finite numbers"),
        (lambda x: x / 0, "no finite numbers"),
    ],
    ids=["dtype", "shape", "nan", "infinite"],
)
def test_other_guides_are_refused(run: Run, guide: Tensor, spoil: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(spoil(guide))


@both
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(4, 5), "torch.float32; it must be bool"),
        (torch.ones(4, 5, dtype=torch.uint8), "torch.uint8; it must be bool"),
        (torch.ones(5, 4, dtype=torch.bool), r"mask \(5, 4\) does not fit guides of \(2, 3, 4, 5\)"),
        (torch.ones(3, 1, 4, 5, dtype=torch.bool), r"mask \(3, 1, 4, 5\) does not fit"),
        (torch.ones(1, 2, 3, 4, 5, dtype=torch.bool), "does not fit"),
        (torch.ones(5, dtype=torch.bool), "does not fit"),
    ],
    ids=["float", "bytes", "turned", "pictures", "dimensions", "one dimension"],
)
def test_other_masks_are_refused(run: Run, guide: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(guide, mask)


@both
def test_noises_that_do_not_suffice_or_fit_are_refused(run: Run, guide: Tensor) -> None:
    for repeats in (1, 2):
        with pytest.raises(ValueError, match=r"must be \(2, 3, 4, 5\) each.*too few"):
            run(guide, noises=drawn(7 * repeats - 1), repeats=repeats)
    with pytest.raises(ValueError, match=r"got one of \(1, 3, 4, 5\)"):
        run(guide, noises=[z[:1] for z in drawn(7)])


@both
@pytest.mark.parametrize("repeats", [0, -1])
def test_at_least_one_repeat_is_needed(run: Run, guide: Tensor, repeats: int) -> None:
    with pytest.raises(ValueError, match=f"{repeats} repeats; at least one"):
        run(guide, repeats=repeats)


@pytest.mark.parametrize("t0", [0.0, -0.1, 1.001, math.nan])
def test_times_outside_of_the_process_are_refused(guide: Tensor, t0: float) -> None:
    calls: list[Callable[[], object]] = [
        lambda: DDPM.levels(t0),
        lambda: DDPM.levels(t0, 1),
        lambda: continuous_levels(t0, 100),
        lambda: FACES.sigmas(t0, 10),
        lambda: edit_ve(score_net, guide, t0=t0, steps=3),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DDPM.levels(0.0004), r"t0 = 0.0004 lies below the first of 1000 steps; take at least 0.001"),
        (lambda: VPSchedule(10).levels(0.04), "below the first of 10 steps"),
        (lambda: DDPM.levels(0.5, 501), r"there are 500 steps up to t0 = 0.5; 501 were asked for"),
        (lambda: DDPM.levels(0.5, 0), "0 were asked for"),
        (lambda: continuous_levels(0.5, 0), "at least one"),
        (lambda: continuous_levels(1.0, 10), r"10 steps are too few for t0 = 1.0: a step's variance would be 2.00"),
        (lambda: FACES.sigmas(0.5, 0), "at least one"),
        (lambda: edit_ve(score_net, torch.zeros(SHAPE), steps=0), "at least one"),
    ],
)
def test_numbers_of_steps_that_do_not_fit_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_step_made_for_something_else_is_refused() -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x

    guide, levels = torch.zeros(1, 3, 4, 4), DDPM.levels(0.1, 5)
    with pytest.raises(ValueError, match="of 7 other levels"):
        edit(from_noise(network, DDPM.levels(0.1, 7)), guide, levels)
    with pytest.raises(ValueError, match="of 5 other levels"):
        edit(from_noise(network, DDPM.levels(0.2, 5)), guide, levels)
    with pytest.raises(ValueError, match="follows"):
        edit(from_noise(network, levels, PAPER), guide, levels, behaviour=PUBLISHED)
    draws = [torch.full_like(guide, float(k)) for k in range(1, 7)]
    made = [edit(from_noise(network, levels, PAPER), guide, levels, behaviour=b, noises=draws) for b in (None, PAPER)]
    assert torch.equal(*made)  # its own behaviour is followed
    assert not torch.equal(made[0], edit(from_noise(network, levels), guide, levels, noises=draws))


@pytest.mark.parametrize("setting", [{"variance": "big"}, {"kept_noise": "onc"}])
def test_a_behaviour_that_there_is_not_is_refused(setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is one of"):
        Behaviour(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 6])
def test_a_network_of_other_channels_is_refused(channels: int) -> None:
    levels = DDPM.levels(0.1, 2)
    reverse = from_noise(lambda x, t: x[:, :1].expand(-1, channels, -1, -1), levels)
    with pytest.raises(ValueError, match="from_learned_variance"):
        edit(reverse, torch.zeros(1, 3, 4, 4), levels)
