"""CUT, FastCUT, SinCUT and CycleGAN against tensors of the published code; tolerances as in the goldens' MANIFEST."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from goldens import assert_close, files, folder, load, prefixes, under
from PIL import Image
from torch import Tensor, nn

from gengauge.benchmarks.metrics.quantise import to_uint8_truncated
from gengauge.benchmarks.metrics.segmentation import class_accuracy, class_ious, confusion, mean_iou, pixel_accuracy
from gengauge.datasets.unpaired import Choices, Transform, apply, to_tensor
from gengauge.reference.cut import contrastive, cyclegan
from gengauge.reference.cut.losses import ImagePool, LinearSchedule, PoolDraws, gan_loss
from gengauge.reference.cut.patches import PatchSampleF, patch_nce, reshaped
from gengauge.reference.cut.recipes import CUT, CYCLEGAN, FASTCUT, SINCUT
from gengauge.reference.diffaugment.losses import squared_gradient
from gengauge.reference.nets.blurpool import Downsample, Upsample
from gengauge.reference.nets.patchgan import PatchDiscriminator, PixelDiscriminator
from gengauge.reference.nets.stylegan2.layers import FIR, FullyConnectedLayer
from gengauge.reference.nets.stylegan2.ops import setup_filter, upfirdn2d, upsample2d
from gengauge.reference.nets.stylegan2.translation import (
    DemodulatedConv,
    ResBlock,
    StyledConv,
    StyleDiscriminator,
    StyleTranslator,
    tiles,
)
from gengauge.reference.nets.translation_resnet import ResnetGenerator

PAPER = "cut"
NETWORK, GRADIENT = 2e-5, 1e-4  # the second of the largest value
VARIANT, DISCRIMINATOR = 3e-5, 1e-5
PROJECTION = 1e-6
NCE, NCE_GRADIENT, FILL = 1e-5, 1e-6, 1e-6
LOSS, RATE = 1e-6, 1e-12
STYLE, R1, BLOCK = 1e-5, 1e-4, 5e-6  # the second relative
STEP, LATER = 1e-5, 1e-3  # of losses at the first step and after it, relative
PICTURE = 5e-5
FIRST_GRADIENT, PRE_NORM = 2e-4, 1e-3  # the second of the largest gradient of a weight
# After one or two steps, and after more.
WEIGHT, WEIGHTS_LATER, FEW_STEPS = 5e-6, 5e-5, 2
NORM = 1e-4  # relative
BASE_RATE = 2e-4  # of the schedules
READ: set[Path] = set()  # the files that gave a test item


pytestmark = pytest.mark.usefixtures("one_thread")


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[Any]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    READ.update(path for path, _ in found)
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def whole(prefix: str) -> list[Any]:
    """A test item a file of a kind."""
    paths = files(PAPER, prefix)
    READ.update(paths)
    return [pytest.param(path, id=path.stem) for path in paths]


def is_true(text: Any) -> bool:
    """A truth value as metadata and command lines write it."""
    return str(text).lower() in ("true", "1", "yes")


def arguments(metadata: dict[str, str]) -> dict[str, str]:
    """The published command line of a golden: names without dashes to values, "True" for a switch."""
    found: dict[str, str] = {}
    name = ""
    for word in metadata.get("args", "").split():
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0]
            found[name] = word.partition("=")[2] or "True"
        else:
            found[name] = word
    return found | {key: value for key, value in metadata.items() if key in ("netG", "netD", "netF")}


def numbers(text: str) -> tuple[int, ...]:
    """Integers parted by commas."""
    return tuple(int(number) for number in text.split(","))


def blocks(name: str) -> int:
    """The number of blocks that `resnet_9blocks` tells of."""
    return int(name.removeprefix("resnet_").removesuffix("blocks"))


def test_every_golden_file_gives_a_test_item() -> None:
    there = {path for path in folder(PAPER).iterdir() if path.name not in ("MANIFEST.md", "settings.json")}
    unknown = sorted(path.name for path in there - READ)
    assert not unknown, f"no test reads {unknown}"


# ----------------------------------------------------------------------------------------------------------------------
# 01_resnet*, 02_resnet_variants*, 03_discriminators*: the networks of CUT and CycleGAN


@pytest.mark.parametrize("path", whole("01_"))
def test_generator(path: Path) -> None:
    tensors, metadata = load(path)
    network = ResnetGenerator(
        blocks(metadata["netG"]),
        int(metadata["ngf"]),
        norm=metadata["norm"],  # type: ignore[arg-type]
        antialias=not is_true(metadata["no_antialias"]),
        antialias_up=not is_true(metadata["no_antialias_up"]),
    )
    network.load_state_dict(under(tensors, "netG."))
    x = tensors["input"].clone().requires_grad_()
    out = network(x)
    assert_close(out, tensors["output"], NETWORK)
    (out * tensors["probe"]).sum().backward()
    assert x.grad is not None
    assert_close(x.grad, tensors["grad_input"], 0.0, GRADIENT)
    for name, golden in under(tensors, "grad.").items():
        grad = network.get_parameter(name).grad
        assert grad is not None
        assert_close(grad, golden, 0.0, GRADIENT)
    taps = numbers(metadata["nce_layers"])
    assert set(under(tensors, "feat_")) == {str(tap) for tap in taps}
    with torch.no_grad():
        for tap, feature in zip(taps, network.encode(tensors["input"], taps), strict=True):
            assert_close(feature, tensors[f"feat_{tap}"], NETWORK)
    assert network.tap_channels(taps) == [tensors[f"feat_{tap}"].shape[1] for tap in taps]


@pytest.mark.parametrize(("path", "name"), items("02_", lambda tensors: prefixes(tensors, ".IN")))
def test_variants_of_the_generator(path: Path, name: str) -> None:
    tensors, metadata = load(path)
    golden, told = under(tensors, f"{name}."), json.loads(metadata[name])
    network = ResnetGenerator(
        blocks(told["n"]),
        told["ngf"],
        norm=told["norm"],
        dropout=told["drop"],
        antialias=not told["aa"],
        antialias_up=not told["aau"],
    )
    network.load_state_dict(_weights(golden, network))
    network.eval()
    taps = sorted(int(tap) for tap in under(golden, "FEAT_"))
    with torch.no_grad():
        assert_close(network(golden["IN"]), golden["OUT"], VARIANT)
        for tap, feature in zip(taps, network.encode(golden["IN"], taps), strict=True):
            assert_close(feature, golden[f"FEAT_{tap}"], VARIANT)
    assert network.tap_channels(taps) == [golden[f"FEAT_{tap}"].shape[1] for tap in taps]


def _weights(golden: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a golden that are weights, all of which the network must have."""
    state = {name: value for name, value in golden.items() if not name.isupper() and not name.startswith("FEAT_")}
    assert state.keys() == network.state_dict().keys()
    return state


@pytest.mark.parametrize(("path", "name"), items("03_", lambda tensors: prefixes(tensors, ".IN")))
def test_discriminators(path: Path, name: str) -> None:
    tensors, metadata = load(path)
    golden, told = under(tensors, f"{name}."), json.loads(metadata[name])
    norm = told.get("norm", "instance")
    network: nn.Module
    if told["netD"] == "pixel":
        network = PixelDiscriminator(ndf=told["ndf"], norm=norm)
    else:
        layers = told["n"] if told["netD"] == "n_layers" else 3
        network = PatchDiscriminator(ndf=told["ndf"], n_layers=layers, norm=norm, antialias=not told["aa"])
    network.load_state_dict(_weights(golden, network))
    with torch.no_grad():
        assert_close(network(golden["IN"]), golden["OUT"], DISCRIMINATOR)


# ----------------------------------------------------------------------------------------------------------------------
# 04_patchsamplef*, 05_patchnce*: the contrastive loss


def listed(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """The tensors `<prefix>0`, `<prefix>1` ... in order."""
    found = {int(key): value for key, value in under(tensors, prefix).items() if key.isdecimal()}
    return [found[i] for i in sorted(found)]


@pytest.mark.parametrize("path", whole("04_"))
def test_projection_of_sampled_places(path: Path) -> None:
    tensors, metadata = load(path)
    features, places = listed(tensors, "feat_"), listed(tensors, "patch_id_")
    channels = [feature.shape[1] for feature in features]
    network = PatchSampleF(channels, int(metadata["netF_nc"]))
    network.load_state_dict(under(tensors, "netF."))
    plain = PatchSampleF(channels, use_mlp=False)
    with torch.no_grad():
        for kind, found in {
            "out_": network(features, places),
            "nomlp_out_": plain(features, places),
            "nomlp_allpatches_out_": plain(features, None),
        }.items():
            for ours, golden in zip(found, listed(tensors, kind), strict=True):
                assert_close(ours, golden, PROJECTION)
        assert_close(reshaped(features[0]), tensors["reshapeF_out"], PROJECTION)


@pytest.mark.parametrize(("path", "name"), items("05_", lambda tensors: prefixes(tensors, ".q")))
def test_patch_nce(path: Path, name: str) -> None:
    golden = under(load(path)[0], f"{name}.")
    batch, temperature, everything = golden["cfg_batch_T_all"].tolist()
    q, k = (golden[key].clone().requires_grad_() for key in "qk")
    loss = patch_nce(q, k, int(batch), temperature, bool(everything))
    assert_close(loss, golden["loss_per_patch"], NCE)
    loss.mean().backward()
    assert q.grad is not None
    assert k.grad is None
    assert_close(q.grad, golden["grad_q_of_mean"], NCE_GRADIENT)
    without = patch_nce(q, k, int(batch), temperature, bool(everything), fill=-torch.inf)
    assert_close(without, loss.detach(), FILL)


# ----------------------------------------------------------------------------------------------------------------------
# 06_losses*: adversarial losses, schedule, pool, grey levels


@pytest.mark.parametrize(("path", "mode"), items("06_", lambda tensors: prefixes(tensors, ".fake")))
def test_gan_losses(path: Path, mode: str) -> None:
    tensors, _ = load(path)
    for real in (False, True):
        ours = gan_loss(tensors["pred"], real, mode)  # type: ignore[arg-type]
        assert_close(ours, tensors[f"{mode}.{'real' if real else 'fake'}"], LOSS)


@pytest.mark.parametrize(
    ("path", "name"), items("06_", lambda tensors: [key for key in tensors if key.startswith("lr_linear_")])
)
def test_schedules(path: Path, name: str) -> None:
    golden = load(path)[0][name]
    stays, falls, first = name.removeprefix("lr_linear_").replace("from", "").split("_")
    schedule = LinearSchedule(int(stays), int(falls), int(first))
    ours = torch.tensor([BASE_RATE * schedule.factor(i) for i in range(len(golden))], dtype=torch.float64)
    assert_close(ours, golden, RATE)


@pytest.mark.parametrize("path", whole("06_"))
def test_pool_and_grey_levels(path: Path) -> None:
    tensors, _ = load(path)
    # The pool's size is the number of pictures that were taken without a draw.
    size = tensors["pool.inputs"].shape[:2].numel() - len(tensors["pool.uniform"])
    pool = ImagePool(size)
    draws = iter(pool_draws(tensors))
    out = torch.stack([pool.query(fakes, draws=draws) for fakes in tensors["pool.inputs"]])
    assert torch.equal(out, tensors["pool.outputs"])
    assert next(draws, None) is None
    ours = to_uint8_truncated(tensors["tensor2im.in"])[0].permute(1, 2, 0)
    assert torch.equal(ours, tensors["tensor2im.out_hwc_uint8"])


def pool_draws(tensors: dict[str, Tensor]) -> list[PoolDraws]:
    """The draws of pools in the order of the calls."""
    both = zip(tensors["pool.uniform"].tolist(), tensors["pool.index"].tolist(), strict=True)
    return [PoolDraws(uniform, index) for uniform, index in both]


# ----------------------------------------------------------------------------------------------------------------------
# 10_stylegan2_generator*, 11_stylegan2_discriminator*, 12_building_blocks*: the networks of SinCUT


def style_translator(told: dict[str, str]) -> StyleTranslator:
    """The generator that a published command line tells of; SinCUT's defaults for what it does not say."""
    small = told.get("netG") == "smallstylegan2"
    return StyleTranslator(
        int(told.get("ngf", 10)),
        2 if small else 6,
        int(told.get("stylegan2_G_num_downsampling", 1)),
        min(int(told.get("crop_size", 64)), int(told.get("load_size", 1024))),
        inject_noise=not small,
    )


def style_discriminator(told: dict[str, str]) -> StyleDiscriminator:
    """The discriminator that a published command line tells of."""
    size = min(int(told.get("crop_size", 64)), int(told.get("load_size", 1024)))
    return StyleDiscriminator(int(told.get("ndf", 8)), size)


@pytest.mark.parametrize("path", whole("10_"))
def test_style_translator(path: Path) -> None:
    tensors, metadata = load(path)
    network = style_translator(arguments(metadata))
    network.load_state_dict(under(tensors, "netG."))
    taps = sorted(int(tap) for tap in under(tensors, "feat_"))
    with torch.no_grad():
        out = network(tensors["input"], listed(tensors, "noise_"))
        assert_close(out, tensors["output"], STYLE)
        for tap, feature in zip(taps, network.encode(tensors["input"], taps), strict=True):
            assert_close(feature, tensors[f"feat_{tap}"], STYLE)
    assert network.tap_channels(taps) == [tensors[f"feat_{tap}"].shape[1] for tap in taps]


@pytest.mark.parametrize("path", whole("11_"))
def test_style_discriminator_and_r1(path: Path) -> None:
    tensors, metadata = load(path)
    network = style_discriminator(arguments(metadata))
    network.load_state_dict(under(tensors, "netD."))
    x = tensors["input"].clone().requires_grad_()
    scores = network(x)
    assert_close(scores, tensors["output"], STYLE)
    r1 = 0.5 * squared_gradient(scores, x).mean()
    assert_close(r1, tensors["r1_lambda1"], 0.0, R1)
    goldens = under(tensors, "grad_r1_")
    (slope,) = torch.autograd.grad(scores.sum(), x, retain_graph=True)
    assert_close(slope, goldens.pop("input"), 0.0, R1)
    parameters = {name.replace(".", "_"): value for name, value in network.named_parameters()}
    found = torch.autograd.grad(r1, [parameters[name] for name in goldens])
    for ours, golden in zip(found, goldens.values(), strict=True):
        assert_close(ours, golden, 0.0, R1)
    if "tile.input" in tensors:
        with torch.no_grad():
            assert_close(network(tiles(tensors["tile.input"], network.size)), tensors["tile.output"], STYLE)


BLOCKS: dict[str, Callable[[dict[str, Tensor]], nn.Module]] = {
    "resblock": lambda state: ResBlock(
        state["conv1.0.weight"].shape[1],
        next(v for k, v in state.items() if k.startswith("conv2.") and k.endswith(".weight")).shape[0],
        down="conv2.0.kernel" in state,
    ),
    "styledconv": lambda state: StyledConv(
        state["conv.weight"].shape[2], state["conv.weight"].shape[1], up="conv.blur.kernel" in state
    ),
}
LR_MULTIPLIER = 0.01  # of the linear layer
PADDINGS = {"reflect": "reflect", "repl": "replicate", "zero": "constant"}


@pytest.mark.parametrize(
    ("path", "name"), items("12_", lambda tensors: [*prefixes(tensors, ".OUT"), *prefixes(tensors, ".out")])
)
def test_blocks(path: Path, name: str) -> None:
    tensors, _ = load(path)
    golden = under(tensors, f"{name}.")
    given = {key: golden.pop(key) for key in ("x", "OUT", "out", "NOISE") if key in golden}
    out = given.get("OUT", given.get("out"))
    assert out is not None
    x = given.get("x", tensors["x"])
    kind = name.split("_")[0]
    if kind == "equallinear":
        part: nn.Module = FullyConnectedLayer(x.shape[1], out.shape[1], "lrelu", LR_MULTIPLIER)
    elif kind == "modconv":
        part = DemodulatedConv(x.shape[1], out.shape[1], up="up" in name.split("_"))
        golden |= {key: value for key, value in part.state_dict().items() if key == "blur.kernel"}
    else:
        part = BLOCKS[kind](golden)
    part.load_state_dict(golden)
    with torch.no_grad():
        ours = part(x, given["NOISE"]) if "NOISE" in given else part(x)
        assert_close(ours, out, BLOCK)


@pytest.mark.parametrize(
    ("path", "name"),
    items("12_", lambda tensors: [key for key in tensors if key.startswith(("blur", "cut_", "downs", "ups"))]),
)
def test_resampling(path: Path, name: str) -> None:
    tensors, _ = load(path)
    x, golden, f = tensors["x"], tensors[name], setup_filter(FIR)
    channels = x.shape[1]
    words = name.split("_")
    if name.startswith("blur"):
        pad = {"blur_down.conv3_pad": 2, "blur_skip1x1_pad": 1}[name]
        ours = upfirdn2d(x, f, padding=pad)
    elif words[0] == "cut":
        kind = {"downsample": Downsample, "upsample": Upsample}[words[1]]
        ours = kind(channels, int(words[3]), PADDINGS[words[2]])(x)  # type: ignore[arg-type]
    else:
        # An odd side is rounded down there, not filled up as `downsample2d` does.
        ours = upfirdn2d(x, f, down=2, padding=1) if words[0].startswith("down") else upsample2d(x, f)
    assert_close(ours, golden, BLOCK)


# ----------------------------------------------------------------------------------------------------------------------
# 07_cut*, 08_fastcut*, 09_cyclegan*, 13_sincut*: training steps


def resnet_generator(told: dict[str, str]) -> dict[str, Any]:
    """The arguments of the generator that a published command line tells of."""
    return {
        "n_blocks": blocks(told.get("netG", "resnet_9blocks")),
        "ngf": int(told.get("ngf", 64)),
        "norm": told.get("normG", told.get("norm", "instance")),
        "dropout": not is_true(told.get("no_dropout", True)),
        "antialias": not is_true(told.get("no_antialias", False)),
        "antialias_up": not is_true(told.get("no_antialias_up", False)),
    }


def patch_discriminator(told: dict[str, str]) -> dict[str, Any]:
    """The arguments of the discriminator that a published command line tells of."""
    assert told.get("netD", "basic") in ("basic", "n_layers")
    return {
        "ndf": int(told.get("ndf", 64)),
        "n_layers": int(told.get("n_layers_D", 3)) if told.get("netD") == "n_layers" else 3,
        "norm": told.get("normD", told.get("norm", "instance")),
        "antialias": not is_true(told.get("no_antialias", False)),
    }


# The published options that change a recipe: the recipe's name of each, and how its text is read.
NAMED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "nce_idt": ("nce_idt", is_true),
    "lambda_GAN": ("lambda_gan", float),
    "lambda_NCE": ("lambda_nce", float),
    "lambda_R1": ("lambda_r1", float),
    "lambda_identity": ("lambda_identity", float),
    "lambda_A": ("lambda_a", float),
    "lambda_B": ("lambda_b", float),
    "flip_equivariance": ("flip_equivariance", is_true),
    "nce_layers": ("nce_layers", numbers),
    "num_patches": ("num_patches", int),
    "netF_nc": ("nc", int),
    "netF": ("use_mlp", lambda text: text == "mlp_sample"),
    "nce_T": ("temperature", float),
    "nce_includes_all_negatives_from_minibatch": ("all_negatives", is_true),
    "gan_mode": ("gan_mode", str),
    "batch_size": ("batch", int),
    "pool_size": ("pool_size", int),
    "lr": ("lr", float),
}


def options(told: dict[str, str], preset: Any) -> dict[str, Any]:
    """What a published command line changes in a preset."""
    found = {ours: read(told[name]) for name, (ours, read) in NAMED.items() if name in told}
    betas = float(told.get("beta1", preset.betas[0])), float(told.get("beta2", preset.betas[1]))
    return {**found, "betas": betas}


def contrastive_recipe(told: dict[str, str]) -> contrastive.Recipe:
    """The recipe of a published command line of `cut` or `sincut`, run on a CPU, where torch misreads gradients."""
    if told.get("model") == "sincut":
        return replace(SINCUT, **options(told, SINCUT))
    preset = {"cut": CUT, "fastcut": FASTCUT}[told.get("CUT_mode", "CUT").lower()]
    return replace(
        preset,
        **options(told, preset),
        generator=resnet_generator(told),
        discriminator=patch_discriminator(told),
        misread=True,
    )


def contrastive_networks(
    told: dict[str, str], recipe: contrastive.Recipe
) -> tuple[contrastive.Generator, nn.Module, PatchSampleF]:
    """The networks of a published command line."""
    if told.get("model") != "sincut":
        return recipe.build()
    g = style_translator(told)
    return g, style_discriminator(told), PatchSampleF(g.tap_channels(recipe.nce_layers), recipe.nc, recipe.use_mlp)


def load_networks(tensors: dict[str, Tensor], networks: dict[str, nn.Module]) -> None:
    """Puts a golden's first weights into the networks, none left over."""
    for name, network in networks.items():
        network.load_state_dict(under(tensors, f"init.net{name}."))
    with_weights = {f"net{name}" for name, network in networks.items() if network.state_dict()}
    assert {key.split(".")[1] for key in tensors if key.startswith("init.")} == with_weights


def is_pre_norm_bias(network: nn.Module, name: str) -> bool:
    """Whether a parameter is a bias that an instance normalisation takes out again, so that its gradient is noise."""
    if not name.endswith(".bias"):
        return False
    *above, index, _ = name.split(".")
    parent = network.get_submodule(".".join(above))
    if not isinstance(parent, nn.Sequential) or not index.isdecimal() or int(index) + 1 >= len(parent):
        return False
    return isinstance(parent[int(index) + 1], nn.InstanceNorm2d)


def check_losses(found: dict[str, Tensor], golden: dict[str, Tensor], step: int) -> None:
    """Compares each loss that a golden has of a step."""
    stored = under(golden, "loss_")
    assert stored
    for name, value in stored.items():
        assert_close(found[name], value, 0.0, LATER if step else STEP)


def check_gradients(tensors: dict[str, Tensor], networks: dict[str, nn.Module]) -> None:
    """Compares the gradients of the first step."""
    for name, network in networks.items():
        stored = under(tensors, f"grad1.net{name}.")
        largest = max((value.abs().max().item() for key, value in stored.items() if key.endswith("weight")), default=0)
        for key, golden in stored.items():
            grad = network.get_parameter(key).grad
            assert grad is not None
            # Taps read some convolutions before their norm, which gives their biases a gradient after all.
            if is_pre_norm_bias(network, key) and golden.abs().max() <= PRE_NORM * largest:
                assert grad.abs().max() <= PRE_NORM * largest
            else:
                assert_close(grad, golden, 0.0, FIRST_GRADIENT)
        for key, golden in under(tensors, f"grad1norm.net{name}.").items():
            grad = network.get_parameter(key).grad
            assert grad is not None
            if not is_pre_norm_bias(network, key):
                assert_close(grad.double().norm(), golden, 0.0, NORM)


def check_weights(tensors: dict[str, Tensor], networks: dict[str, nn.Module], tolerance: float) -> None:
    """Compares the weights after the last step, without those that only noise moves."""
    for name, network in networks.items():
        compared = 0
        for key, golden in under(tensors, f"final.net{name}.").items():
            if not is_pre_norm_bias(network, key):
                assert_close(network.state_dict()[key], golden, tolerance)
                compared += 1
        for key, golden in under(tensors, f"finalnorm.net{name}.").items():
            if not is_pre_norm_bias(network, key):
                assert_close(network.state_dict()[key].double().norm(), golden, 0.0, NORM)
        assert compared or not network.state_dict()


def weight_tolerance(steps: int) -> float:
    """For weights after several steps: as tight as the goldens' own files of one and two steps ask."""
    return WEIGHT if steps <= FEW_STEPS else WEIGHTS_LATER


@pytest.mark.parametrize("form", ["as_published", "published", "without_gradients", "reused"])
@pytest.mark.parametrize("path", [*whole("07_"), *whole("08_"), *whole("13_")])
def test_contrastive_training(path: Path, form: Any) -> None:
    """The published operations and each of this project's forms, in all steps."""
    tensors, metadata = load(path)
    told, steps = arguments(metadata), int(metadata["steps"])
    recipe = contrastive_recipe(told)
    recipe = replace(recipe, as_published=True) if form == "as_published" else replace(recipe, keys=form)
    networks = contrastive_networks(told, recipe)
    # In the published layout: another order of sums is another rounding, which Adam's first steps enlarge.
    training = contrastive.Training(recipe, networks=networks, memory_format=torch.contiguous_format)
    load_networks(tensors, training.networks)
    for i in range(steps):
        golden = under(tensors, f"step{i}.")
        flip = bool(golden["flipped"]) if "flipped" in golden else None
        places = [order[: recipe.num_patches] for order in listed(golden, "perm_")]
        noise = listed(golden, "noise_") or None
        if "fake_B" in golden:
            with torch.no_grad():
                of_b = golden["real_B"] if recipe.nce_idt else None
                made = contrastive.translate(training.g, golden["real_A"], of_b, bool(flip), noise)
            assert_close(made.fake, golden["fake_B"], PICTURE)
            assert (made.identity is None) == ("idt_B" not in golden)
            if made.identity is not None:
                assert_close(made.identity, golden["idt_B"], PICTURE)
        draws = contrastive.Draws(flip, places, noise)
        losses = training.step(torch.cat([golden["real_A"], golden["real_B"]]), draws=draws)
        check_losses(losses, golden, i)
        if i == 0:
            check_gradients(tensors, training.networks)
    check_weights(tensors, training.networks, weight_tolerance(steps))


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("path", whole("09_"))
def test_cyclegan_training(path: Path, as_published: bool) -> None:
    tensors, metadata = load(path)
    told, steps = arguments(metadata), int(metadata["steps"])
    recipe = replace(
        CYCLEGAN,
        **options(told, CYCLEGAN),
        generator=resnet_generator(told),
        discriminator=patch_discriminator(told),
        as_published=as_published,
    )
    training = cyclegan.Training(recipe, memory_format=torch.contiguous_format)
    networks = {name: network for name, network in training.networks.items() if name not in training.pools}
    load_networks(tensors, networks)
    draws = iter(pool_draws(tensors))
    for i in range(steps):
        golden = under(tensors, f"step{i}.")
        made = ("fake_B", "rec_A", "fake_A", "rec_B", "idt_A", "idt_B")
        if "fake_B" in golden:
            with torch.no_grad():
                found = cyclegan.translate(*training.g, golden["real_A"], golden["real_B"], recipe.lambda_identity > 0)
            for name in made:
                if name in golden:
                    assert_close(getattr(found, name.lower()), golden[name], PICTURE)
        losses = training.step(torch.cat([golden["real_A"], golden["real_B"]]), draws=draws)
        check_losses(losses, golden, i)
        if i == 0:
            check_gradients(tensors, networks)
    assert next(draws, None) is None
    check_weights(tensors, networks, weight_tolerance(steps))


# ----------------------------------------------------------------------------------------------------------------------
# 14_data_transforms*, 15_segmentation*: pictures in, scores out

SCORE = 1e-9


def transform_of(name: str, tensors: dict[str, Tensor]) -> tuple[Transform, Choices]:
    """The published options and choices that the name of a golden tells of, or its stored configuration."""
    if name.startswith("zoom_patch"):
        cfg = tensors[f"{name}_cfg_zw_zh_index_flip_startx_starty"].tolist()
        how = Transform("zoom_and_patch", crop_size=tensors[name].shape[1], resample="bilinear")
        choices = Choices(flip=bool(cfg[3]), zoom=(cfg[0], cfg[1]), patch=int(cfg[2]), start=(int(cfg[4]), int(cfg[5])))
        return how, choices
    at = re.search(r"_at_(\d+)_(\d+)", name)
    choices = Choices(corner=(int(at[1]), int(at[2])) if at else (0, 0), flip=name.endswith("_flip"))
    crop = re.search(r"crop(\d+)", name)
    and_crop = "_and_crop" if crop else ""
    crop_size = int(crop[1]) if crop else 1
    if found := re.match(r"gta_resize_(\d+)x(\d+)", name):
        return Transform("resize_and_crop", int(found[2]), crop_size, half_height=True), choices
    if found := re.match(r"(scale_width|scale_shortside|resize|test_resize)_?(\d+)", name):
        kind = found[1].removeprefix("test_") + and_crop
        return Transform(kind, int(found[2]), crop_size), choices  # type: ignore[arg-type]
    assert name.startswith("none")
    return Transform("none"), choices


@pytest.mark.parametrize(
    ("path", "name"),
    items("14_", lambda tensors: [key for key in tensors if "cfg" not in key and not key.startswith("image")]),
)
def test_transforms(path: Path, name: str) -> None:
    tensors, _ = load(path)
    picture = Image.fromarray(tensors["image_hwc_uint8"].numpy())
    ours = to_tensor(apply(picture, *transform_of(name, tensors)))
    assert_close(ours, tensors[name], 0.0)


@pytest.mark.parametrize("path", whole("15_"))
def test_segmentation_scores(path: Path) -> None:
    tensors, _ = load(path)
    classes = len(tensors["iou"])
    matrix = confusion(tensors["pred"].numpy(), tensors["label"].numpy(), classes)
    assert torch.equal(torch.from_numpy(matrix), tensors["hist"])
    ious, golden = torch.from_numpy(class_ious(matrix)) / 100, tensors["iou"]
    assert torch.equal(ious.isnan(), golden.isnan())
    assert_close(ious.nan_to_num(), golden.nan_to_num(), SCORE)
    for ours, name in ((mean_iou, "mean_iou"), (class_accuracy, "class_acc"), (pixel_accuracy, "pix_acc")):
        assert ours(matrix) == pytest.approx(tensors[f"{name}_x100"].item(), abs=SCORE)
