"""DiffAugment against tensors made by the published code; tolerances as in the goldens' MANIFEST.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from goldens import assert_close, files, folder, load, prefixes, settings, under
from torch import Tensor

from gengauge.benchmarks.metrics.frechet import Gaussian, fit, frechet_distance
from gengauge.benchmarks.metrics.inception_score import inception_score
from gengauge.benchmarks.metrics.kernel import kernel_distance
from gengauge.benchmarks.metrics.precision_recall import precision_recall
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.datasets import subsets
from gengauge.reference.diffaugment import augment, losses
from gengauge.reference.diffaugment.augment import diff_augment
from gengauge.reference.diffaugment.biggan import (
    Recipe,
    StepDraws,
    Training,
    discriminator_losses,
    ema_decay,
    generator_loss,
)
from gengauge.reference.diffaugment.stylegan2 import PictureDraws, discriminator_phase, generator_phase
from gengauge.reference.diffaugment.stylegan2 import Recipe as StyleRecipe
from gengauge.reference.nets.biggan import (
    Attention,
    ConditionalBatchNorm,
    Discriminator,
    Generator,
    orthogonal_gradient_,
)
from gengauge.reference.nets.ema import update_ema
from gengauge.reference.nets.spectral_norm import SNConv2d, SNEmbedding, SNLinear
from gengauge.reference.nets.stylegan2 import ops, tensorflow
from gengauge.reference.nets.stylegan2.discriminator import Discriminator as StyleDiscriminator
from gengauge.reference.nets.stylegan2.generator import Generator as StyleGenerator
from gengauge.reference.nets.stylegan2.generator import SynthesisLayer, ToRGBLayer

PAPER = "diffaugment"
OPS = {
    "rand_brightness": (augment.brightness, ("u",), 1e-5),
    "rand_saturation": (augment.saturation, ("u",), 1e-5),
    "rand_contrast": (augment.contrast, ("u",), 1e-5),
    "rand_translation": (augment.translation, ("tx", "ty"), 0.0),
    "rand_cutout": (augment.cutout, ("ox", "oy"), 0.0),
}
READ: set[Path] = set()  # the files that gave a test item


pytestmark = pytest.mark.usefixtures("one_thread")


def cases(prefix: str, ending: str) -> list[object]:
    """A test item a group of tensors in the files of a kind: (file, what stands before `ending`)."""
    return items(prefix, lambda tensors: prefixes(tensors, ending))


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[object]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    READ.update(path for path, _ in found)
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def policy_draws(tensors: dict[str, Tensor], prefix: str) -> tuple[str, list[dict[str, Tensor]] | None]:
    """A policy and its draws as written in keys `PREFIX.draw.<i>.<part>.<name>`; None where there are none."""
    found: dict[int, tuple[str, dict[str, Tensor]]] = {}
    for key, value in under(tensors, f"{prefix}.draw.").items():
        position, part, name = key.split(".")
        found.setdefault(int(position), (part, {}))[1][name] = value
    parts = [found[i] for i in sorted(found)]
    return ",".join(part for part, _ in parts), [draws for _, draws in parts] or None


def test_every_golden_file_gives_a_test_item() -> None:
    unknown = sorted(path.name for path in set(folder(PAPER).glob("*.safetensors")) - READ)
    assert not unknown, f"no test reads {unknown}"


@pytest.mark.parametrize(("path", "name"), cases("diffaug_ops", ".out"))
def test_operation(path: Path, name: str) -> None:
    tensors, _ = load(path)
    shape, op = name.split(".")
    function, draws, tolerance = OPS[op]
    x = tensors[f"{shape}.x"].requires_grad_()
    out = function(x, *(tensors[f"{name}.{draw}"] for draw in draws))
    assert_close(out, tensors[f"{name}.out"], tolerance)
    (grad,) = torch.autograd.grad(out, x, tensors[f"{shape}.cotangent"])
    assert_close(grad, tensors[f"{name}.grad_x"], 1e-6)


@pytest.mark.parametrize(("path", "name"), cases("diffaug_policies", ".out"))
def test_policy(path: Path, name: str) -> None:
    tensors, _ = load(path)
    policy, draws = policy_draws(tensors, name)
    x = tensors["x"].requires_grad_()
    if name == "nhwc":
        out = diff_augment(x.permute(0, 2, 3, 1), policy, draws=draws, channels_first=False)
    else:
        assert policy == name.replace("+", ",")
        out = diff_augment(x, policy, draws=draws)
    assert out.is_contiguous()
    assert_close(out, tensors[f"{name}.out"], 1e-5)
    if f"{name}.grad_x" in tensors:
        (grad,) = torch.autograd.grad(out, x, tensors["cotangent"])
        assert_close(grad, tensors[f"{name}.grad_x"], 1e-5)


@pytest.mark.parametrize(("path", "name"), cases("diffaug_edges", ".out"))
def test_extreme_draws(path: Path, name: str) -> None:
    tensors, _ = load(path)
    function, draws = (augment.translation, ("tx", "ty")) if name.startswith("t") else (augment.cutout, ("ox", "oy"))
    out = function(tensors[f"{name}.x"], *(tensors[f"{name}.{draw}"] for draw in draws))
    assert_close(out, tensors[f"{name}.out"], 0.0)


@pytest.mark.parametrize(
    ("path", "name"), items("diffaug_edges", lambda tensors: [key for key in tensors if key.startswith("limits")])
)
def test_limits_of_draws(path: Path, name: str) -> None:
    height, width, *golden = load(path)[0][name].tolist()
    shifts, sizes = augment.shift_limits(height, width), augment.cutout_size(height, width)
    assert [*shifts, *sizes] == golden[:4]
    # Enough draws that each end of each range comes up: the rarest has a share of 1 / 25 or so.
    translations, cutouts = augment.draw(
        "translation,cutout", (4096, 3, height, width), torch.Generator().manual_seed(0)
    )
    for axis, shift, centre in zip("xy", shifts, golden[4:6], strict=True):
        assert translations[f"translation_{axis}"].unique().tolist() == list(range(-shift, shift + 1))
        assert cutouts[f"cutout_{axis}"].unique().tolist() == list(range(centre + 1))


@pytest.mark.parametrize(("path", "case"), cases("metrics_biggan_is_fid", ".FID"))
def test_metrics_of_the_biggan_code(path: Path, case: str) -> None:
    tensors, metadata = load(path)
    t = {key.removeprefix(f"{case}."): value for key, value in tensors.items() if key.startswith(f"{case}.")}
    for side in ("real", "fake"):
        assert_close(to_uint8(t[f"{side}_images"]), t[f"{side}_uint8"], 0.0)
    real, fake = fit(t["real_features"].numpy()), fit(t["fake_features"].numpy())
    assert_close(torch.from_numpy(real.mean), t["real_mu"], 1e-6)
    assert_close(torch.from_numpy(real.covariance), t["real_sigma"], 1e-12, 1e-10)
    singular = min(len(t["real_features"]), len(t["fake_features"])) <= t["real_features"].shape[1]
    tolerance = settings(path).get("fid_relative", {}).get(case, 1e-3 if singular else 1e-4)
    assert frechet_distance(real, fake) == pytest.approx(t["FID"].item(), rel=tolerance)
    mean, std = inception_score(t["fake_probs"].numpy(), int(metadata["splits"]), borders="equal")
    assert mean == pytest.approx(t["IS_mean"].item(), abs=1e-6)
    assert std == pytest.approx(t["IS_std"].item(), abs=1e-6)


@pytest.mark.parametrize(("path", "_name"), cases("metrics_sg2pt", "kid_subset_indices"))
def test_metrics_of_the_stylegan2_port(path: Path, _name: str) -> None:
    t, _ = load(path)
    real, fake = t["real_features"].numpy(), t["gen_features"].numpy()
    a, b = fit(real, ddof=0), fit(fake, ddof=0)
    assert_close(torch.from_numpy(a.mean), t["real_mean"], 0.0, 1e-9)
    assert_close(torch.from_numpy(a.covariance), t["real_cov"], 0.0, 1e-9)
    assert frechet_distance(a, b) == pytest.approx(t["fid"].item(), rel=1e-6)
    saved = Gaussian(t["real_mean"].numpy(), t["real_cov"].numpy())
    assert frechet_distance(saved, b) == pytest.approx(t["fid"].item(), rel=1e-6)
    bounds = t["is_split_bounds"]
    mean, std = inception_score(t["gen_probs"].numpy(), len(bounds) - 1, borders="even")
    assert mean == pytest.approx(t["is_mean"].item(), rel=1e-6)
    assert std == pytest.approx(t["is_std"].item(), rel=1e-6)
    rows = t["kid_subset_indices"].numpy()
    subsets = list(zip(rows[1::2], rows[0::2], strict=True))  # the file's rows alternate generated, real
    assert kernel_distance(real, fake, subsets) == pytest.approx(t["kid"].item(), rel=1e-6)
    for key in t:
        if match := re.fullmatch(r"precision_k(\d+)", key):
            precision, recall = precision_recall(real, fake, k=int(match[1]))
            assert abs(precision - t[key].item()) <= 1 / len(fake) + 1e-9
            assert abs(recall - t[f"recall_k{match[1]}"].item()) <= 1 / len(real) + 1e-9
    assert_close(to_uint8(t["u8.x"]), t["u8.sg2"], 0.0)


def biggan_networks(cfg: str, tensors: dict[str, Tensor]) -> tuple[Generator, Discriminator]:
    """The networks of a golden, in training, with its weights: settings are written as a dict or as `name value`."""
    if cfg.startswith("{"):
        c = ast.literal_eval(cfg)
    else:
        # `G_ch=D_ch=3 dim_z=8 ..., SN_eps 1e-8 ...`: the CIFAR recipe's options but for widths and classes.
        found = dict(re.findall(r"(\w+)=(\d+)", re.sub(r"G_ch=D_ch=(\d+)", r"G_ch=\1 D_ch=\1", cfg)))
        c = {"resolution": 32, **{name: int(value) for name, value in found.items()}}
        if eps := re.search(r"SN_eps[ =]([\d.e-]+)", cfg):
            c["SN_eps"] = float(eps[1])
    common = {
        "num_classes": c["n_classes"],
        "resolution": c["resolution"],
        "sn_eps": c.get("SN_eps", 1e-8),
    }
    attention = [tuple(int(r) for r in c.get(f"{side}_attn", "0").split("_") if int(r)) for side in "GD"]
    g = Generator(
        ch=c["G_ch"],
        dim_z=c["dim_z"],
        shared_dim=(c["shared_dim"] or c["dim_z"]) if c.get("G_shared") else None,
        hierarchical=c.get("hier", False),
        attention=attention[0],
        num_svs=c.get("num_G_SVs", 1),
        bn_eps=c.get("BN_eps", 1e-5),
        **common,
    )
    d = Discriminator(ch=c["D_ch"], attention=attention[1], num_svs=c.get("num_D_SVs", 1), **common)
    for name, network in (("G", g), ("D", d)):
        network.load_state_dict(under(tensors, f"{name}."))
    return g, d


def step_draws(t: dict[str, Tensor], prefix: str, z: Tensor, y: Tensor) -> StepDraws:
    """The draws of one BigGAN step as the goldens name them."""
    return StepDraws(z, y, policy_draws(t, prefix)[1], t.get(f"{prefix}.cr.flip"), policy_draws(t, f"{prefix}.cr")[1])


CLASS_EPS = 1e-12  # the published classes' default; the command line's, 1e-8, stands in the networks' metadata


def spectral_layer(kind: str, t: dict[str, Tensor], eps: float) -> torch.nn.Module:
    svs = len([key for key in t if re.fullmatch(r"u\d_before", key)])
    out, inputs = t["weight"].shape[:2]
    layer: torch.nn.Module
    if kind == "snconv":
        layer = SNConv2d(inputs, out, t["weight"].shape[2], "bias" in t, svs, eps)
    elif kind == "snemb":
        layer = SNEmbedding(out, inputs, svs, eps)
    else:
        layer = SNLinear(inputs, out, "bias" in t, svs, eps)
    state = {name: t[name] for name in ("weight", "bias") if name in t}
    state |= {f"u{i}": t[f"u{i}_before"] for i in range(svs)} | {f"sv{i}": torch.ones(1) for i in range(svs)}
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize(("path", "name"), cases("biggan_layers_losses", ".u0_before"))
def test_spectral_norm(path: Path, name: str) -> None:
    t = under(load(path)[0], f"{name}.")
    layer = spectral_layer(name, t, settings(path).get("sn_eps", CLASS_EPS))
    x = t.get("x", t.get("idx"))
    assert x is not None
    if "eval_out" in t:
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        assert_close(layer.eval()(x), t["eval_out"], 1e-5)
        assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
        layer.train()
    if "grad_x" in t:
        x = x.requires_grad_()
    out = layer(x)
    assert_close(out, t["train_out"], 1e-5)
    if "grad_x" in t:
        grads = torch.autograd.grad(out, [x, layer.get_parameter("weight")], t["cotangent"])
        for grad, golden in zip(grads, (t["grad_x"], t["grad_weight"]), strict=True):
            assert_close(grad, golden, 2e-6, 1e-3)
    for times, when in ((0, "after"), (4, "after5")):
        for _ in range(times):
            layer(x)
        for key, golden in t.items():
            if key.endswith(f"_{when}"):
                assert_close(layer.get_buffer(key.removesuffix(f"_{when}")), golden, 1e-5)


@pytest.mark.parametrize(("path", "_name"), cases("biggan_layers_losses", "attn.x"))
def test_attention(path: Path, _name: str) -> None:
    t = under(load(path)[0], "attn.")
    layer = Attention(t["x"].shape[1], partial(SNConv2d, eps=settings(path).get("sn_eps", CLASS_EPS)))
    layer.load_state_dict({key: value for key, value in t.items() if key not in ("x", "train_out")})
    assert_close(layer(t["x"]), t["train_out"], 1e-5)


@pytest.mark.parametrize(("path", "_name"), cases("biggan_layers_losses", "ccbn.x"))
def test_conditional_batch_norm(path: Path, _name: str) -> None:
    t = under(load(path)[0], "ccbn.")
    classes, channels = t["gain.weight"].shape
    layer = ConditionalBatchNorm(channels, *(torch.nn.Embedding(classes, channels) for _ in range(2)))
    layer.load_state_dict({key: t[key] for key in ("gain.weight", "bias.weight", "stored_mean", "stored_var")})
    assert_close(layer.train()(t["x"], t["y"]), t["train_out"], 1e-5)
    for buffer in ("stored_mean", "stored_var"):
        assert_close(layer.get_buffer(buffer), t[f"{buffer}_after"], 1e-5)
    assert_close(layer.eval()(t["x"], t["y"]), t["eval_out"], 1e-5)  # the golden's eval follows its training call


@pytest.mark.parametrize(("path", "name"), cases("biggan_layers_losses", ".gen_grad"))
def test_adversarial_losses(path: Path, name: str) -> None:
    t, _ = load(path)
    real, fake = t["score_real"].requires_grad_(), t["score_fake"].requires_grad_()
    first, second = losses.DISCRIMINATOR_LOSSES[name](real, fake)
    assert_close(first, t[f"{name}.dis_first"], 1e-5)
    assert_close(second, t[f"{name}.dis_second"], 1e-5)
    for grad, side in zip(torch.autograd.grad(first + second, [real, fake]), ("real", "fake"), strict=True):
        assert_close(grad, t[f"{name}.grad_{side}"], 2e-6, 1e-3)
    gen = losses.GENERATOR_LOSSES[name](fake)
    assert_close(gen, t[f"{name}.gen"], 1e-5)
    assert_close(torch.autograd.grad(gen, fake)[0], t[f"{name}.gen_grad"], 2e-6, 1e-3)


@pytest.mark.parametrize(("path", "_name"), cases("biggan_layers_losses", "ortho.weight"))
def test_orthogonal_regularisation(path: Path, _name: str) -> None:
    t = under(load(path)[0], "ortho.")
    layer = torch.nn.Linear(t["weight"].shape[1], t["weight"].shape[0], bias=False)
    layer.weight.data.copy_(t["weight"])
    for key, golden in t.items():
        if key.startswith("grad_strength_"):
            layer.weight.grad = torch.zeros_like(layer.weight)
            orthogonal_gradient_(layer, float(key.removeprefix("grad_strength_")))
            assert_close(layer.weight.grad, golden, 2e-6, 1e-3)


@pytest.mark.parametrize(("path", "_name"), cases("biggan_layers_losses", "ema.tgt_init.weight"))
def test_average_of_weights(path: Path, _name: str) -> None:
    tensors, metadata = load(path)
    t = under(tensors, "ema.")
    decay, start = re.findall(r"[\d.]+", metadata["ema"])
    recipe = Recipe(ema_decay=float(decay), ema_start=int(start))
    source, ema = (torch.nn.Linear(*reversed(t["src0.weight"].shape), bias=False) for _ in range(2))
    source.weight.data.copy_(t["src0.weight"])
    ema.load_state_dict(source.state_dict())
    assert_close(ema.weight, t["tgt_afterctor.weight"], 0.0)
    for iteration in range(len([key for key in t if key.startswith("src_itr")])):
        source.weight.data.copy_(t[f"src_itr{iteration}.weight"])
        update_ema(ema, source, ema_decay(recipe, iteration))
        assert_close(ema.weight, t[f"tgt_itr{iteration}.weight"], 1e-6)


@pytest.mark.parametrize(("path", "_name"), cases("biggan_nets", "G_eval.out"))
def test_biggan_networks(path: Path, _name: str) -> None:
    t, metadata = load(path)
    g, d = biggan_networks(metadata["cfg"], t)
    for side, network, inputs in (("G", g.eval(), (t["z"], t["y"])), ("D", d.eval(), (t["x_real"], t["y_real"]))):
        blocks: list[Tensor] = []
        for layers in network.blocks:
            layers[-1].register_forward_hook(lambda _m, _i, out, blocks=blocks: blocks.append(out))  # type: ignore[misc]
        assert_close(network(*inputs), t[f"{side}_eval.out"], 1e-5)
        for i, block in enumerate(blocks):
            assert_close(block, t[f"{side}_eval.block{i}"], 1e-5)
    for side, network, inputs in (("G", g.train(), (t["z"], t["y"])), ("D", d.train(), (t["x_real"], t["y_real"]))):
        assert_close(network(*inputs), t[f"{side}_train.out"], 1e-5)
        for name, golden in under(t, f"{side}_after.").items():
            assert_close(network.get_buffer(name), golden, 1e-5)


def assert_score(ours: Tensor, golden: Tensor) -> None:
    """1e-5, relative above 1, for scores as for losses: at the goldens' scores of 60 float32 itself is 4e-6 apart."""
    assert_close(ours, golden, 1e-5 * max(1.0, golden.abs().max().item()))


@pytest.mark.parametrize(("path", "variant"), cases("biggan_gd", ".dphase.loss_real"))
def test_biggan_losses_and_gradients(path: Path, variant: str) -> None:
    tensors, metadata = load(path)
    g, d = biggan_networks(metadata["cfg"], tensors)
    for network in (g, d):
        network.train()
    t = under(tensors, f"{variant}.")
    dd, gg = (step_draws(t, f"{phase}phase", tensors["z"], tensors["gy"]) for phase in "dg")
    consistent = "dphase.loss_cr" in t
    recipe = Recipe(
        policy=policy_draws(t, "dphase")[0],
        consistency=float(metadata["CR_weight"]) if consistent else 0.0,
        consistency_augment=",".join(
            [*(["flip"] if dd.flip is not None else []), *filter(None, [policy_draws(t, "dphase.cr")[0]])]
        ),
    )
    found = discriminator_losses(g, d, recipe, tensors["x"], tensors["dy"], dd)
    names = {"real": "score_real", "fake": "score_fake", "real_aug": "score_real_aug"}
    for ours, name in names.items():
        if ours in found:
            assert_score(found[ours], t[f"dphase.{name}"])
    parts = {"D_loss_real": "loss_real", "D_loss_fake": "loss_fake", "D_loss_CR": "loss_cr"}
    total = sum(found[name] for name in parts if name in found)
    for ours, name in parts.items():
        if ours in found:
            assert_score(found[ours], t[f"dphase.{name}"])
    total.backward()  # type: ignore[union-attr]
    for name, golden in under(t, "dphase.grad.").items():
        assert_close(d.get_parameter(name).grad, golden, 2e-6, 1e-3)  # type: ignore[arg-type]
    made = generator_loss(g, d, recipe, gg)
    assert_close(made["G_z"], t["gphase.G_z"], 1e-5)
    assert_score(made["fake"], t["gphase.score"])
    assert_score(made["G_loss"], t["gphase.loss"])
    made["G_loss"].backward()
    for name, golden in under(t, "gphase.grad.").items():
        assert_close(g.get_parameter(name).grad, golden, 2e-6, 1e-3)  # type: ignore[arg-type]


TRAINING_WORDS = (
    "batch",
    "num_D_steps",
    "iters",
    "lr",
    "betas",
    "eps",
    "policy",
    "CR",
    "CR_augment",
    "ema_decay",
    "ema_start",
)


def training_words(cfg: str) -> dict[str, str]:
    """`... batch 4 policy  CR 0 ...` by name; a policy may be empty, or quoted."""
    parts = re.split(rf"(?<!\S)({'|'.join(TRAINING_WORDS)})(?=\s|$)", cfg)
    return {name: value.strip().strip("'\"") for name, value in zip(parts[1::2], parts[2::2], strict=True)}


def test_training_words_may_be_empty() -> None:
    cfg = "G_ch=D_ch=3 batch 4 lr 2e-4 policy  CR 0 CR_augment '' ema_decay 0.99"
    found = {"batch": "4", "lr": "2e-4", "policy": "", "CR": "0", "CR_augment": "", "ema_decay": "0.99"}
    assert training_words(cfg) == found


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("path", "_name"), cases("biggan_train", "it0.x"))
def test_biggan_iterations(path: Path, _name: str, layout: torch.memory_format) -> None:
    t, metadata = load(path)
    words = training_words(metadata["cfg"])
    recipe = Recipe(
        policy=words["policy"],
        consistency=float(words["CR"]),
        consistency_augment=words["CR_augment"],
        batch=int(words["batch"]),
        d_steps=int(words["num_D_steps"]),
        g_lr=float(words["lr"]),
        d_lr=float(words["lr"]),
        betas=tuple(map(float, ast.literal_eval(words["betas"]))),  # type: ignore[arg-type]
        adam_eps=float(words["eps"]),
        ema_decay=float(words["ema_decay"]),
        ema_start=int(words["ema_start"]),
    )
    start = {f"{side}.{name}": value for side in "GD" for name, value in under(t, f"{side}0.").items()}
    training = Training(recipe, networks=biggan_networks(metadata["cfg"], start), memory_format=layout)
    for i in range(int(words["iters"])):
        draws = [
            step_draws(t, f"it{i}.{step}", t[f"it{i}.{step}.z"], t[f"it{i}.{step}.y"])
            for step in [*(f"D{k}" for k in range(recipe.d_steps)), "G"]
        ]
        metrics = training.step(t[f"it{i}.x"], t[f"it{i}.y"], draws=draws)
        for name, golden in under(t, f"it{i}.metric.").items():
            assert float(metrics[name]) == pytest.approx(golden.item(), rel=1e-4 if i == 0 else 1e-3)
    if layout is torch.channels_last:
        # Sums in another order may put an activation on the other side of a ReLU's zero, of which Adam's first steps
        # make more than the parameters' tolerance; the losses above hold.
        return
    for network, after, mask in (("G", "G1.", "G"), ("D", "D1.", "D"), ("G_ema", "Gema1.", "G")):
        for name, comparable in under(t, f"mask.{mask}.").items():
            ours, golden, keep = training.networks[network].get_parameter(name), t[f"{after}{name}"], comparable > 0
            assert_close(ours[keep], golden[keep], 1e-5)


def pair(text: str) -> list[int]:
    """`2`, or `[2,1]`, as numbers."""
    value = ast.literal_eval(text)
    return value if isinstance(value, list) else [value, value]


def op_cases(prefix: str) -> list[object]:
    """An item a key of the StyleGAN2 operations with a prefix."""
    return items("sg2_ops", lambda tensors: [key for key in tensors if key.startswith(f"{prefix}.")])


@pytest.mark.parametrize(("path", "key"), op_cases("upfirdn"))
def test_upfirdn2d(path: Path, key: str) -> None:
    t, _ = load(path)
    _, name, arguments = key.split(".", 2)
    match = re.fullmatch(r"up(.+)_down(.+)_pad(.+)_flip(\d)_gain([\d.]+)", arguments)
    assert match
    padding = ast.literal_eval(match[3])
    ours = ops.upfirdn2d(
        t["x"],
        t[f"filter.{name}"],
        pair(match[1]),
        pair(match[2]),
        padding,
        bool(int(match[4])),
        float(match[5]),
    )
    assert_close(ours, t[key], 1e-5)


@pytest.mark.parametrize(
    ("path", "key"), [case for op in ("filter2d", "upsample2d", "downsample2d") for case in op_cases(op)]
)
def test_filtered_resampling(path: Path, key: str) -> None:
    t, _ = load(path)
    op, name = key.split(".")
    assert_close(getattr(ops, op)(t["x"], t[f"filter.{name}"]), t[key], 1e-5)


@pytest.mark.parametrize(("path", "key"), op_cases("convres"))
def test_resampling_convolution(path: Path, key: str) -> None:
    t, _ = load(path)
    if key.startswith("convres.grouped"):
        # How the port's fused modulated convolution calls it: pictures take the place of groups.
        x = t["x8"].flatten(0, 1)[None]
        ours = ops.conv2d_resample(
            x, t["w_grouped"], t["filter.1331"], up=2, padding=1, groups=len(t["x8"]), flip_weight=False
        )
        assert_close(ours, t[key], 1e-5)
        return
    match = re.fullmatch(r"convres\.k(\d)\.(\w+)\.up(\d)\.down(\d)\.flipw(\d)", key)
    assert match
    k, name, up, down, flip = match.groups()
    ours = ops.conv2d_resample(
        t["x8"],
        t[f"w{k}"],
        t[f"filter.{name}"],
        up=int(up),
        down=int(down),
        padding=int(k) // 2,
        flip_weight=bool(int(flip)),
    )
    assert_close(ours, t[key], 1e-5)


@pytest.mark.parametrize(("path", "key"), op_cases("bias_act"))
def test_bias_act(path: Path, key: str) -> None:
    t, _ = load(path)
    match = re.fullmatch(r"bias_act\.(\w+)(?:\.gain([\d.]+)_clamp([\d.]+))?", key)
    assert match
    gain, clamp = (None if value is None else float(value) for value in match.groups()[1:])
    assert_close(ops.bias_act(t["x"], t["b"], match[1], gain, clamp), t[key], 1e-5)


@pytest.mark.parametrize(("path", "key"), op_cases("modconv"))
def test_modulated_convolution(path: Path, key: str) -> None:
    t, _ = load(path)
    if ".fused" not in key:
        return
    name = key.rpartition(".")[0]
    up = 2 if name.endswith("up") else 1
    ours = ops.modulated_conv2d(
        t["x8"],
        t[f"{name}.w"],
        t[f"{name}.styles"],
        t["filter.1331"],
        t[f"{name}.noise"],
        up=up,
        padding=1,
        demodulate="nodemod" not in name,
        flip_weight=up == 1,
        fused=key.endswith("fused1"),
    )
    assert_close(ours, t[key], 1e-5)


@pytest.mark.parametrize(("path", "key"), op_cases("mbstd"))
def test_minibatch_deviation(path: Path, key: str) -> None:
    t, _ = load(path)
    match = re.fullmatch(r"mbstd\.g(None|\d+)(?:f(\d+))?(?:_batch(\d+))?", key)
    if match is None:
        assert key == "mbstd.x"
        return
    x = t["mbstd.x"][: int(match[3])] if match[3] else t["mbstd.x"]
    group = None if match[1] == "None" else int(match[1])
    assert_close(ops.minibatch_stddev(x, group, int(match[2] or 1)), t[key], 1e-5)


@pytest.mark.parametrize(("path", "_name"), cases("sg2_ops", "norm2nd.in"))
def test_normalised_latents(path: Path, _name: str) -> None:
    t, _ = load(path)
    assert_close(ops.normalise_2nd_moment(t["norm2nd.in"]), t["norm2nd.out"], 1e-5)


def stylegan2(tensors: dict[str, Tensor], metadata: dict[str, str], side: str) -> StyleGenerator | StyleDiscriminator:
    """The network of a golden with its weights; every published name must be there, and no other."""
    arguments = ast.literal_eval(metadata[f"{side}_kwargs"])
    network = StyleGenerator(**arguments) if side == "G" else StyleDiscriminator(**arguments)
    network.load_state_dict(under(tensors, f"{side}."))
    return network.train()


def fuse(network: torch.nn.Module) -> None:
    """Makes every modulated convolution form a kernel a picture."""
    for module in network.modules():
        if isinstance(module, SynthesisLayer | ToRGBLayer):
            module.fused = True


@pytest.mark.parametrize(("path", "_name"), cases("sg2_G_", "img_const"))
def test_stylegan2_generator(path: Path, _name: str) -> None:
    t, metadata = load(path)
    g = stylegan2(t, metadata, "G").eval()
    assert isinstance(g, StyleGenerator)
    z, c = t["z"], t["c"]
    assert g.num_ws == int(metadata["num_ws"])
    assert_close(g.mapping(z, c), t["ws"], 1e-5)
    traces: dict[str, Tensor] = {}
    for name, block in g.synthesis.named_children():

        def keep(_m: object, _i: object, out: tuple[Tensor, Tensor], name: str = name) -> None:
            traces.update({f"{name}.x": out[0], f"{name}.img": out[1]})

        block.register_forward_hook(keep)
    unfused = g(z, c, noise_mode="const")
    fuse(g)  # as the port evaluates
    picture = g(z, c, noise_mode="const")
    for name, golden in under(t, "trace.").items():
        assert_close(traces[name], golden, 1e-5)
    for key, golden in t.items():
        if key == "img_const_uint8":
            levels = (to_uint8(picture).int() - golden.int()).abs()
            assert levels.max() <= 1
            assert (levels > 0).float().mean() <= 1e-3
        elif key in ("img_const", "img_const_unfused"):
            assert_close(unfused if key.endswith("unfused") else picture, golden, 1e-5)
        elif key == "img_none":
            assert_close(g(z, c, noise_mode="none"), golden, 1e-5)
        elif key == "img_random":
            assert_close(g(z, c, noise=under(t, "random.noise.")), golden, 1e-5)
        elif match := re.fullmatch(r"img_psi([\d.]+?)(?:_cutoff(\d+))?_const", key):
            cutoff = int(match[2]) if match[2] else None
            assert_close(g(z, c, float(match[1]), cutoff, noise_mode="const"), golden, 1e-5)
        elif match := re.fullmatch(r"ws_psi([\d.]+?)(?:_cutoff(\d+))?", key):
            cutoff = int(match[2]) if match[2] else None
            assert_close(g.mapping(z, c, float(match[1]), cutoff), golden, 1e-5)
        else:
            assert key.startswith(("G.", "random.noise.", "trace.", "train_")) or key in ("z", "c", "ws"), key
    g.train()
    assert_close(g.mapping(z, c), t["train_ws"], 1e-5)
    assert_close(g.mapping.w_avg, t["train_w_avg_after"], 1e-5)


@pytest.mark.parametrize(("path", "_name"), cases("sg2_D_", "grad_x_of_sum_logits"))
def test_stylegan2_discriminator(path: Path, _name: str) -> None:
    t, metadata = load(path)
    d = stylegan2(t, metadata, "D")
    assert isinstance(d, StyleDiscriminator)
    x, c = t["x"].requires_grad_(), t["c"]
    logits = d(x, c)
    assert_close(logits, t["logits"], 1e-5)
    assert_close(d(x[:2], c[:2]), t["logits_first2_only"], 1e-5)
    (grad,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
    assert_close(grad, t["grad_x_of_sum_logits"], 2e-6, 1e-3)
    assert_close(losses.squared_gradient(logits, x), t["r1_per_sample"], 2e-6, 1e-3)
    if "cmap" in t:
        assert_close(d.mapping(None, c), t["cmap"], 1e-5)


def picture_draws(t: dict[str, Tensor], prefix: str) -> PictureDraws:
    """The draws of one part of a StyleGAN2 phase as the goldens name them."""
    mine = under(t, f"{prefix}.")
    augmented = [policy_draws(mine, side)[1] for side in ("fake", "real")]
    return PictureDraws(
        mine.get("mix_cutoff"),
        mine.get("mix_u"),
        mine.get("mix_z"),
        under(mine, "noise.") or None,
        augmented[0] or augmented[1],
        mine.get("pl_noise_raw"),
    )


# The published loss's own defaults, of which a golden's metadata names those that it changes.
PUBLISHED_LOSS = {"pl_weight": 2.0, "style_mixing_prob": 0.9, "r1_gamma": 10.0, "pl_decay": 0.01, "pl_batch_shrink": 2}


@pytest.mark.parametrize(("path", "phase"), cases("sg2_losses", ".pl_mean_after"))
def test_stylegan2_phases(path: Path, phase: str) -> None:
    tensors, metadata = load(path)
    g, d = stylegan2(tensors, metadata, "G"), stylegan2(tensors, metadata, "D")
    assert isinstance(g, StyleGenerator)
    assert isinstance(d, StyleDiscriminator)
    t = under(tensors, f"{phase}.")
    gain = float(re.search(rf"{phase} ([\d.]+)", metadata["gains"])[1])  # type: ignore[index]
    given = {**PUBLISHED_LOSS, **settings(path), **ast.literal_eval(metadata["loss_kwargs"])}
    given["style_mixing"] = given.pop("style_mixing_prob")
    recipe = StyleRecipe(policy=metadata["policy"], code="pytorch", r1_of="raw", mixing_per="batch", **given)  # type: ignore[arg-type]
    main, regularise = phase[1:] in ("main", "both"), phase[1:] in ("reg", "both")
    z, c = t["gen_z"], t["gen_c"]
    path_mean, mean = tensors["pl_mean_before"], None
    g.requires_grad_(phase[0] == "G")
    d.requires_grad_(phase[0] == "D")
    if phase[0] == "G":
        path_on = regularise and recipe.pl_weight != 0
        draws = (picture_draws(t, "draws.Gmain"), picture_draws(t, "draws.Gpl"))
        found = generator_phase(g, d, z, c, recipe, main=main, path=path_on, draws=draws, path_mean=path_mean)
        mean = found.get("path_mean")
        names = {
            "scores": "scores/fake",
            "loss": "G/loss",
            "penalty": "pl_penalty",
            "reg": "G/reg",
        }
    else:
        draws = (picture_draws(t, "draws.Dgen"), picture_draws(t, "draws.Dreal"))
        found = discriminator_phase(
            g, d, tensors["real_img"], tensors["real_c"], z, c, recipe, main=main, r1=regularise, draws=draws
        )
        names = {
            "fake": "scores/fake",
            "real": "scores/real",
            "loss": "D/loss",
            "penalty": "r1_penalty",
            "reg": "D/reg",
        }
    if mean is not None:
        assert_close(mean, t["pl_mean_after"], 1e-6, 1e-4)
    reported = {key.removeprefix("Loss/") for key in under(t, "report.") if "signs" not in key}
    assert {names[key] for key in found if key in names} == reported
    for key, name in names.items():
        if key in found:
            assert_close(found[key], t[f"report.Loss/{name}"], 1e-6, 1e-4)
    for side in ("fake", "real"):
        if f"report.Loss/signs/{side}" in t:
            scores = found.get(side, found.get("scores"))
            assert scores is not None
            assert_close(scores.sign(), t[f"report.Loss/signs/{side}"], 0.0)
    assert_close(g.mapping.w_avg, t["w_avg_after"], 1e-5)
    total = [found[name].mean() for name in ("loss", "reg") if name in found]
    if total:
        (sum(total) * gain).backward()  # type: ignore[union-attr]
    network = g if phase[0] == "G" else d
    for name, golden in under(t, "grad.").items():
        grad = network.get_parameter(name).grad
        assert_close(torch.zeros_like(golden) if grad is None else grad, golden, 2e-6, 1e-3)


@pytest.mark.parametrize(("path", "kind"), cases("sg2_tf_r1_variants", ".penalty"))
def test_r1_of_raw_and_augmented_reals(path: Path, kind: str) -> None:
    t, metadata = load(path)
    d = stylegan2(t, metadata, "D")
    assert isinstance(d, StyleDiscriminator)
    recipe = StyleRecipe(
        policy=metadata["policy"],
        r1_gamma=float(metadata["gamma"]),
        r1_of="raw" if kind == "grad_wrt_raw_reals" else "augmented",
        style_mixing=0.0,
    )
    source = FixedPictures(t["fakes"])
    draws = (PictureDraws(augment=policy_draws(t, "fake")[1]), PictureDraws(augment=policy_draws(t, "real")[1]))
    found = discriminator_phase(
        source,  # type: ignore[arg-type]
        d,
        t["reals"],
        None,
        t["fakes"],
        None,
        recipe,
        main=True,
        r1=True,
        draws=draws,
    )
    assert_close(found["real"].flatten(), t["real_scores"], 1e-5)
    assert_close(found["fake"].flatten(), t["fake_scores"], 1e-5)
    assert_close(F.softplus(-found["fake"]).flatten(), t["G_loss_per_sample"], 1e-5)
    assert_close(found["penalty"], t[f"{kind}.penalty"], 0.0, 1e-4)
    total = found["loss"].mean() + found["reg"].mean()
    assert_close(total, t[f"{kind}.D_total"], 1e-5)
    total.backward()
    for name, golden in under(t, f"{kind}.grad.").items():
        assert_close(d.get_parameter(name).grad, golden, 2e-6, 1e-3)  # type: ignore[arg-type]


class FixedPictures:
    """Stands for a generator whose pictures a golden gives: latents are the pictures."""

    num_ws = 1

    def __init__(self, pictures: Tensor) -> None:
        self.pictures = pictures

    def mapping(self, z: Tensor, c: Tensor | None) -> Tensor:
        return z

    def synthesis(self, ws: Tensor, *_: object) -> Tensor:
        return self.pictures


@pytest.mark.parametrize(
    ("path", "side"),
    items("sg2_tf_conversion", lambda tensors: [side for side in "GD" if under(tensors, f"tf{side}.")]),
)
def test_tensorflow_conversion(path: Path, side: str) -> None:
    t, metadata = load(path)
    convert, arguments, build = {
        "G": (tensorflow.generator_state, tensorflow.generator_arguments, StyleGenerator),
        "D": (
            tensorflow.discriminator_state,
            partial(tensorflow.discriminator_arguments, trained_group=False),
            StyleDiscriminator,
        ),
    }[side]
    variables = under(t, f"tf{side}.")
    static = ast.literal_eval(metadata[f"{side}_static_kwargs"])
    golden = ast.literal_eval(metadata[f"{side}_init_kwargs"])
    state = convert(variables)
    assert state.keys() == under(t, f"{side}.").keys()
    for name, value in under(t, f"{side}.").items():
        assert_close(state[name], value, 0.0)
    assert arguments(static, variables) == golden
    network = build(**golden)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("resample_filter") for name in missing)
    if isinstance(network, StyleGenerator):
        fuse(network)
        if "img_const" in t:
            assert_close(network.eval()(t["z"], noise_mode="const"), t["img_const"], 1e-5)
        return
    for key, logits in t.items():
        if match := re.fullmatch(r"D_logits(_x\d+)?_group(None|\d+)", key):
            network.b4.group_size = None if match[2] == "None" else int(match[2])
            x = t[match[1].removeprefix("_")] if match[1] else t["img_const"]
            assert_close(network(x), logits, 1e-5)


@pytest.mark.parametrize(("path", "key"), items("data_subsets", list))
def test_published_subsets(path: Path, key: str) -> None:
    golden = load(path)[0][key]
    kind, _, rest = key.partition(".")
    # The numbers of a key by their names: `N13.E3.seed0.start4.bs4`.
    given = {name: int(number) for name, number in re.findall(r"([A-Za-z]+)(\d+)", rest)}
    ours: object
    if kind == "cifar_subset":
        ours = subsets.cifar_subset(given["n"], seed=given["seed"])
    elif kind == "multiepoch":
        total, epochs, seed = given["N"], given["E"], given["seed"]
        ours = subsets.multi_epoch_order(total, epochs, seed, given.get("start", 0), given.get("bs", 1))
        if "start" not in given:
            assert list(islice(subsets.epoch_orders(total, seed), total * epochs)) == golden.tolist()
    elif kind == "sg2_dataset":
        indices = subsets.shuffled_then_sorted(given["max"], given["N"], given["seed"])
        flags = np.zeros(len(indices), np.uint8)
        if given["flip"]:
            indices, flags = subsets.mirrored(indices)
        ours = flags if key.endswith(".xflip") else indices
    elif kind == "sg2_sampler":
        ours = list(islice(subsets.infinite_sampler(given["N"], given["seed"]), given["first"]))
    else:
        assert kind == "tfrecord_order"
        ours = subsets.tfrecord_order(given["N"])
    assert torch.equal(torch.from_numpy(np.asarray(ours)).long(), golden.long())
