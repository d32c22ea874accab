"""StyleGAN3 beyond the goldens: counts and names at full size, equivariance, what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gengauge.reference.nets.stylegan2.generator import Generator as StyleGAN2
from gengauge.reference.nets.stylegan3.filters import MOST_TAPS, bands, lowpass
from gengauge.reference.nets.stylegan3.generator import CONFIG_R, CONFIG_T, Generator
from gengauge.reference.nets.stylegan3.layers import modulated_conv2d
from gengauge.reference.nets.stylegan3.states import generator_from, settings_of

NAMES = {
    256: "L0_36_1024 L1_36_1024 L2_36_1024 L3_52_1024 L4_52_1024 L5_84_1024 L6_84_1024 L7_148_1024 L8_148_1024 "
    "L9_148_724 L10_276_512 L11_276_362 L12_276_256 L13_256_256 L14_256_3",
    512: "L0_36_1024 L1_36_1024 L2_52_1024 L3_52_1024 L4_84_1024 L5_84_1024 L6_148_1024 L7_148_967 L8_276_645 "
    "L9_276_431 L10_532_287 L11_532_192 L12_532_128 L13_512_128 L14_512_3",
    1024: "L0_36_1024 L1_36_1024 L2_52_1024 L3_52_1024 L4_84_1024 L5_148_1024 L6_148_1024 L7_276_645 L8_276_406 "
    "L9_532_256 L10_1044_161 L11_1044_102 L12_1044_64 L13_1024_64 L14_1024_3",
}
PARAMETERS = {256: 18_816_387, 512: 16_665_594, 1024: 15_093_151}


def tiny(config: Mapping[str, Any] = CONFIG_R, resolution: int = 16, c_dim: int = 0, **more: Any) -> Generator:
    """A generator of a published configuration with at most 8 channels and its own random weights."""
    torch.manual_seed(0)
    kwargs = {**config, "channel_base": 12 * resolution, "channel_max": 8, **more}
    return Generator(8, c_dim, 12, resolution, 3, synthesis_kwargs=kwargs).eval().requires_grad_(False)


def stirred(network: Generator) -> Generator:
    """With all tensors that start as constants moved, but for the user's transform."""
    for name, value in network.state_dict().items():
        if name.endswith("magnitude_ema"):
            value.uniform_(0.5, 2)
        elif name.endswith(("bias", "w_avg", "input.affine.weight")):
            value.add_(0.1 * torch.randn_like(value))
    return network


def transformed(network: Generator, ws: Tensor, transform: Tensor) -> Tensor:
    own = network.synthesis.input.transform
    before = own.clone()
    own.copy_(transform)
    pictures = network.synthesis(ws)
    own.copy_(before)
    return pictures


@pytest.mark.parametrize("resolution", NAMES)
def test_names_and_counts_of_configuration_r(resolution: int) -> None:
    with torch.device("meta"):
        network = Generator(img_resolution=resolution, synthesis_kwargs=CONFIG_R)
    assert network.synthesis.layer_names == NAMES[resolution].split()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[resolution]
    assert network.num_ws == 16
    names = [name for name, _ in network.synthesis.named_children()]
    assert names == ["input", *NAMES[resolution].split()]
    layer = network.get_submodule("synthesis." + names[1])
    assert [name for name, _ in layer.named_buffers()] == ["magnitude_ema", "up_filter", "down_filter"]
    to_rgb = network.get_submodule("synthesis." + names[-1])
    assert set(to_rgb.state_dict()) == {
        "weight", "bias", "magnitude_ema", "affine.weight", "affine.bias",
    }  # fmt: skip
    shapes = [f.shape for name, f in network.named_buffers() if name.endswith("down_filter")]
    assert [len(shape) for shape in shapes] == [2] * 12 + [1] * 2


def test_configuration_t_has_separable_filters_and_three_by_three_kernels() -> None:
    with torch.device("meta"):
        network = Generator(img_resolution=1024, synthesis_kwargs=CONFIG_T)
    assert sum(parameter.numel() for parameter in network.parameters()) == 22_313_935
    assert all(f.ndim == 1 for name, f in network.named_buffers() if name.endswith("_filter"))
    assert network.state_dict()["synthesis.L0_36_512.weight"].shape == (512, 512, 3, 3)


def test_the_bands_grow_up_to_the_critical_layers() -> None:
    plan = bands(512, 3)
    cutoffs = np.array([band.cutoff for band in plan])
    np.testing.assert_allclose(cutoffs[1:13] / cutoffs[:12], 128 ** (1 / 12))
    assert list(cutoffs[12:]) == [256] * 3
    assert [band.rate for band in plan] == [16, 16, 32, 32, 64, 64, 128, 128, 256, 256] + [512] * 5


def test_filters_pass_what_is_low_and_stop_what_is_high() -> None:
    """Of sum 1; radial ones are alike in all directions, in those between the axes as well."""
    rate, cutoff, width = 64, 8.0, 12.0
    separable, radial = lowpass(24, cutoff, width, rate), lowpass(24, cutoff, width, rate, radial=True)
    assert separable is not None
    assert radial is not None
    both = {"separable": separable.outer(separable), "radial": radial}
    places = (torch.arange(24) - 11.5) / rate
    for name, f in both.items():
        assert f.sum().item() == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(f, f.flip(0), rtol=0, atol=1e-7)

        def gain(frequency: float, angle: float, f: Tensor = f) -> float:
            across, down = frequency * math.cos(angle), frequency * math.sin(angle)
            wave = torch.cos(2 * math.pi * (across * places[None, :] + down * places[:, None]))
            return (f * wave).sum().item()

        angles = [0, math.pi / 8, math.pi / 4]
        assert all(gain(2, angle) == pytest.approx(1, abs=0.02) for angle in angles)
        assert all(abs(gain(20, angle)) < 0.02 for angle in angles)
        at_cutoff = [gain(cutoff, angle) for angle in angles]
        assert at_cutoff[0] == pytest.approx(0.5, abs=0.08)
        assert (max(at_cutoff) - min(at_cutoff) < 0.01) == (name == "radial")
    assert lowpass(1, cutoff, width, rate) is None
    odd = lowpass(5, cutoff, width, rate, radial=True)
    assert odd is not None
    assert odd.argmax() == 12


def test_a_kernels_length_has_no_effect() -> None:
    """Row by row, as its length is normalised; nor has that of the styles."""
    generator = torch.Generator().manual_seed(0)
    x, styles = torch.randn(3, 4, 6, 6, generator=generator), torch.rand(3, 4, generator=generator) + 0.5
    for size in (1, 3):
        weight = torch.randn(5, 4, size, size, generator=generator)
        found = modulated_conv2d(x, weight, styles)
        assert found.shape[2:] == (6 + size - 1,) * 2
        scaled = modulated_conv2d(x, weight * torch.tensor([1e-3, 1, 5, 40, 1e4]).view(5, 1, 1, 1), 7 * styles)
        torch.testing.assert_close(found, scaled, rtol=1e-5, atol=1e-5)
        # Each picture by a kernel of its own, as the equation says.
        for picture, style, value in zip(x, styles, found, strict=True):
            kernel = weight * style.view(1, 4, 1, 1)
            kernel = kernel / kernel.square().sum((1, 2, 3), keepdim=True).sqrt()
            wanted = torch.nn.functional.conv2d(picture[None], kernel, padding=size - 1)[0]
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
        plain = modulated_conv2d(x, weight, styles, torch.tensor(2.0), demodulate=False)
        wanted = torch.nn.functional.conv2d(x * 2 * styles[:, :, None, None], weight, padding=size - 1)
        torch.testing.assert_close(plain, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("config", "turns"), [(CONFIG_R, True), (CONFIG_T, False)])
def test_what_turns_with_the_transform(config: Mapping[str, Any], turns: bool) -> None:
    """A quarter turn of the input turns the pictures of configuration R, to rounding, and not those of T."""
    network = tiny(config, 32)
    ws = network.mapping(torch.randn(2, 8))
    base = network.synthesis(ws)
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    error = (transformed(network, ws, turn) - base.rot90(1, (2, 3))).square().mean().sqrt() / base.std()
    assert (error < 1e-3) == turns
    assert (base.rot90(1, (2, 3)) - base).square().mean().sqrt() / base.std() > 0.3


@pytest.mark.parametrize("config", [CONFIG_R, CONFIG_T])
def test_what_moves_with_the_transform(config: Mapping[str, Any]) -> None:
    """A shift by whole pixels of the coarsest map shifts the pictures of both, but for their borders."""
    network = tiny(config, 32)
    ws = network.mapping(torch.randn(2, 8))
    base = network.synthesis(ws)
    shift = torch.eye(3)
    shift[0, 2] = 2 / 16  # sides; two pixels of the coarsest map, four of the picture
    moved = transformed(network, ws, shift)
    error = (moved[..., 8:-8, 8:-8] - base.roll(-4, 3)[..., 8:-8, 8:-8]).square().mean().sqrt() / base.std()
    assert error < 5e-3
    assert (moved - base)[..., 8:-8, 8:-8].square().mean().sqrt() / base.std() > 0.1


def test_frequencies_beyond_the_band_fade() -> None:
    """An input shrunk so far that all its waves lie above the Nyquist rate is empty."""
    network = tiny()
    w = torch.randn(2, 12)
    assert network.synthesis.input(w).abs().max() > 0.1
    network.synthesis.input.transform.copy_(torch.diag(torch.tensor([1e4, 1e4, 1.0])))
    assert not network.synthesis.input(w).any()


def test_noise_arguments_are_stylegan2s_and_change_nothing() -> None:
    network = tiny()
    ws = network.mapping(torch.randn(2, 8))
    wanted = network.synthesis(ws)
    for mode in ("random", "const", "none"):
        assert torch.equal(network.synthesis(ws, noise_mode=mode), wanted)
    noise = {"b4.conv1": torch.randn(2, 1, 4, 4)}
    assert torch.equal(network.synthesis(ws, "random", noise, torch.Generator()), wanted)


def test_a_weight_that_another_module_provides_is_used() -> None:
    """By functional_call and by a parametrisation, with a gradient; a hook gets the feature."""
    network = tiny()
    ws = network.mapping(torch.randn(2, 8))
    name = network.synthesis.layer_names[8]
    layer = network.synthesis.get_submodule(name)
    features: list[Tensor] = []
    layer.register_forward_hook(lambda *given: features.append(given[2]))
    base = network.synthesis(ws)
    other = torch.randn(8, 8, 1, 1, requires_grad=True)
    found = torch.func.functional_call(network.synthesis, {f"{name}.weight": other}, (ws,))
    assert not torch.equal(found, base)
    assert not torch.equal(features[0], features[1])
    assert features[0].shape == (2, 8, int(name.split("_")[1]), int(name.split("_")[1]))
    (gradient,) = torch.autograd.grad(found.square().mean(), other)
    assert gradient.abs().max() > 0

    class Replaced(torch.nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return other.detach().expand_as(weight)

    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Replaced())
    assert torch.equal(network.synthesis(ws), found.detach())


def test_running_means_move_on_demand_in_training_only() -> None:
    network = stirred(tiny())
    z = torch.randn(4, 8)

    def state() -> dict[str, Tensor]:
        return {name: value.clone() for name, value in network.state_dict().items()}

    before = state()
    network(z, update_emas=True)
    network.train()
    network(z)
    assert all(torch.equal(value, before[name]) for name, value in state().items())
    ws = network.mapping(z)
    network(z, update_emas=True)
    moved = {name for name, value in state().items() if not torch.equal(value, before[name])}
    assert moved == {"mapping.w_avg", *(n for n in before if n.endswith("magnitude_ema"))}
    torch.testing.assert_close(network.mapping.w_avg, before["mapping.w_avg"] * 0.998 + ws[:, 0].mean(0) * 0.002)
    first = f"synthesis.{network.synthesis.layer_names[0]}.magnitude_ema"
    mean = network.synthesis.input(ws[:, 0]).square().mean()
    torch.testing.assert_close(state()[first], before[first] * 0.999 + mean * 0.001)


def test_labels_and_truncation() -> None:
    network = stirred(tiny(c_dim=3))
    z, c = torch.randn(2, 8), torch.eye(3)[:2]
    ws = network.mapping(z, c)
    assert ws.shape == (2, 16, 12)
    assert not torch.equal(ws, network.mapping(z, c.flip(0)))
    torch.testing.assert_close(network.mapping(3 * z, c), ws, rtol=1e-5, atol=1e-6)  # z is normalised
    half = network.mapping(z, c, truncation_psi=0.5, truncation_cutoff=4)
    torch.testing.assert_close(half[:, :4], (ws[:, :4] + network.mapping.w_avg) / 2)
    assert torch.equal(half[:, 4:], ws[:, 4:])
    assert network(z, c).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("config", [CONFIG_R, CONFIG_T])
@pytest.mark.parametrize("more", [{}, {"num_layers": 9}, {"margin_size": 6}, {"channel_max": 5}, {"channel_base": 444}])
def test_a_generator_is_known_by_its_state_dict(config: Mapping[str, Any], more: dict[str, Any], c_dim: int) -> None:
    network = stirred(tiny(config, 32, c_dim, **more))
    state = network.state_dict()
    other = Generator(**settings_of(state))
    other.load_state_dict(state)
    z, c = torch.randn(2, 8), torch.eye(3)[:2] if c_dim else None
    assert torch.equal(other(z, c), network(z, c))


@pytest.mark.parametrize("resolution", [256, 512, 1024])
@pytest.mark.parametrize("config", [CONFIG_R, CONFIG_T])
def test_published_widths_are_found(config: Mapping[str, Any], resolution: int) -> None:
    with torch.device("meta"):
        network = Generator(img_resolution=resolution, synthesis_kwargs=config)
    found = settings_of(network.state_dict())["synthesis_kwargs"]
    assert {name: found[name] for name in config} == dict(config)


ARGUMENTS: dict[str, Any] = {
    "z_dim": 8, "c_dim": 0, "w_dim": 12, "img_resolution": 16, "img_channels": 3, "mapping_kwargs": {"num_layers": 2},
    **CONFIG_R, "channel_base": 192, "channel_max": 8, "magnitude_ema_beta": 0.9,
}  # fmt: skip


def test_a_generator_comes_from_stored_arguments_and_tensors() -> None:
    network = stirred(tiny())
    state = network.state_dict()
    own = {name: value for name, value in ARGUMENTS.items() if name not in CONFIG_R}
    nested = {**own, "synthesis_kwargs": {name: ARGUMENTS[name] for name in CONFIG_R}}
    z = torch.randn(2, 8)
    for arguments in (ARGUMENTS, nested):
        found = generator_from(arguments, state)
        assert torch.equal(found(z), network(z))
        assert not found.training
        assert all(parameter.requires_grad for parameter in found.parameters())
        assert found.get_submodule("synthesis.L3_36_8").magnitude_ema_beta == 0.9
    halves = {name: value.half() for name, value in state.items()}
    assert all(value.dtype == torch.float32 for value in generator_from(ARGUMENTS, halves).state_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w_dim": 10**12}, r"w_dim is 1000000000000 by the arguments and 12 by the tensors"),
        ({"img_resolution": 32}, "img_resolution is 32 by the arguments and 16"),
        ({"num_layers": 10**9}, "num_layers is 1000000000 by the arguments and 14"),
        ({"mapping_kwargs": {"num_layers": 10**9}}, "mapping's num_layers is 1000000000"),
        ({"mapping_kwargs": [1]}, r"mapping_kwargs are named values, not \[1\]"),
        ({"filter_size": 10**9}, f"a filter has 1 to {MOST_TAPS} taps"),
        ({"channel_max": 10**9}, "arguments and tensors differ"),
        ({"channel_base": float("nan")}, "cannot convert float NaN"),
        ({"margin_size": 10**30}, "are no StyleGAN3 generator's|arguments and tensors differ"),
        ({"colour": "red"}, "are no StyleGAN3 generator's"),
        ({"use_radial_filters": False}, "arguments and tensors differ"),
    ],
)
def test_arguments_that_do_not_fit_the_tensors_are_named(change: dict[str, Any], message: str) -> None:
    state = tiny().state_dict()
    with pytest.raises(ValueError, match=message):
        generator_from({**ARGUMENTS, **change}, state)


def test_tensors_of_another_network_are_refused() -> None:
    state = tiny().state_dict()
    other = StyleGAN2(8, 0, 8, 16, synthesis_kwargs={"channel_base": 64, "channel_max": 4}).state_dict()
    without = {name: value for name, value in state.items() if not name.startswith("synthesis.input")}
    for wrong in (other, {}, without, {**state, "mapping.fc0.weight": torch.zeros(())}):
        with pytest.raises(ValueError, match="are no StyleGAN3 generator's"):
            settings_of(wrong)
    renamed = {name.replace("L9_36_8", "L9_36_300"): value for name, value in state.items()}
    with pytest.raises(ValueError, match="no channel_base gives layers of"):
        settings_of(renamed)
    for name in ("synthesis.L4_36_8.bias", "synthesis.input.phases"):
        with pytest.raises(ValueError, match="arguments and tensors differ"):
            generator_from(ARGUMENTS, {key: value for key, value in state.items() if key != name})


def test_bad_input_is_told() -> None:
    network = tiny()
    bad: list[tuple[str, Any]] = [
        (r"ws must be \(N, 16, 12\)", lambda: network.synthesis(torch.randn(2, 14, 12))),
        (r"z must be \(N, 8\)", lambda: network.mapping(torch.randn(2, 9))),
        ("pictures of 16, 32", lambda: bands(24, 3)),
        ("pictures of 16, 32", lambda: bands(8, 3)),
        ("leaves no channels", lambda: bands(64, 3, channel_base=16)),
        ("fewer are critical", lambda: bands(64, 3, num_layers=2)),
        ("a filter has 1 to", lambda: lowpass(0, 1, 1, 16)),
    ]
    for message, call in bad:
        with pytest.raises(ValueError, match=message):
            call()
