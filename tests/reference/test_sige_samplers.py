"""SIGE's samplers beyond the goldens: pairs, what is held, draws, callbacks, exact solutions, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gengauge.reference.sige import samplers
from gengauge.reference.sige.samplers import Edit, Step, linear_betas, uniform_times

BETAS = linear_betas()
Sampler = Callable[..., Tensor]


def eps_net(x: Tensor, t: Tensor) -> Tensor:
    return 0.5 * torch.tanh(x) + 0.1 * torch.sin(t).view(-1, 1, 1, 1)


def two_nets(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([torch.tanh(x), eps_net(x, t)], 1)


def run(name: str, x: Tensor, edit: Edit | None = None, network: object = None, **options: object) -> Tensor:
    """A sampler by name with few steps; noises come from a generator of seed 0 unless they are given."""
    if name == "distilled":
        return samplers.sample_distilled(network or two_nets, x, range(5), 8, edit, **options)  # type: ignore[arg-type]
    sampler: Sampler = getattr(samplers, f"sample_{name}")
    if name != "dpm_solver" and "noises" not in options:
        options = {"generator": torch.Generator().manual_seed(0), **options}
    return sampler(network or eps_net, x, uniform_times(500, 5), BETAS, edit, **options)


def an_edit(size: int = 8) -> Edit:
    generator = torch.Generator().manual_seed(1)
    original, noise = torch.randn(2, 1, 3, size, size, generator=generator).tanh()
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[2:5, 1:6] = True
    return Edit(original, noise, mask)


def start(count: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2))


NAMES = ["ddim", "ddpm", "dpm_solver", "distilled"]


@pytest.mark.parametrize("name", NAMES)
def test_outside_of_the_mask_the_original_comes_back(name: str) -> None:
    edit = an_edit()
    out = run(name, start(), edit)
    # The cosine schedule of distilled networks ends at a log signal-to-noise ratio of 20, not at no noise.
    tolerance = 1e-4 if name == "distilled" else 0
    assert (out - edit.original)[..., ~edit.mask].abs().max() <= tolerance
    assert (out - edit.original)[..., edit.mask].abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_holds_its_original_and_edits_as_the_edit_alone(name: str) -> None:
    edit, x = an_edit(), start()
    seen: list[tuple[int, ...]] = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen.append((*x.shape[:1], *t.shape))
        return (two_nets if name == "distilled" else eps_net)(x, t)

    noises = torch.randn(5, 2, 3, 8, 8)
    draws = {"noises": noises} if name in ("ddim", "ddpm") else {}
    alone = {"noises": noises[:, 1:]} if draws else {}
    pair = run(name, torch.cat([edit.original, x]), edit, samplers.paired(watched, watched), **draws)
    assert set(seen) == {(1, 1)}
    assert len(seen) == 10
    assert torch.allclose(pair[1:], run(name, x, edit, **alone), atol=1e-6)
    assert torch.allclose(pair[:1], edit.original, atol=1e-4 if name == "distilled" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_callback_sees_every_step(name: str) -> None:
    steps: list[Step] = []
    out = run(name, start(), an_edit(), callback=steps.append)
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert [step.t for step in steps] == ([4, 3, 2, 1, 0] if name == "distilled" else [400, 300, 200, 100, 0])
    assert torch.equal(steps[-1].x, out)
    assert all(step.clean.shape == out.shape for step in steps)


@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_not_changed_and_nothing_is_held_without_an_edit(name: str) -> None:
    x = start()
    before = x.clone()
    free, held = run(name, x), run(name, x, an_edit())
    assert torch.equal(x, before)
    assert not torch.equal(free, held)
    assert not free.requires_grad


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_generator_draws_once_a_step_also_where_the_draw_is_not_used(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    out = run(name, start(), generator=generator)
    again = torch.Generator().manual_seed(3)
    noises = [torch.randn(1, 3, 8, 8, generator=again) for _ in range(5)]
    assert torch.equal(out, run(name, start(), noises=noises))
    assert torch.equal(generator.get_state(), again.get_state())


def test_ddim_with_eta_1_takes_its_noise() -> None:
    noises = torch.randn(5, 1, 3, 8, 8)
    with_noise = run("ddim", start(), noises=noises, eta=1.0)
    assert not torch.allclose(with_noise, run("ddim", start(), noises=2 * noises, eta=1.0))
    assert torch.equal(run("ddim", start(), noises=noises), run("ddim", start(), noises=2 * noises))


@pytest.mark.parametrize("options", [{"name": "ddim"}, {"name": "dpm_solver", "aligned": True}])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_network_that_knows_the_noise_gives_the_picture_back(options: dict[str, object], steps: int) -> None:
    edit = an_edit()
    times = uniform_times(500, steps)
    x = samplers.diffuse(edit.original, times[-1], edit.noise, BETAS)
    sampler = samplers.sample_ddim if options["name"] == "ddim" else samplers.sample_dpm_solver
    chosen = {key: value for key, value in options.items() if key != "name"}
    out = sampler(lambda x, t: edit.noise, x, times, BETAS, **chosen)  # type: ignore[operator]
    assert torch.allclose(out, edit.original, atol=1e-5)


def test_the_published_solver_ends_at_the_noise_of_time_0() -> None:
    edit, times = an_edit(), uniform_times(500, 5)
    x = samplers.diffuse(edit.original, times[-1], edit.noise, BETAS)
    out = samplers.sample_dpm_solver(lambda x, t: edit.noise, x, times, BETAS)
    # Its levels are one time late, so that it takes the last picture for noisier than it is.
    assert 1e-3 < (out - edit.original).abs().max() < 0.1


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_the_solver_takes_any_number_of_steps(aligned: bool, steps: int) -> None:
    out = samplers.sample_dpm_solver(eps_net, start(), uniform_times(500, steps), BETAS, aligned=aligned)
    assert torch.isfinite(out).all()


def test_the_solver_is_of_second_order() -> None:
    """Of normal pictures the noise and the whole way back are known: x shrinks as its standard deviation does."""
    variance = 0.25
    kept = torch.cat([torch.ones(1), (1 - BETAS).cumprod(0)])

    def deviation(t: int) -> Tensor:
        return (kept[t + 1] * variance + 1 - kept[t + 1]).sqrt()

    def network(x: Tensor, t: Tensor) -> Tensor:
        time = int(t[0])
        return (1 - kept[time + 1]).sqrt() * x / deviation(time) ** 2

    x = start()
    exact = x * deviation(-1) / deviation(480)
    errors = {
        name: [(sampler(x, list(range(0, 481, skip))) - exact).abs().max().item() for skip in (30, 15)]
        for name, sampler in (
            ("ddim", lambda x, times: samplers.sample_ddim(network, x, times, BETAS)),
            ("solver", lambda x, times: samplers.sample_dpm_solver(network, x, times, BETAS, aligned=True)),
        )
    }
    assert 1.8 < errors["ddim"][0] / errors["ddim"][1] < 2.2
    assert errors["solver"][0] / errors["solver"][1] > 3
    assert errors["solver"][1] < errors["ddim"][1]


def test_schedules() -> None:
    assert uniform_times(500, 50) == list(range(0, 500, 10))
    assert uniform_times(5, 5) == [0, 1, 2, 3, 4]
    assert len(uniform_times(500, 30)) == 32  # the published rule where the steps do not divide the level
    x, noise = torch.randn(2, 1, 3, 4, 4)
    assert torch.equal(samplers.diffuse(x, -1, noise, BETAS), x)
    kept = (1 - BETAS).double().prod()
    assert torch.allclose(samplers.diffuse(x, 999, noise, BETAS), kept.sqrt() * x + (1 - kept).sqrt() * noise)
    assert samplers.cosine_log_snr(0) == pytest.approx(20)
    assert samplers.cosine_log_snr(1) == pytest.approx(-20)
    assert samplers.cosine_log_snr(0.5) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform_times(5, 6), "do not fit"),
        (lambda: uniform_times(5, 0), "do not fit"),
        (lambda: samplers.sample_ddim(eps_net, start(), [], BETAS), "must ascend"),
        (lambda: samplers.sample_ddim(eps_net, start(), [10, 0], BETAS), "must ascend"),
        (lambda: samplers.sample_ddpm(eps_net, start(), [-1, 0], BETAS), "must ascend"),
        (lambda: samplers.sample_ddpm(eps_net, start(), [0, 1000], BETAS), "time 1000 lies outside"),
        (lambda: samplers.sample_distilled(two_nets, start(), [0, 8]), "no place 1.125 outside"),
        (lambda: samplers.sample_ddim(eps_net, start(3), [0], BETAS), "a pair"),
        (lambda: Edit(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)), "original"),
        (lambda: Edit(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.zeros(8, 8)), "the mask is bool"),
    ],
)
def test_wrong_use_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
