"""DiffAugment against tensors made by the published code; tolerances as in the goldens' MANIFEST.md."""

from __future__ import annotations

import ast
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from goldens import assert_close, files, folder, load, prefixes, settings
from torch import Tensor

from gengauge.benchmarks.metrics.frechet import Gaussian, fit, frechet_distance
from gengauge.benchmarks.metrics.inception_score import inception_score
from gengauge.benchmarks.metrics.kernel import kernel_distance
from gengauge.benchmarks.metrics.precision_recall import precision_recall
from gengauge.benchmarks.metrics.quantise import to_uint8
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
from gengauge.reference.nets.biggan import (
    Attention,
    ConditionalBatchNorm,
    Discriminator,
    Generator,
    orthogonal_gradient_,
)
from gengauge.reference.nets.ema import update_ema
from gengauge.reference.nets.spectral_norm import SNConv2d, SNEmbedding, SNLinear

PAPER = "diffaugment"
OPS = {
    "rand_brightness": (augment.brightness, ("u",), 1e-5),
    "rand_saturation": (augment.saturation, ("u",), 1e-5),
    "rand_contrast": (augment.contrast, ("u",), 1e-5),
    "rand_translation": (augment.translation, ("tx", "ty"), 0.0),
    "rand_cutout": (augment.cutout, ("ox", "oy"), 0.0),
}
KINDS = (
    "diffaug_ops",
    "diffaug_policies",
    "diffaug_edges",
    "biggan_layers_losses",
    "biggan_nets",
    "biggan_gd",
    "biggan_train",
    "metrics_biggan_is_fid",
    "metrics_sg2pt",
)
AWAITED = ("sg2_", "data_subsets")


def cases(prefix: str, ending: str) -> list[object]:
    """A test item a group of tensors in the files of a kind: (file, what stands before `ending`)."""
    return [
        pytest.param(path, name, id=f"{path.stem}-{name}")
        for path in files(PAPER, prefix)
        for name in prefixes(load(path)[0], ending)
    ]


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def policy_draws(tensors: dict[str, Tensor], prefix: str) -> tuple[str, list[dict[str, Tensor]] | None]:
    """A policy and its draws as written in keys `PREFIX.draw.<i>.<part>.<name>`; None where there are none."""
    found: dict[int, tuple[str, dict[str, Tensor]]] = {}
    for key, value in under(tensors, f"{prefix}.draw.").items():
        position, part, name = key.split(".")
        found.setdefault(int(position), (part, {}))[1][name] = value
    parts = [found[i] for i in sorted(found)]
    return ",".join(part for part, _ in parts), [draws for _, draws in parts] or None


def test_every_golden_file_is_of_a_known_kind() -> None:
    unknown = [path.name for path in folder(PAPER).glob("*.safetensors") if not path.name.startswith(KINDS + AWAITED)]
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
    ("path", "name"),
    [
        case
        for path in files(PAPER, "diffaug_edges")
        for case in [
            pytest.param(path, key, id=f"{path.stem}-{key}") for key in load(path)[0] if key.startswith("limits")
        ]
    ],
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
    precision, recall = precision_recall(real, fake, k=3)
    assert abs(precision - t["precision_k3"].item()) <= 1 / len(fake) + 1e-9
    assert abs(recall - t["recall_k3"].item()) <= 1 / len(real) + 1e-9
    assert_close(to_uint8(t["u8.x"]), t["u8.sg2"], 0.0)


def biggan_networks(cfg: str, tensors: dict[str, Tensor]) -> tuple[Generator, Discriminator]:
    """The networks of a golden, in training, with its weights: settings are written as a dict or as `name value`."""
    if cfg.startswith("{"):
        c = ast.literal_eval(cfg)
    else:
        # `G_ch=D_ch=3 dim_z=8 batch 4 ...`: the CIFAR recipe's options but for widths and classes.
        found = dict(re.findall(r"(\w+)=(\d+)", cfg.replace("G_ch=D_ch=", "D_ch=")))
        c = {**{name: int(value) for name, value in found.items()}, "G_ch": int(found["D_ch"]), "resolution": 32}
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


def spectral_layer(kind: str, t: dict[str, Tensor]) -> torch.nn.Module:
    svs = len([key for key in t if re.fullmatch(r"u\d_before", key)])
    out, inputs = t["weight"].shape[:2]
    layer: torch.nn.Module
    if kind == "snconv":
        layer = SNConv2d(inputs, out, t["weight"].shape[2], "bias" in t, svs, 1e-12)
    elif kind == "snemb":
        layer = SNEmbedding(out, inputs, svs, 1e-12)
    else:
        layer = SNLinear(inputs, out, "bias" in t, svs, 1e-12)
    state = {name: t[name] for name in ("weight", "bias") if name in t}
    state |= {f"u{i}": t[f"u{i}_before"] for i in range(svs)} | {f"sv{i}": torch.ones(1) for i in range(svs)}
    layer.load_state_dict(state)
    return layer


@pytest.mark.parametrize(("path", "name"), cases("biggan_layers_losses", ".u0_before"))
def test_spectral_norm(path: Path, name: str) -> None:
    t = under(load(path)[0], f"{name}.")
    layer = spectral_layer(name, t)
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
    layer = Attention(t["x"].shape[1], partial(SNConv2d, eps=1e-12))
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
        consistency_augment="flip,translation" if dd.flip is not None else "",
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


@pytest.mark.parametrize(("path", "_name"), cases("biggan_train", "it0.x"))
def test_biggan_iterations(path: Path, _name: str) -> None:
    t, metadata = load(path)
    words = dict(re.findall(r"(?<= )([A-Za-z_]\w*) (\([^)]*\)|\S+)", metadata["cfg"]))
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
    training = Training(recipe, networks=biggan_networks(metadata["cfg"], start))
    for i in range(int(words["iters"])):
        draws = [
            step_draws(t, f"it{i}.{step}", t[f"it{i}.{step}.z"], t[f"it{i}.{step}.y"])
            for step in [*(f"D{k}" for k in range(recipe.d_steps)), "G"]
        ]
        metrics = training.step(t[f"it{i}.x"], t[f"it{i}.y"], draws=draws)
        for name, golden in under(t, f"it{i}.metric.").items():
            assert float(metrics[name]) == pytest.approx(golden.item(), rel=1e-4 if i == 0 else 1e-3)
    for network, after, mask in (("G", "G1.", "G"), ("D", "D1.", "D"), ("G_ema", "Gema1.", "G")):
        for name, comparable in under(t, f"mask.{mask}.").items():
            ours, golden, keep = training.networks[network].get_parameter(name), t[f"{after}{name}"], comparable > 0
            assert_close(ours[keep], golden[keep], 1e-5)
