"""SDEdit against tensors made by the published code; tolerances as in the goldens' MANIFEST.md."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from goldens import assert_close, files, folder, load, prefixes, under
from torch import Tensor, nn

from gengauge.benchmarks.metrics.faithfulness import l2_norm, squared_l2
from gengauge.benchmarks.metrics.kernel import kernel_distance, mmd2
from gengauge.reference.nets.ddpm_unet import (
    CELEBA_64,
    CHURCH_256,
    CIFAR10_32,
    Attention,
    DDPMUNet,
    Downsample,
    ResBlock,
    Upsample,
    fuse,
)
from gengauge.reference.nets.ncsnpp import FACES_256, FFHQ_1024, NCSNpp, NCSNppConfig, fir_downsample, fir_upsample
from gengauge.reference.nets.unet import EPS, UNetConfig, timestep_embedding
from gengauge.reference.sdedit.editing import (
    PAPER as AS_WRITTEN,
)
from gengauge.reference.sdedit.editing import (
    Behaviour,
    Step,
    edit,
    edit_ve,
    from_learned_variance,
    from_noise,
    from_score,
)
from gengauge.reference.sdedit.exact import ExactDenoiser
from gengauge.reference.sdedit.predictors import DiscreteVE, DiscreteVP, langevin
from gengauge.reference.sdedit.schedule import VESchedule, VPSchedule, continuous_levels
from gengauge.reference.sdedit.strokes import median, reduce_colours, stroke
from gengauge.reference.sdedit.training import Recipe, Training, antithetic

PAPER = "sdedit"
NETWORK, FIR = 1e-5, 1e-6
# Of embeddings: sines of angles near 1000 keep fewer digits.
EMBEDDING = {"small": 1e-5, "large": 2e-4}
SMALL = 20  # times below are small
SCORE = 1e-4  # of a picture's largest value, each picture for itself
NUM_GROUPS = 32
VP_STEP, SMALL_STEP = 1e-5, 2e-5  # the second at times below `SMALL`
VP_RUN, VE_RUN = 5e-5, 1e-4  # the second of the largest value
STEPS = 1e-5  # relative
TABLE64, TABLE32 = 1e-12, 2e-6  # relative
DOUBLE = 1e-9
LOSS, GRADIENT, PARAMETER = 1e-5, 2e-6, 2e-5  # the first relative
L2, KID = 1e-5, 1e-9  # the first relative
# What another version of Pillow may do beyond the golden's mean distance of a stroke to the filtered picture.
OTHER_PALETTE = 1.2
READ: set[Path] = set()  # the files that gave a test item


pytestmark = pytest.mark.usefixtures("one_thread")


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[Any]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    READ.update(path for path, _ in found)
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def whole(paths: list[Path]) -> list[Any]:
    """A test item a file."""
    READ.update(paths)
    return [pytest.param(path, id=path.stem) for path in paths]


def weights(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix; those that are stored in half precision as float32."""
    return {
        key: value.float() if value.dtype == torch.float16 else value for key, value in under(tensors, prefix).items()
    }


def setting(text: str) -> Any:
    """A number, a sequence as a tuple, a truth value or a word, from a golden's metadata."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return tuple(value) if isinstance(value, list) else value


def test_every_golden_file_gives_a_test_item() -> None:
    there = {path for path in folder(PAPER).iterdir() if path.name not in ("MANIFEST.md", "settings.json")}
    unknown = sorted(path.name for path in there - READ)
    assert not unknown, f"no test reads {unknown}"


# ----------------------------------------------------------------------------------------------------------------------
# ddpm_blocks*: parts of DDPM's U-Net


def made(block: str, state: dict[str, Tensor], given: list[Tensor], out: Tensor) -> nn.Module:
    """The part that a golden's name and weights tell of."""
    channels, outputs = given[0].shape[1], out.shape[1]
    if block.startswith("res"):
        shortcut_is_3x3 = "conv_shortcut.weight" in state
        return ResBlock(channels, outputs, given[1].shape[1], 0.0, NUM_GROUPS, shortcut_is_3x3)
    if block.startswith("attn"):
        return Attention(channels, fused=False, num_groups=NUM_GROUPS)
    if out.shape[2] < given[0].shape[2]:
        return Downsample(channels, "conv.weight" in state)
    return Upsample(channels, "conv.weight" in state)


@pytest.mark.parametrize(("path", "block"), items("ddpm_blocks", lambda tensors: prefixes(tensors, ".in0")))
def test_blocks_of_ddpm(path: Path, block: str) -> None:
    tensors, _ = load(path)
    given = [tensors[name] for name in sorted(tensors) if name.startswith(f"{block}.in")]
    state, out = weights(tensors, f"{block}.w."), tensors[f"{block}.out"]
    part = made(block, state, given, out)
    part.load_state_dict(state)
    with torch.no_grad():
        assert_close(part.eval()(*given), out, NETWORK)


@pytest.mark.parametrize(("path", "name"), items("ddpm_blocks", lambda tensors: prefixes(tensors, ".in")))
def test_normalisation_of_ddpm(path: Path, name: str) -> None:
    tensors, _ = load(path)
    given, state = tensors[f"{name}.in"], weights(tensors, f"{name}.w.")
    norm = nn.GroupNorm(NUM_GROUPS, given.shape[1], EPS)
    norm.load_state_dict(state)
    with torch.no_grad():
        assert_close(norm(given), tensors[f"{name}.out"], NETWORK)


@pytest.mark.parametrize(
    ("path", "name"), items("ddpm_blocks", lambda tensors: [name for name in tensors if name.startswith("temb.dim")])
)
def test_time_embedding(path: Path, name: str) -> None:
    tensors, _ = load(path)
    t, golden = tensors["temb.t"], tensors[name]
    ours = timestep_embedding(t, golden.shape[1])
    assert golden.shape[1] == int(name.removeprefix("temb.dim"))
    assert_close(ours, golden, EMBEDDING["large"])
    assert_close(ours[t < SMALL], golden[t < SMALL], EMBEDDING["small"])


# ----------------------------------------------------------------------------------------------------------------------
# ddpm_unet*, ncsnpp*: whole networks


def unet(state: dict[str, Tensor], metadata: dict[str, str]) -> DDPMUNet:
    """The U-Net that a golden's metadata and weights tell of."""
    told = {name: setting(text) for name, text in metadata.items()}
    assert told.get("type", "simple") == "simple", "a network of another kind"
    named = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "in_channels", "out_ch", "dropout")
    config = UNetConfig(
        resolution=told["image_size"],
        temb_ch=len(state["temb.dense.0.bias"]),
        resamp_with_conv=told.get("resamp_with_conv", True),
        **{name: told[name] for name in named},
    )
    return DDPMUNet(config)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("path", whole(files(PAPER, "ddpm_unet")))
def test_unet(path: Path, fused: bool) -> None:
    tensors, metadata = load(path)
    state = weights(tensors, "w.")
    network = unet(state, metadata)
    if fused:
        config = network.config
        network, state = DDPMUNet(config, fused=True), fuse(state, config)
    network.load_state_dict(state)
    inner = {"conv_in": network.conv_in, "mid_out": network.mid.block_2, "norm_out": network.norm_out}
    if not fused:
        inner["temb_dense1"] = network.temb
    seen: dict[str, Tensor] = {}
    for name, module in inner.items():
        module.register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        out = network.eval()(tensors["x"], tensors["t"])
    assert_close(out, tensors["out"], NETWORK)
    captured = under(tensors, "cap.")
    assert captured.keys() <= {*seen, "temb_dense1"}
    for name in captured.keys() & seen.keys():
        assert_close(seen[name], captured[name], NETWORK)


@pytest.mark.parametrize("path", whole(files(PAPER, "ncsnpp")))
def test_score_network(path: Path) -> None:
    tensors, metadata = load(path)
    config = NCSNppConfig.published({name: setting(text) for name, text in metadata.items()})
    network, state = NCSNpp(config), weights(tensors, "w.")
    assert_close(network.sigmas, state["sigmas"], 0.0, 1e-12)
    network.load_state_dict(state)
    with torch.no_grad():
        out = network.eval()(tensors["x"], tensors["sigma" if "sigma" in tensors else "t"])
    assert out.dtype == tensors["x"].dtype
    assert out.shape == tensors["out"].shape
    for ours, golden in zip(out, tensors["out"], strict=True):
        assert_close(ours, golden, 0.0, SCORE)
    if "fourier_emb" in tensors:
        assert_close(network.all_modules[0](tensors["sigma"].log()), tensors["fourier_emb"], NETWORK)


# ----------------------------------------------------------------------------------------------------------------------
# fir*: filtered resampling


@pytest.mark.parametrize("path", whole(files(PAPER, "fir")))
def test_filtered_resampling(path: Path) -> None:
    tensors, _ = load(path)
    kernel = tensors["kernel"]
    kernel = kernel / kernel.sum()
    assert_close(fir_upsample(tensors["x"], kernel), tensors["fir_up2"], FIR)
    assert_close(fir_downsample(tensors["x"], kernel), tensors["fir_down2"], FIR)


# ----------------------------------------------------------------------------------------------------------------------
# *_state_dict.csv: names, shapes and types of the networks at full size


FULL_SIZE: dict[str, Callable[[], nn.Module]] = {
    "ddpm256": lambda: DDPMUNet(CHURCH_256),
    "ddpm64": lambda: DDPMUNet(CELEBA_64),
    "ddpm32": lambda: DDPMUNet(CIFAR10_32),
    "ncsnpp256": lambda: NCSNpp(FACES_256),
    "ncsnpp1024": lambda: NCSNpp(FFHQ_1024),
}


def listed(network: nn.Module) -> list[tuple[str, str, str]]:
    """Name, shape and type of every tensor, in order of names."""
    return sorted(
        (name, "x".join(map(str, value.shape)), str(value.dtype).removeprefix("torch."))
        for name, value in network.state_dict().items()
    )


@pytest.mark.parametrize("path", whole(sorted(folder(PAPER).glob("*_state_dict.csv"))))
def test_state_dict_at_full_size(path: Path) -> None:
    """Of the network that the file's name tells, or of any of them where it is none of these names."""
    with path.open(newline="") as stream:
        rows = sorted((row["name"], row["shape"], row["dtype"]) for row in csv.DictReader(stream))
    told = path.stem.removesuffix("_state_dict")
    with torch.device("meta"):
        if told in FULL_SIZE:
            assert listed(FULL_SIZE[told]()) == rows
        else:
            assert rows in [listed(make()) for make in FULL_SIZE.values()]


# ----------------------------------------------------------------------------------------------------------------------
# vp_schedule*: tables


def schedule(metadata: dict[str, str]) -> VPSchedule:
    """The linear schedule of a golden's metadata; DDPM's where it tells none."""
    return VPSchedule(
        int(metadata.get("T", 1000)), float(metadata.get("beta_start", 1e-4)), float(metadata.get("beta_end", 0.02))
    )


@pytest.mark.parametrize("path", whole(files(PAPER, "vp_schedule")))
def test_tables(path: Path) -> None:
    tensors, metadata = load(path)
    ours = schedule(metadata)
    levels = ours.levels()
    doubles = {
        "betas_f64": ours.betas64,
        "alphas_cumprod_f64": ours.abar64,
        "posterior_variance_f64": ours.small,
        "logvar_fixedsmall_f64": levels.small.clamp(min=1e-20).log(),
        "logvar_fixedlarge_f64": torch.cat([ours.small[1:2], ours.betas64[1:]]).log(),
    }
    singles = {
        "betas_f32": ours.betas,
        "alphas_cumprod_f32_sampler": ours.abar,
        "eps_coef_f32": levels.betas / (1 - levels.abar).sqrt(),
        "recip_sqrt_alpha_f32": 1 / (1 - levels.betas).sqrt(),
    }
    assert tensors.keys() == {**doubles, **singles}.keys()
    for tables, tolerance in ((doubles, TABLE64), (singles, TABLE32)):
        for name, table in tables.items():
            golden = tensors[name].double()
            error = ((table.double() - golden).abs() / golden.abs().clamp(min=1e-300)).where(golden != 0, table.abs())
            assert error.max() <= tolerance, name


# ----------------------------------------------------------------------------------------------------------------------
# vp_step*, guided_step*, sde_steps*: single steps


def step_names(tensors: dict[str, Tensor]) -> list[str]:
    return [name.removesuffix(".out") for name in tensors if name.endswith(".out")]


@pytest.mark.parametrize(("path", "name"), items("vp_step", step_names))
def test_step(path: Path, name: str) -> None:
    tensors, metadata = load(path)
    golden = under(tensors, f"{name}.")
    variance, time = name.split(".")
    behaviour = Behaviour("small" if variance == "fixedsmall" else "large")
    t = int(time.removeprefix("t"))
    levels = schedule(metadata).levels()
    mean, deviation = from_noise(lambda x, times: golden["eps"], levels, behaviour)(golden["x"], t)
    out = mean + deviation * golden["noise"] if t else mean
    assert_close(out, golden["out"], SMALL_STEP if t < SMALL else VP_STEP)


@pytest.mark.parametrize(
    ("path", "name"),
    items("guided_step", lambda tensors: [name.removesuffix(".sample") for name in tensors if name.endswith("sample")]),
)
def test_guided_step(path: Path, name: str) -> None:
    tensors, metadata = load(path)
    time, guided, clamped = name.split(".")
    golden = under(tensors, f"{time}.")
    table = schedule(metadata)
    levels = table.levels(steps=table.steps)  # that code's tables are in float64
    assert_close(levels.betas, tensors["betas_used"], 0.0, TABLE64)
    t = int(tensors["timestep_map"].tolist().index(int(golden["model_t"][0])))

    def network(x: Tensor, times: Tensor) -> Tensor:
        assert times.tolist() == golden["model_t"].tolist()
        return golden["model_out6"]

    reverse = from_learned_variance(
        network,
        levels,
        (lambda x, times: golden["cond_grad"]) if guided == "cond1" else None,
        clamp=clamped == "clip1",
    )
    mean, deviation = reverse(golden["x"], t)
    out = mean + deviation * golden["noise"] if t else mean
    assert_close(out, tensors[f"{name}.sample"], STEPS, STEPS if clamped == "clip0" else 0.0)


@pytest.mark.parametrize(("path", "name"), items("sde_steps", step_names))
def test_step_of_scores(path: Path, name: str) -> None:
    tensors, metadata = load(path)
    golden = under(tensors, f"{name}.")
    x, t, score, noise = tensors["x"], tensors["t"], tensors["score"], golden["noise"]
    steps = int(metadata["N"])
    ve = DiscreteVE(VESchedule(float(metadata["sigma_max"]), float(metadata["sigma_min"])), steps)
    if name.startswith("langevin"):
        out, mean = langevin(x, score, noise, float(name.removeprefix("langevin_snr")))
    elif name.startswith("vp_"):
        out, mean = DiscreteVP(steps=steps).ancestral(x, t, score, noise)
    else:
        out, mean = getattr(ve, name)(x, t, score, noise)
    for ours, theirs in ((out, golden["out"]), (mean, golden["mean"])):
        for one, other in zip(ours, theirs, strict=True):  # of one picture each: sizes span many decades
            assert_close(one, other, 0.0, STEPS)


@pytest.mark.parametrize("path", whole(files(PAPER, "sde_steps")))
def test_levels_of_scores(path: Path) -> None:
    tensors, metadata = load(path)
    t, steps = tensors["t"], int(metadata["N"])
    ve = DiscreteVE(VESchedule(float(metadata["sigma_max"]), float(metadata["sigma_min"])), steps)
    vp = DiscreteVP(steps=steps)
    tables = {
        "discrete_sigmas": ve.sigmas,
        "sigma_of_t": ve.sigma(t),
        "ve_diffusion_g": ve.diffusion(t),
        "vp_discrete_betas": vp.betas,
        "vp_alpha_of_t": vp.signal(t),
        "vp_std_of_t": vp.deviation(t),
    }
    for name, ours in tables.items():
        assert ((ours - tensors[name]).abs() <= STEPS * tensors[name].abs() + 1e-12).all(), name
    for time, sigma in zip(t.tolist(), tensors["sigma_of_t"].tolist(), strict=True):
        if time > 0:
            assert ve.schedule.sigma(time) == pytest.approx(sigma, rel=STEPS)


# ----------------------------------------------------------------------------------------------------------------------
# vp_sdedit*, ve_sdedit*, vp_paper*: whole runs


def network_of(weights_file: str, build: Callable[[dict[str, Tensor], dict[str, str]], nn.Module]) -> nn.Module:
    """The network whose weights a golden's metadata names."""
    tensors, metadata = load(folder(PAPER) / f"{weights_file}.safetensors")
    state = weights(tensors, "w.")
    network = build(state, metadata)
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("path", whole(files(PAPER, "vp_sdedit")))
def test_run_of_the_published_code(path: Path) -> None:
    tensors, metadata = load(path)
    network = network_of(metadata["weights"], unet)
    t, repeats = int(metadata["t"]), int(metadata["K"])
    table = schedule(metadata)
    levels = table.levels(t / table.steps)
    behaviour = Behaviour("large" if "fixedlarge" in (metadata.get("var"), path.stem.split("_")[-1]) else "small")
    image = tensors["image01"]
    guide = (2 * (image - 0.5)).expand(int(metadata["n"]), *image.shape)
    noises = [z for k in range(repeats) for z in (tensors[f"rep{k}.e"], *tensors[f"rep{k}.noise"])]
    seen: list[Tensor] = []
    outs: list[Tensor] = []

    def watched(x: Tensor, times: Tensor) -> Tensor:
        seen.append(x)
        return network(x, times)

    def note(step: Step) -> None:
        if step.number % len(levels) == 0:
            outs.append(step.x)

    edit(
        from_noise(watched, levels, behaviour),
        guide,
        levels,
        tensors["mask"] != 1,
        repeats=repeats,
        behaviour=behaviour,
        noises=noises,
        callback=note,
    )
    for k in range(repeats):
        for ours, golden in zip(seen[k * t : (k + 1) * t], tensors[f"rep{k}.x_model_in"], strict=True):
            assert_close(ours, golden, VP_RUN)
        assert_close(outs[k], tensors[f"rep{k}.out"], VP_RUN)


@pytest.mark.parametrize("path", whole(files(PAPER, "ve_sdedit")))
def test_run_of_algorithms_1_to_3(path: Path) -> None:
    tensors, metadata = load(path)
    network = network_of(
        metadata["weights"],
        lambda state, told: NCSNpp(NCSNppConfig.published({name: setting(text) for name, text in told.items()})),
    )
    seen: list[Tensor] = []

    def watched(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(x)
        return network(x, sigma)

    out = edit_ve(
        watched,
        tensors["x_guide01"],
        VESchedule(float(metadata["sigma_max"]), float(metadata["sigma_min"])),
        tensors["omega"] == 1,
        t0=float(metadata["t0"]),
        steps=int(metadata["N"]),
        repeats=int(metadata["K"]),
        noises=tensors["z"],
    )
    assert_close(out, tensors["out"], 0.0, VE_RUN)
    for ours, golden in zip(seen, tensors["x_before_each_step"], strict=True):
        assert_close(ours, golden, 0.0, VE_RUN)


@pytest.mark.parametrize("path", whole(files(PAPER, "vp_paper")))
def test_run_of_algorithm_5(path: Path) -> None:
    tensors, metadata = load(path)
    assert metadata["score"] == "s(x,t) = -x + 0.3*tanh(x)", "a score that this test does not know"
    levels = continuous_levels(
        float(metadata["t0"]), int(metadata["N"]), float(metadata["beta_min"]), float(metadata["beta_max"])
    )
    out = edit(
        from_score(lambda x, t: -x + 0.3 * x.tanh(), levels),
        tensors["x_guide"].double(),
        levels,
        tensors["omega"] == 1,
        repeats=int(metadata["K"]),
        behaviour=AS_WRITTEN,
        noises=tensors["z"].double(),
    )
    assert_close(out, tensors["out_f64"], DOUBLE)


# ----------------------------------------------------------------------------------------------------------------------
# closed_form_score*, ddpm_train_step*: priors


@pytest.mark.parametrize(("path", "time"), items("closed_form_score", lambda tensors: prefixes(tensors, ".x0_hat")))
def test_exact_denoiser(path: Path, time: str) -> None:
    tensors, metadata = load(path)
    golden = under(tensors, f"{time}.")
    denoiser = ExactDenoiser(tensors["data"], schedule(metadata))
    t = torch.full((len(golden["x"]),), int(time.removeprefix("t")))
    assert_close(denoiser.clean(golden["x"], t), golden["x0_hat"], DOUBLE)
    assert_close(denoiser(golden["x"], t), golden["eps"], DOUBLE)
    assert_close(denoiser.score(golden["x"], t), golden["score"], DOUBLE)


@pytest.mark.parametrize("path", whole(files(PAPER, "ddpm_train_step")))
def test_training_of_the_prior(path: Path) -> None:
    tensors, metadata = load(path)
    network = network_of(metadata["weights"], unet)
    assert isinstance(network, DDPMUNet)
    count = len({name.split(".")[0] for name in tensors})
    recipe = Recipe(
        network.config,
        batch=len(tensors["s0.x0"]),
        lr=float(metadata["lr"]),
        betas=(float(metadata["beta1"]), float(metadata["beta2"])),
        adam_eps=float(metadata["eps"]),
        clip=float(metadata["grad_clip"]),
        ema=float(metadata["ema_mu"]),
        schedule=schedule(metadata),
    )
    # In the published layout: another order of sums is another rounding, which Adam's first steps enlarge.
    training = Training(recipe, network=network, memory_format=torch.contiguous_format)
    for i in range(count):
        golden = under(tensors, f"s{i}.")
        assert torch.equal(antithetic(golden["t_half"], recipe.schedule.steps)[: recipe.batch], golden["t"])
        losses = training.step(golden["x0"], draws=(golden["t"], golden["e"]))
        assert_close(losses["loss"], golden["loss"], 0.0, LOSS)
        assert_close(losses["gradient_norm"], golden["grad_norm_before_clip"], 0.0, LOSS)
        for name, gradient in under(golden, "grad_clipped.").items():
            found = training.networks["network"].get_parameter(name).grad
            assert found is not None
            assert_close(found, gradient, GRADIENT)
        for kind, part in (("param", "network"), ("ema", "ema")):
            for name, value in under(golden, f"{kind}.").items():
                assert_close(training.networks[part].get_parameter(name), value, PARAMETER)


# ----------------------------------------------------------------------------------------------------------------------
# stroke*, metrics*


def named(pattern: str) -> Callable[[dict[str, Tensor]], list[str]]:
    """The names of tensors that fit a pattern."""
    return lambda tensors: [name for name in tensors if re.fullmatch(pattern, name)]


@pytest.mark.parametrize(("path", "key"), items("stroke", named(r"median_k\d+_u8")))
def test_median(path: Path, key: str) -> None:
    t, _ = load(path)
    size = int(re.findall(r"\d+", key)[0])
    assert np.array_equal(median(t["image_u8"].numpy(), size), t[key].numpy())


@pytest.mark.parametrize(("path", "key"), items("stroke", named(r"stroke_k\d+_n\d+_u8")))
def test_stroke(path: Path, key: str) -> None:
    t, metadata = load(path)
    size, colours = (int(number) for number in re.findall(r"\d+", key)[:2])
    ours, golden = stroke(t["image_u8"].numpy(), colours, size), t[key].numpy()
    if metadata.get("pillow") == PIL.__version__:
        assert np.array_equal(ours, golden)
        return
    filtered = median(t["image_u8"].numpy(), size)
    assert np.array_equal(ours, reduce_colours(filtered, colours))
    assert len(np.unique(ours.reshape(-1, 3), axis=0)) <= colours
    mine, theirs = (np.abs(x.astype(int) - filtered).mean() for x in (ours, golden))
    assert mine <= OTHER_PALETTE * theirs + 1


@pytest.mark.parametrize("path", whole(files(PAPER, "metrics")))
def test_l2(path: Path) -> None:
    t, _ = load(path)
    guide, out = t["guide01"], t["out01"]
    editable = torch.broadcast_to(t["omega"] == 1, guide.shape)
    found = {
        "l2_norm_per_image": l2_norm(guide, out),
        "l2_squared_per_image": squared_l2(guide, out),
        "l2_norm_mean": l2_norm(guide, out).mean(),
        "l2_norm_inside": l2_norm(guide, out, editable),
        "l2_norm_outside": l2_norm(guide, out, ~editable),
    }
    for key, value in found.items():
        assert torch.allclose(value, t[key].double(), rtol=L2, atol=0.0), key


@pytest.mark.parametrize("path", whole(files(PAPER, "metrics")))
def test_kid(path: Path) -> None:
    t, _ = load(path)
    real, fake = t["feats_real_f64"].numpy(), t["feats_gen_f64"].numpy()
    subsets = list(zip(t["kid_idx_real"].numpy(), t["kid_idx_gen"].numpy(), strict=True))
    assert_close(torch.tensor(kernel_distance(real, fake, subsets), dtype=torch.float64), t["kid_subsets"], KID)
    assert_close(torch.tensor(mmd2(real, fake), dtype=torch.float64), t["mmd2_unbiased_all"], KID)
