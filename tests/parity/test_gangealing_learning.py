"""GANgealing's learning, metric and data against tensors of the published code; tolerances as in the goldens' MANIFEST.

Its networks, warps and points are in `test_gangealing.py`, which also sees that no golden stays unread.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gangealing_files import fill, generator_of, hashed, told, transformer_for
from goldens import assert_close, files, folder, load, prefixes, settings, under
from PIL import Image
from torch import Tensor

from gengauge.benchmarks.metrics.pck import hits, pck, relabelled
from gengauge.datasets.cub import cub_crop, enlarged, square_box, to_square
from gengauge.datasets.pairing import disjoint_pairs, epoch_seeds, resampled_pairs
from gengauge.datasets.spair import read_spair
from gengauge.datasets.squares import fitted, frame
from gengauge.reference.gangealing import blending, losses, schedules
from gengauge.reference.gangealing.latents import DirectionInterpolator, kmeans_plus_plus
from gengauge.reference.gangealing.pca import incremental_pca
from gengauge.reference.gangealing.points import Matched, match_flows, transfer_points
from gengauge.reference.gangealing.spatial_transformer import ComposedSTN
from gengauge.reference.gangealing.splatting import splat
from gengauge.reference.gangealing.starting import picture_distances
from gengauge.reference.gangealing.training import Draws, Recipe, Training, align, losses_of, make_pictures
from gengauge.reference.nets.lpips import LPIPS
from gengauge.reference.nets.perceptual import PerceptualLoss
from gengauge.reference.nets.stylegan2.rosinality import Generator

PAPER = "gangealing"
OPERATION = 1e-5
DIRECTION, MEAN, ENCODED = 1e-4, 1e-4, 1e-3  # the last of the largest value
PSI, RATE, EMA = 1e-6, 1e-9, 1e-12  # the second relative
PERCEPTUAL, COSINE, GRADIENT = 1e-4, 0.9999, 5e-2  # the first relative, the last of the largest gradient
KEY_POINTS = 1e-4
BLEND = 1e-4
PCK = 1e-6
BASE_RATE = 1e-3


pytestmark = pytest.mark.usefixtures("one_thread")


def items(prefix: str, of: Callable[[dict[str, Tensor]], list[str]]) -> list[Any]:
    """A test item a name that `of` finds among the tensors of a file of a kind."""
    found = [(path, name) for path in files(PAPER, prefix) for name in of(load(path)[0])]
    return [pytest.param(path, name, id=f"{path.stem}-{name}") for path, name in found]


def whole(prefix: str, of: str = "") -> list[Any]:
    """A test item a file of a kind, `of` being a tensor that it must have."""
    return [pytest.param(path, id=path.stem) for path in files(PAPER, prefix) if not of or of in load(path)[0]]


def prose(path: Path) -> dict[str, Any]:
    """What the MANIFEST tells of a golden as name=number or "name number", with what `settings.json` says before it."""
    found: dict[str, Any] = {}
    manifest = path.parent / "MANIFEST.md"
    if manifest.exists():
        about = re.search(rf"^## {re.escape(path.stem)}\.(.*?)(?=^## |\Z)", manifest.read_text(), re.M | re.S)
        text = about[1].partition("- Keys")[0] if about else ""
        config = "".join(re.findall(r"^- (?:Config|Notes):.*$", text, re.M))
        for name, number in re.findall(r"\b([A-Za-z_]\w*)\s?[= ]\s?(\d+(?:\.\d+)?(?:e-?\d+)?)\b", config):
            found.setdefault(name, float(number))
        if mode := re.search(r"padding (border|reflection|zeros)", config):
            found["padding_mode"] = mode[1]
        found["scaled"] = {name: float(by) for name, by in re.findall(r"([\w.]+) multiplied by ([\d.]+\d)", config)}
        if special := re.search(r"amplitude ([\d.]+) for ([\w.]+) and ([\w.]+\w)", config):
            found["exceptions"] = {name: (float(special[1]), 0.0) for name in special.groups()[1:]}
            if "noise.weight of the generator are ZERO" in config:
                found["exceptions"][".noise.weight"] = (0.0, 0.0)
    return found | settings(path)


def pictures(u8: Tensor) -> Tensor:
    """Stored pictures as the networks see them."""
    return (u8.float() / 255 - 0.5) / 0.5


# ----------------------------------------------------------------------------------------------------------------------
# 03_latent_learner*, 03b_pca*: the target's code and the directions that it lies in


@pytest.mark.parametrize(("path", "name"), items("03_", lambda tensors: prefixes(tensors, "/coefficients")))
def test_latent_learner(path: Path, name: str) -> None:
    golden = under(load(path)[0], f"{name}/")
    outputs = {key: value for key, value in golden.items() if key.startswith("wplus_")}
    w, n_latent = golden["w"], next(iter(outputs.values())).shape[-2]
    inject = injected(outputs, w)
    learner = DirectionInterpolator(
        golden["directions"], golden["lat_mean"], n_latent, inject, len(golden["coefficients"])
    )
    learner.load_state_dict({key: golden[key] for key in ("coefficients", "directions", "lat_mean")})
    for key, expected in outputs.items():
        psi = float(re.findall(r"psi([\d.]+)", key)[0])
        mean = golden["alt_lat_mean"] if "altmean" in key else None
        assert_close(learner(w, psi, mean, unfold="unfold" in key), expected, OPERATION)


def injected(outputs: dict[str, Tensor], w: Tensor) -> int:
    """How many of the first layers are not the picture's own latent, in some output."""
    flat = [value.flatten(0, -3) for value in outputs.values()]
    differs = [(value - w.repeat_interleave(len(value) // len(w), 0)[:, None]).abs().amax((0, 2)) > 0 for value in flat]
    return int(torch.stack(differs).any(0).sum())


@pytest.mark.parametrize(("path", "name"), items("03b_", lambda tensors: prefixes(tensors, "/components")))
def test_incremental_pca(path: Path, name: str) -> None:
    tensors, _ = load(path)
    golden = under(tensors, f"{name}/")
    w = tensors["w_batch"]
    found = incremental_pca(w, len(golden["components"]))
    cosines = (found.components * golden["components"].double()).sum(1)
    assert (1 - cosines.abs()).max() <= DIRECTION
    assert_close(found.mean, golden["mean"], MEAN)
    encoded = golden["encoded_first8"]
    assert_close(found.encode(w[: len(encoded)].double()) * cosines.sign(), encoded, 0.0, ENCODED)
    assert_close(found.explained_variance, golden["explained_variance"], 0.0, ENCODED)


# ----------------------------------------------------------------------------------------------------------------------
# 11_schedules*, 12_regularisers*: psi, learning rates, smoothness, the choice of pictures


@pytest.mark.parametrize("path", whole("11_"))
def test_schedules(path: Path) -> None:
    tensors, _ = load(path)
    steps = int(tensors["psi/num_steps"])
    iterations = tensors["psi/iters"].tolist()
    for key, golden in under(tensors, "psi/").items():
        if key in ("iters", "num_steps"):
            continue
        how = "fast_slow" if key.startswith("fastslow") else key
        more = {"a": float(key.partition("_a")[2])} if how == "fast_slow" else {}
        ours = [schedules.psi(i, steps, how, **more) for i in iterations]  # type: ignore[arg-type]
        assert_close(torch.tensor(ours), golden, PSI)
    # Stored in single precision, used in double.
    schedule = schedules.WarmRestarts(
        float(tensors["lr/period"]), round(float(tensors["lr/decay"]), 6), int(tensors["lr/tm"])
    )
    for i, golden in zip(tensors["lr/iters_after_anneal"].tolist(), tensors["lr/values_float64"].tolist(), strict=True):
        assert BASE_RATE * schedule.factor(i) == pytest.approx(golden, rel=RATE, abs=0)
    annealing, period, iterations, tm = tensors["zero_lr_iters/args_anneal_period_iter_tm"].tolist()
    ends = schedules.WarmRestarts(period, tm=tm).ends(annealing, iterations)
    assert ends == tensors["zero_lr_iters/out"].tolist()
    assert pytest.approx(tensors["ema/decay"].item(), abs=EMA) == schedules.EMA_DECAY


@pytest.mark.parametrize("path", whole("12_"))
def test_regularisers(path: Path) -> None:
    tensors, _ = load(path)
    flow = tensors["delta_flow"]
    assert_close(losses.total_variation(flow), tensors["tv_per_image"], OPERATION)
    for name, of in (("tv", lambda x: losses.total_variation(x).mean()), ("flow_identity", losses.flow_identity)):
        x = flow.clone().requires_grad_()
        loss = of(x)
        assert_close(loss, tensors[name], OPERATION)
        loss.backward()
        assert x.grad is not None
        assert_close(x.grad, tensors[f"{name}_grad"], OPERATION)
    for fraction, golden in under(tensors, "retained_idx_").items():
        assert torch.equal(losses.smooth_enough(tensors["flow_scores"], float(fraction)), golden)
    for k, golden in under(tensors, "acc/at").items():  # the published function takes negative losses
        assert_close(losses.cluster_accuracy(tensors["acc/pred"], -tensors["acc/gt"], int(k)), golden, OPERATION)


# ----------------------------------------------------------------------------------------------------------------------
# 13_perceptual*, 19d_perceptual*: LPIPS and its variant without heads


def vgg(salt: int) -> LPIPS:
    """LPIPS on VGG16 with the recipe's weights."""
    network = LPIPS("vgg").eval()
    state = network.state_dict()
    for name, value in state.items():
        if name.startswith("lin"):
            reach, offset = 0.5, 0.5
        else:
            reach, offset = (0.05, 0.0) if name.endswith("bias") else ((6 / value[0].numel()) ** 0.5, 0.0)
        value.copy_(hashed(name, value.shape, salt, reach, offset))
    network.load_state_dict(state)
    return network


@pytest.mark.parametrize("path", [*whole("13_"), *whole("19d_")])
def test_perceptual(path: Path) -> None:
    tensors, _ = load(path)
    network = vgg(int(prose(path)["salt"]))
    for name, golden in under(tensors, "weights_probe/").items():
        rows = network.get_parameter(name)[tuple(slice(n) for n in golden.shape)]
        assert_close(rows, golden, 1e-7)
    a, b = (pictures(tensors[f"in{i}_u8"]) for i in range(2))
    for kind in ("lpips", "vgg_ssl"):
        loss = PerceptualLoss(kind, network)  # type: ignore[arg-type]
        x = a.clone().requires_grad_()
        golden = next(tensors[key] for key in (kind, f"{kind}/out", f"{kind}/out_div18") if key in tensors).flatten()
        ours = loss(x, b)
        assert ((ours - golden).abs() <= PERCEPTUAL * golden.abs()).all()
        for layer, part in under(tensors, f"{kind}/layer").items():
            found = loss.by_layer(a, b)[int(layer)]
            assert ((found - part.flatten()).abs() <= PERCEPTUAL * part.flatten().abs()).all()
        for key, wanted in under(tensors, f"{kind}/grad_in0_s").items():
            ours.sum().backward()
            assert x.grad is not None
            grad = x.grad[..., :: int(key), :: int(key)]
            assert torch.cosine_similarity(grad.flatten(), wanted.flatten(), dim=0) >= COSINE
            assert_close(grad, wanted, 0.0, GRADIENT)


# ----------------------------------------------------------------------------------------------------------------------
# 18_splat_blend*: points drawn as spots, and edits put over pictures


@pytest.mark.parametrize("path", whole("18_"))
def test_splatting_and_blending(path: Path) -> None:
    tensors, _ = load(path)
    background = tensors["background"]
    size = (background.shape[2], background.shape[3])
    drawn = splat(tensors["coords"], tensors["values"], tensors["sigma"], size)
    mask = splat(tensors["coords"], tensors["alpha"], tensors["sigma"], size, "soft")
    assert_close(drawn, tensors["splat_values"], BLEND)
    assert_close(mask, tensors["splat_alpha_soft"], BLEND)
    ((opacity, golden),) = under(tensors, "alpha_composite_opacity").items()
    over = (tensors["splat_values"], background, tensors["splat_alpha_soft"], float(opacity))
    assert_close(blending.composite(*over), golden, BLEND)
    assert_close(blending.blend(*over), tensors["laplacian"], BLEND)
    assert_close(blending.blend(*over, bands=blending.LIGHT), tensors["laplacian_light"], BLEND)


# ----------------------------------------------------------------------------------------------------------------------
# 17_data_prep*, 17b_spair_loader*, 17c_pair_sampling*: pictures in, pairs in


@pytest.mark.parametrize(("path", "name"), items("17_", lambda tensors: prefixes(tensors, "/img")))
def test_pictures_are_fitted(path: Path, name: str) -> None:
    golden = under(load(path)[0], f"{name}/")
    picture = Image.fromarray(golden["img"].numpy())
    size = len(golden["border_pad"])
    for kind, fit, target in (
        *(("border_pad", "border", size), ("zero_pad", "zero", size), ("center", "center", size)),
        *(("small_side", "small_side", size), ("border_noresize", "border", None)),
    ):
        assert np.array_equal(fitted(picture, target, fit), golden[kind].numpy()), kind  # type: ignore[arg-type]
    how = frame(picture.size, size, "border")
    assert [how.offset_x, how.offset_y, how.scale] == golden["offx_offy_scale"].tolist()
    assert_close(torch.from_numpy(how.moved(golden["kps"].numpy())), golden["kps_pad"], KEY_POINTS)


@pytest.mark.parametrize(("path", "name"), items("17_", lambda tensors: prefixes(tensors, "/acsm_crop")))
def test_birds_are_cut_out(path: Path, name: str) -> None:
    golden = under(load(path)[0], f"{name}/")
    picture, raw = golden["img"].numpy(), golden["bbox_raw0"].numpy()
    assert np.array_equal(enlarged(raw), golden["bbox_perturbed"].numpy())
    box = square_box(enlarged(raw))
    assert list(box) == golden["bbox_square"].tolist()
    size = len(golden["cub_crop"])
    assert np.array_equal(cub_crop(picture, box, None), golden["acsm_crop"].numpy())
    assert np.array_equal(cub_crop(picture, box, size), golden["cub_crop"].numpy())
    assert_close(torch.from_numpy(to_square(golden["kps"].numpy(), box, size)), golden["kps_box"], KEY_POINTS)


@pytest.fixture
def spair_tree(tmp_path: Path) -> Path:
    """The goldens' miniature of SPair-71k under its published names, with colons, which a stored file cannot have."""
    tree = tmp_path / "SPair-71k"
    shutil.copytree(folder(PAPER) / "spair_fake", tree)
    for file in (tree / "PairAnnotation").rglob("*.json"):
        file.rename(file.with_name(re.sub(r"_([a-z]+\.json)$", r":\1", file.name)))
    return tree


@pytest.mark.parametrize("path", whole("17b_"))
def test_pairs_of_spair(path: Path, spair_tree: Path) -> None:
    tensors, _ = load(path)
    (category,) = {file.stem.rpartition(":")[2] for file in (spair_tree / "PairAnnotation").rglob("*.json")}
    (split,) = (place.name for place in (spair_tree / "PairAnnotation").iterdir())
    ((key, images),) = under(tensors, "images_").items()
    fit = key.partition("_pad")[0]
    found = read_spair(spair_tree, category, split, int(key.partition("_pad")[2]), fit)  # type: ignore[arg-type]
    assert torch.equal(found.pictures(range(len(found))).permute(0, 2, 3, 1), images)
    assert found.pairs is not None
    assert torch.equal(found.pairs, tensors["pairs"])
    assert found.lengths is not None
    assert torch.equal(found.lengths, tensors["pck_thresholds"])
    assert found.inverse_coordinates is not None
    assert_close(found.inverse_coordinates, tensors["inverse_coordinates"], KEY_POINTS)
    assert_close(found.key_points, tensors["keypoints"], KEY_POINTS)
    assert found.permutation is not None
    assert torch.equal(found.permutation, tensors["permutation_pt_list"])


@pytest.mark.parametrize(
    ("path", "name"), items("17c_", lambda tensors: [key for key in tensors if key.startswith(("cub", "s"))])
)
def test_pairs_are_drawn(path: Path, name: str) -> None:
    golden = load(path)[0][name]
    seed = int(re.findall(r"seed(\d+)", name)[0])
    generator = torch.Generator().manual_seed(seed)
    if pictures_of := re.match(r"cub_pairs_n(\d+)", name):
        assert torch.equal(disjoint_pairs(int(pictures_of[1]), generator), golden)
    elif "epoch_seeds" in name:
        seeds = epoch_seeds(seed)
        assert [next(seeds) for _ in golden] == golden.flatten().tolist()
    else:
        count = len(golden)  # fixed pairs (0, 1), (2, 3) ...
        assert torch.equal(resampled_pairs(torch.arange(2 * count).view(-1, 2), generator), golden)


# ----------------------------------------------------------------------------------------------------------------------
# 14_train_steps*, 15b_clustering*, 15c_kmeanspp*: training

LOSS, LATER_LOSS = 2e-4, 2e-3  # relative, of the first step and of later ones
STEP_GRADIENT = 2e-3  # of the largest
CODE, WEIGHT, SHARE = 2e-3, 2e-4, 0.95  # the last: of the weights that must be as close as that
RATE_AFTER = 1e-12
PICTURE = 1e-4
PROBABILITY = 1e-4
RECOVERIES, RECOVERED = 8, 1e-6


def perceptual(path: Path) -> PerceptualLoss:
    """The loss of a golden of training: LPIPS with the weights of file 13."""
    other = [file for file in files(PAPER, "13_") if "salt" in prose(file)]
    return PerceptualLoss("lpips", vgg(int(prose(path).get("lpips_salt", prose(other[0])["salt"] if other else 1))))


def learner_of(golden: dict[str, Tensor], n_latent: int, inject: int) -> DirectionInterpolator:
    """The learner that a golden stores."""
    learner = DirectionInterpolator(
        golden["directions"], golden["lat_mean"], n_latent, inject, len(golden["coefficients"])
    )
    learner.load_state_dict(golden)
    return learner


def generator_for(path: Path, about: dict[str, Any]) -> Generator:
    """The frozen generator of a golden of training: of stored weights, else of the recipe's."""
    tensors, _ = load(path)
    if stored := under(tensors, "g_ema/"):
        return generator_of(stored)
    noise = [value for name, value in tensors.items() if "noise_unaligned" in name]
    told_of = {
        "size": max((value.shape[-1] for value in noise), default=0),
        "style_dim": next(value.shape[-1] for name, value in tensors.items() if name.endswith("/z")),
        "n_mlp": about.get("n_mlp", 2),
        **told(path).get("generator", {}),
    }
    given = {name: int(value) for name, value in told_of.items() if name != "channel_multiplier"}
    network = Generator(
        **given,
        channel_multiplier=told_of.get("channel_multiplier", about.get("m", 2)),
        base_channels=int(told(path).get("base_channels", 512)),
    )
    fill(network, int(told(path)["salt"]), exceptions=exceptions_of(about))
    return network


def exceptions_of(about: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Weights that are not filled as all others are, by a part of their name."""
    return {name: tuple(value) for name, value in about.get("exceptions", {}).items()}


def trained_transformer(path: Path, size: int) -> ComposedSTN:
    """The transformer of a golden of training, which sees pictures of `size` px where nothing else is told."""
    about = told(path)
    if "salt" not in about or "stn" in about or under(load(path)[0], "t/"):
        return transformer_for(path)
    network = ComposedSTN(size, base_channels=about.get("base_channels", 512))
    fill(network, about["salt"])
    return network


def training_of(path: Path, start: Tensor | None = None) -> Training:
    """The training of a golden, before its first step; `start` are the code's first coefficients."""
    tensors, _ = load(path)
    about = prose(path)
    g = generator_for(path, about)
    ll = learner_of(under(tensors, "ll/"), g.n_latent, int(about["inject"]))
    t = trained_transformer(path, g.size).train()
    with torch.no_grad():
        for name, factor in about.get("scaled", {}).items():
            t.get_parameter(name).mul_(factor)
        if start is not None:
            ll.coefficients.copy_(start)
    recipe = Recipe(
        loss="lpips",
        tv_weight=about["tv_weight"],
        flow_identity_weight=about["flow_identity_weight"],
        ndirs=len(ll.directions),
        inject_index=ll.inject_index,
        num_heads=len(ll.coefficients),
        padding_mode=about["padding_mode"],
        batch=len(tensors["step1/z"]),
        annealing=int(about["anneal_psi"]),
        schedule=schedules.WarmRestarts(about["period"], about.get("decay", 0.9), int(about.get("tm", 2))),
    )
    return Training(recipe, g, ll, perceptual(path), t=t)


def draws_of(golden: dict[str, Tensor]) -> Draws:
    """What was random in a step."""
    noise, target = (
        [golden[f"noise_{kind}_{layer}"].float() for layer in range(len(under(golden, f"noise_{kind}_")))]
        for kind in ("unaligned", "target")
    )
    return Draws(golden["z"], noise, target)


def stored_steps(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """What a golden has of each step."""
    count = max(int(found[1]) for key in tensors if (found := re.match(r"step(\d+)/", key)))
    return [under(tensors, f"step{i}/") for i in range(1, count + 1)]


def first_coefficients(path: Path) -> Tensor:
    """What the code starts from. A golden whose learner was stored after the training has it at the end only.

    The start is then found from the end: how far the steps move hardly depends on where they begin.
    """
    tensors, _ = load(path)
    stored, end = tensors["ll/coefficients"], tensors["final/ll.coefficients"]
    if not torch.equal(stored, end):
        return stored
    start = stored
    for _ in range(RECOVERIES):
        training = training_of(path, start)
        for golden in stored_steps(tensors):
            training.step(draws=draws_of(golden))
        miss = training.ll.coefficients.detach() - end
        start = start - miss
        if miss.abs().max() < RECOVERED:
            break
    return start


@pytest.mark.parametrize("path", whole("14_"))
def test_steps_of_training(path: Path) -> None:
    tensors, _ = load(path)
    training = training_of(path, first_coefficients(path))
    for i, golden in enumerate(stored_steps(tensors)):
        assert training.psi == pytest.approx(golden["psi"].item(), abs=PSI)
        found = training.step(draws=draws_of(golden))
        for name in ("perceptual", "tv", "flow_identity", "full"):
            assert_close(found[name], golden[name], 0.0, LATER_LOSS if i else LOSS)
        rates = list(training.rates().values())
        assert_close(torch.tensor(rates, dtype=torch.float64), golden["lr_after"], RATE_AFTER)
        for name, wanted in under(tensors, f"grad{i + 1}/").items():
            assert_close(of_parameter(training, name).grad, wanted, 0.0, STEP_GRADIENT)  # type: ignore[arg-type]
    for name, wanted in under(tensors, "final/").items():
        ours = of_parameter(training, name).detach()
        if name.startswith("ll."):
            assert_close(ours, wanted, CODE)
        else:
            assert ours.shape == wanted.shape
            assert ((ours - wanted).abs() <= WEIGHT).float().mean() >= SHARE, name


def of_parameter(training: Training, name: str) -> torch.nn.Parameter:
    """The parameter by a golden's name: `ll.`, `t.` or `t_ema.` before it, or nothing where it is T's."""
    for prefix, network in (("ll.", training.ll), ("t_ema.", training.t_ema), ("t.", training.t)):
        if name.startswith(prefix):
            return network.get_parameter(name.removeprefix(prefix))
    return training.t.get_parameter(name)


def clustering(path: Path) -> tuple[Generator, ComposedSTN]:
    """The networks of the goldens of clusters, which are not stored."""
    about, exceptions = told(path), exceptions_of(prose(path))
    stn = {key: value for key, value in about["stn"].items() if key != "transforms"}
    t = ComposedSTN(**stn, base_channels=about["base_channels"])
    fill(t, about["salt"], exceptions=exceptions)
    return generator_for(path, prose(path)), t


@pytest.mark.parametrize(("path", "name"), items("15b_", lambda tensors: prefixes(tensors, "/distance")))
def test_training_with_clusters(path: Path, name: str) -> None:
    tensors, _ = load(path)
    golden, about = under(tensors, f"{name}/"), prose(path)
    g, t = clustering(path)
    g.requires_grad_(False)
    ll = learner_of(under(tensors, "ll/"), g.n_latent, int(about["inject"]))
    recipe = Recipe(
        loss="lpips",
        tv_weight=about["tv_weight"],
        flow_identity_weight=about.get("flow_identity_weight", 1.0),
        num_heads=t.num_heads,
        flips=name == "flips1",
        sample_from_full_res=True,
        padding_mode=about["padding_mode"],
        batch=len(golden["z"]),
    )
    made = make_pictures(g, ll, t.flow_size, about["psi"], golden["z"], generator=torch.Generator().manual_seed(0))
    aligned = align(t, perceptual(path), made, recipe)
    assert torch.equal(aligned.found, golden["assign_idx"])
    assert_close(aligned.distances, golden["distance"], 0.0, LOSS)
    assert_close(aligned.nearest, golden["assign_val"], 0.0, LOSS)
    assert_close(aligned.warped.image[: len(golden["pred0"])], golden["pred0"], PICTURE)
    assert aligned.delta is not None
    assert list(aligned.delta.shape) == golden["delta_assigned_shape"].tolist()
    found = losses_of(aligned, recipe)
    assert_close(found["perceptual"], golden["perceptual"], 0.0, LOSS)
    assert_close(found["tv"], golden["delta_assigned_tv"], 0.0, LOSS)
    found["full"].backward()
    for key, parameter in {
        "grad_ll": ll.coefficients,
        "grad_linear": t.get_parameter("stns.0.warp_head.linear.weight"),
        "grad_flow_out2": t.get_parameter("stns.1.warp_head.flow_out.2.weight"),
    }.items():
        assert parameter.grad is not None
        assert_close(parameter.grad, golden[key], 0.0, STEP_GRADIENT)


@pytest.mark.parametrize("path", whole("15b_"))
def test_pictures_of_clusters(path: Path) -> None:
    tensors, _ = load(path)
    _, t = clustering(path)
    x = pictures(tensors["img_u8"])
    with torch.no_grad():
        for key in tensors:
            if said := re.fullmatch(r"cartesian_unfold/out(?:_s(\d+))?", key):
                ours = t(x).image.unflatten(0, (len(x), t.num_heads))
                step = int(said[1] or 1)
                assert_close(ours[..., ::step, ::step], tensors[key], PICTURE)
            elif said := re.fullmatch(r"assign_iters(\d+)/out", key):
                assert_close(t(x, iters=int(said[1]), policy=tensors["policy"]).image, tensors[key], PICTURE)


@pytest.mark.parametrize("path", whole("15c_"))
def test_kmeans_plus_plus(path: Path) -> None:
    tensors, _ = load(path)
    other = next(iter(files(PAPER, "15b_")), path)  # whose generator it is
    g, _ = clustering(other)
    w = tensors["w_batch"]
    picks = [int(tensors["first_index"]), *(int(tensors[f"pick_{i}"]) for i in range(len(under(tensors, "pick_"))))]
    mean = w.mean(0, keepdim=True)
    distances = picture_distances(g, perceptual(other), w, mean, int(prose(path)["inject"]), g.size)
    found = kmeans_plus_plus(len(picks), len(w), distances, picks=picks)
    for i, probability in enumerate(found.probabilities):
        assert_close(probability, tensors[f"prob_{i}"], PROBABILITY)
    assert torch.equal(w[list(found.indices)], tensors["centroids"])


# ----------------------------------------------------------------------------------------------------------------------
# 10_pck*: points transferred between pairs of pictures, and how many come near enough

TRANSFERRED = 2e-3  # px
MEASURED = re.compile(
    r"flip(?P<flip>[01])_both(?P<both>[01])_perm(?P<perm>[01])(?:_iters(?P<iters>\d+))?"
    r"(?:_(?P<padding>border|reflection|zeros))?(?P<drop>_dropLastPair)?"
)


def lengths_of(batch: dict[str, Tensor], side: str) -> Any:
    """What distances are set against on pictures of a side: their objects as in SPair, or the pictures as in CUB."""
    if f"thresh{side}" in batch:
        return (batch[f"thresh{side}"] * batch[f"scale{side}"]).numpy()
    return max(batch[f"imgs{side}_u8"].shape[-2:])


def matched(
    network: ComposedSTN, batch: dict[str, Tensor], permutation: Tensor | None, flip: bool, **how: Any
) -> Matched:
    """Pictures and points of a batch, mirrored where that is better."""
    a, b = pictures(batch["imgsA_u8"]), pictures(batch["imgsB_u8"])
    points = batch["kpsA"][..., :2], batch["kpsB"][..., :2]
    if flip:
        return match_flows(network, a, b, *points, permutation, **how)
    nothing = torch.zeros(len(a), dtype=torch.long)
    return Matched(a, b, *points, nothing, torch.arange(points[0].shape[1]).expand(len(a), -1))


@pytest.mark.parametrize(("path", "name"), items("10_", lambda tensors: [key for key in tensors if key[:4] == "pck/"]))
def test_pck(path: Path, name: str) -> None:
    tensors, _ = load(path)
    said = MEASURED.fullmatch(name.removeprefix("pck/"))
    assert said, f"no test reads {name}"
    batch = under(tensors, "batch/")
    if said["drop"]:
        batch = {key: value[:-1] for key, value in batch.items()}
    network = transformer_for(path)
    how = {"iters": int(said["iters"] or 1), "padding_mode": said["padding"] or "border"}
    permutation = tensors["permutation"] if said["perm"] == "1" else None
    pairs = matched(network, batch, permutation, said["flip"] == "1", **how)
    visible = (batch["kpsA"][..., 2] * batch["kpsB"][..., 2]).numpy()
    alphas = tuple(round(alpha, 6) for alpha in tensors["alphas"].tolist())
    estimated = transfer_points(network, pairs.a, pairs.b, pairs.points_a, **how)
    found = hits(estimated.numpy(), pairs.points_b.numpy(), visible, lengths_of(batch, "B"), alphas)
    if said["both"] == "1":
        back = transfer_points(network, pairs.b, pairs.a, pairs.points_b, **how)
        found = found + hits(back.numpy(), pairs.points_a.numpy(), visible, lengths_of(batch, "A"), alphas)
    assert_close(torch.from_numpy(pck(found) / 100), tensors[name], PCK)


@pytest.mark.parametrize("path", whole("10_", "match_pick"))
def test_transferred_points(path: Path) -> None:
    tensors, _ = load(path)
    batch, network = under(tensors, "batch/"), transformer_for(path)
    pairs = matched(network, batch, tensors["permutation"], True)
    assert torch.equal(pairs.pick, tensors["match_pick"].flatten())
    assert_close(pairs.points_a, tensors["match_pointsA"], TRANSFERRED)
    assert_close(pairs.points_b, tensors["match_pointsB"], TRANSFERRED)
    assert_close(transfer_points(network, pairs.a, pairs.b, pairs.points_a), tensors["est_kpsB_flip"], TRANSFERRED)
    plain = matched(network, batch, None, False)
    assert_close(transfer_points(network, plain.a, plain.b, plain.points_a), tensors["est_kpsB_noflip"], TRANSFERRED)
    # The metric's own labels are those of the matched points.
    side = pictures(batch["imgsA_u8"]).shape[-1]
    turned = (pairs.pick % 2 == 1).numpy()
    mirrored = batch["kpsA"][..., :2].numpy().copy()
    mirrored[turned, :, 0] = side - 1 - mirrored[turned, :, 0]
    seen = batch["kpsA"][..., 2].numpy()
    points, kept = relabelled(mirrored, seen, tensors["permutation"].numpy(), turned, (pairs.pick >= 2).numpy())
    assert_close(torch.from_numpy(points), tensors["match_pointsA"], TRANSFERRED)
    assert np.array_equal(kept, seen)
