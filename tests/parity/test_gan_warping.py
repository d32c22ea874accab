"""GAN Warping's warps, layers and training against tensors of the published code; tolerances as in the MANIFEST."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from gan_warping_files import generator_of
from gan_warping_fill import filled_lpips
from goldens import assert_close, files, folder, load, prefixes, under
from torch import Tensor

from gengauge.reference.gan_warping.latents import mix, move_along, strengths
from gengauge.reference.gan_warping.low_rank import compose, feature, layers, render, selected
from gengauge.reference.gan_warping.moving_least_squares import deformation, move_points
from gengauge.reference.gan_warping.training import ColourWeights, Draws, Recipe, Training, karras_rate
from gengauge.reference.gan_warping.warps import normalised_grid, pixel_grid, remap, warp, with_corners
from gengauge.reference.nets.stylegan2.layers import MappingNetwork

PAPER = "gan_warping"
IMAGE = 3e-5
# What `test_gan_warping_metrics.py` and `test_gan_warping_files.py` read.
ELSEWHERE = ("metrics_", "dexined_", "warp_dataset", "color_mask_and_dataset")
READ: set[Path] = set()  # the files that gave a test item


def of_kind(prefix: str) -> list[Path]:
    found = files(PAPER, prefix)
    READ.update(found)
    return found


def items(prefix: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", of_kind(prefix), ids=lambda path: path.stem)


def size_of(golden: dict[str, Tensor]) -> tuple[int, int]:
    height, width = golden["size_hw"].long().tolist()
    return height, width


@items("mls_")
def test_moving_least_squares(path: Path) -> None:
    golden, _ = load(path)
    source, target, size = golden["src_xy"], golden["tgt_xy"], size_of(golden)
    alpha = float(golden["alpha"]) if "alpha" in golden else 1.0
    # Goldens hold rows first.
    if "similarity" not in golden:
        assert_close(deformation(source, target, size, alpha=alpha).flip(0), golden["affine"], 1e-4)
        return
    assert_close(deformation(source, target, size, alpha=alpha).flip(0), golden["affine"], 5e-5)
    for kind in ("similarity", "rigid"):
        ours = deformation(source, target, size, kind, alpha).flip(0)
        assert torch.isfinite(ours).all()
        finite = torch.isfinite(golden[kind])
        assert finite.float().mean() > 0.9
        assert_close(ours[finite], golden[kind][finite], 2e-4)


@items("mls_")
def test_single_points_move_forwards(path: Path) -> None:
    golden, _ = load(path)
    for start, end in (("pt_in", "pt_out"), ("pt_at_ctrl_in", "pt_at_ctrl_out")):
        if start in golden:
            alpha = float(golden["alpha"])
            ours = move_points(golden[start], golden["src_xy"], golden["tgt_xy"], alpha)
            assert_close(ours, golden[end].double(), 1e-6)


@items("warpgrid_")
def test_warp_grids(path: Path) -> None:
    golden, _ = load(path)
    image_res, target_res, car = (int(x) for x in golden["config"].tolist())
    height, width = golden["warp_grid_xy_pixels"].shape[1:]
    assert (height, width) == (image_res * 3 // 4 if car else image_res, image_res)
    points = with_corners(golden["keypoints_file"].double(), (height, width))
    assert torch.equal(points, golden["keypoints_with_corners"].double())
    pixels = pixel_grid(points, (height, width))
    assert_close(pixels, golden["warp_grid_xy_pixels"], 5e-5)
    size = (target_res * 3 // 4 if car else target_res, target_res)
    grid = normalised_grid(pixels, size)
    assert_close(grid, golden["warp_grid_normalized"], 5e-6)
    pictures = golden["image"]
    stored = golden["warp_grid_normalized"].expand(len(pictures), -1, -1, -1)
    assert_close(warp(pictures, stored, bool(car)), golden["warped"], 1e-5)
    assert_close(warp(pictures, grid.expand_as(stored), bool(car)), golden["warped"], 2e-4)
    still = normalised_grid(pixel_grid(points[-4:], (height, width)), size)
    assert_close(still, golden["identity_grid_normalized"], 5e-6)
    unmoved = golden["identity_grid_normalized"].expand(len(pictures), -1, -1, -1)
    assert_close(warp(pictures, unmoved, bool(car)), golden["identity_warped"], 1e-5)
    ours = torch.from_numpy(remap(golden["image_u8"].numpy(), golden["warp_grid_xy_pixels"]))
    difference = (ours.int() - golden["warp_by_keypoints_u8"].int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 0.15


def edit_of(golden: dict[str, Tensor], told: dict[str, str]) -> Training:
    """A training with the golden's generator and factors."""
    g = generator_of(golden, told).eval().requires_grad_(False)
    only_weight = told.get("only_weight", "True") == "True"
    recipe = Recipe(told["layer_index"], int(told["rank"]), only_weight=only_weight, stylemix=None, l1=1.0, lpips=0.0)
    training = Training(recipe, g)
    layer = training.update.layers[0]
    with torch.no_grad():
        layer.weight_lambda.copy_(golden["L_lambda"])
        layer.weight_context.copy_(golden["D_context"])
        for name, value in under(golden, "extra/").items():
            key = name.rpartition(".")[2]
            layer.get_parameter(key).copy_(value.reshape(layer.get_parameter(key).shape))
    return training


@items("lowrank_")
def test_low_rank_updates(path: Path) -> None:
    golden, told = load(path)
    training = edit_of(golden, told)
    g, update = training.g, training.update
    assert layers(g) == ast.literal_eval(told["module_list"])
    assert layers(g, "affine") == ast.literal_eval(told["module_list_affine"])
    assert selected(layers(g), told["layer_index"]) == [told["updated_module"]]
    ws = golden["w_psi1"]
    assert_close(g.mapping(golden["z"], None), ws, 1e-5)
    assert_close(g.mapping(golden["z"], None, truncation_psi=0.7), golden["w_psi0.7"], 1e-5)
    base = render(g, ws, noise_mode="const")
    assert_close(base, golden["img_base"], IMAGE)
    assert_close(render(g, golden["w_psi0.7"], noise_mode="const"), golden["img_base_psi0.7"], IMAGE)
    start = Training(training.recipe, g).update
    assert torch.equal(render(g, ws, start.tensors(), noise_mode="const"), base)
    edited = render(g, ws, update.tensors(), noise_mode="const")
    assert_close(edited, golden["img_edited"], IMAGE)
    saved = under(golden, "saved/")
    tensors = update.tensors()
    assert set(tensors) == set(saved)
    for name, value in saved.items():
        assert_close(tensors[name].reshape(value.shape), value, 1e-6)
    if "feat_target_layer" in golden:
        name = layers(g)[int(told["target_layer_index"])]
        wanted = golden["feat_target_layer"]
        assert_close(feature(g, name, ws), wanted, 1e-3 * float(wanted.std()))


@items("lowrank_")
def test_gradients_of_low_rank_updates(path: Path) -> None:
    golden, told = load(path)
    training = edit_of(golden, told)
    edited = render(training.g, golden["w_psi1"], training.update.tensors(), noise_mode="const")
    loss = (edited - golden["grad_target"]).square().mean()
    assert_close(loss.detach()[None], golden["grad_mse_loss"], 0, 1e-5)
    loss.backward()
    layer = training.update.layers[0]
    wanted = {"weight_lambda": golden["grad_L"], "weight_context": golden["grad_D"]}
    wanted |= {name.rpartition(".")[2]: value for name, value in under(golden, "grad_extra/").items()}
    for key, value in wanted.items():
        found = layer.get_parameter(key).grad
        assert found is not None
        assert_close(found.reshape(value.shape), value, 0, 1e-4)


@items("stylemix")
def test_style_mixing(path: Path) -> None:
    golden, _ = load(path)
    for tag in prefixes(golden, "/mixed"):
        mine = under(golden, f"{tag}/")
        state = under(mine, "mapping/")
        count = sum(name.endswith(".weight") for name in state)
        mapping = MappingNetwork(mine["z"].shape[1], 0, state["w_avg"].numel(), mine["latents"].shape[1], count)
        mapping.load_state_dict(state)
        mapping.eval()
        assert_close(mapping(mine["z"], None), mine["w_mix"], 1e-5)
        start, end = mine["range"].long().tolist()
        assert torch.equal(mix(mine["latents"], mine["w_mix"], (start, end)), mine["mixed"])


@items("lr_schedule")
def test_rates(path: Path) -> None:
    golden, _ = load(path)
    for key in (k for k in golden if k.startswith("cfg_lr_up_down_maxiter_")):
        lr, up, down, iterations = golden[key].double().tolist()
        ours = [karras_rate(step, int(iterations), lr, up, down) for step in range(int(iterations))]
        wanted = golden[f"lr_{key.rpartition('_')[2]}"].double()
        assert_close(torch.tensor(ours, dtype=torch.float64), wanted, 1e-15)


def trained(
    golden: dict[str, Tensor], told: dict[str, str], training: Training, labels: Tensor
) -> dict[str, list[float]]:
    """Takes the golden's steps from its start, checking the factors after each; the losses by name."""
    layer = training.update.layers[0]
    with torch.no_grad():
        layer.weight_lambda.copy_(golden["L_init"])
        layer.weight_context.copy_(golden["D_init"])
    tolerance = 2e-4 if training.colours else 5e-4
    losses: dict[str, list[float]] = {}
    for step, z in enumerate(golden["z_draws"]):
        assert training.recipe.rate(step) == pytest.approx(float(golden["lr_per_step"][step]), rel=1e-6, abs=1e-12)
        batch = golden["batch_indices"][step % len(golden["batch_indices"])].long()
        ws, targets = golden["latents"][batch], labels[batch]
        if "step0_output" in golden and step == 0:
            made, base = training.pictures(ws, draws=Draws(z=z))
            assert_close(made.detach(), golden["step0_output"], IMAGE)
            assert_close(warp(base, targets), golden["step0_target"], IMAGE)
            mixed = mix(ws, training.g.mapping(z, None), training.recipe.stylemix) if training.recipe.stylemix else ws
            assert_close(mixed, golden["step0_latents_mixed"], 1e-5)
        for name, value in training.step(ws, targets, draws=Draws(z=z)).items():
            losses.setdefault(name, []).append(float(value))
        assert_close(layer.weight_context.detach(), golden["D_after"][step], tolerance if step else 0)
        assert_close(layer.weight_lambda.detach(), golden["L_after"][step], tolerance if step else 0)
    for name, value in under(golden, "saved/").items():
        assert_close(training.update.tensors()[name].detach(), value, tolerance * 10)
    return losses


def recipe_of(golden: dict[str, Tensor], told: dict[str, str], **losses: float) -> Recipe:
    start, end = (int(x) for x in told["stylemix_layers"].split(","))
    more = {key: float(told[key]) for key in ("rampup", "rampdown") if key in told}
    return Recipe(
        layers=told["layer_index"],
        rank=int(told["rank"]),
        stylemix=None if told.get("no_stylemix_aug") == "True" else (start, end),
        batch=golden["batch_indices"].shape[1],
        iterations=int(told["max_iter"]),
        lr=float(told["lr"]),
        **more,
        **losses,
    )


@items("train_warp_")
def test_training_a_warp(path: Path) -> None:
    golden, told = load(path)
    l1, mse, lpips = ast.literal_eval(told["lambda_l1_mse_lpips"])
    distance = filled_lpips("vgg", int(told["lpips_fill_seed"]), under(golden, "lpips_")) if lpips else None
    g = generator_of(golden, told).eval().requires_grad_(False)
    training = Training(recipe_of(golden, told, l1=l1, mse=mse, lpips=lpips), g, distance)
    size = golden["step0_output"].shape[-1]
    for points, grid in zip(golden["keypoints_no_corners"], golden["warp_grids"], strict=True):
        pixels = pixel_grid(with_corners(points.double(), (size, size)), (size, size))
        assert_close(normalised_grid(pixels), grid, 5e-6)
    losses = trained(golden, told, training, golden["warp_grids"])
    wanted = under(golden, "loss/")
    assert set(losses) == set(wanted)
    for name, values in losses.items():
        assert values == pytest.approx(wanted[name].tolist(), rel=1e-3)
        assert values[0] == pytest.approx(float(wanted[name][0]), rel=1e-4)


@items("train_color")
def test_training_a_colour(path: Path) -> None:
    golden, told = load(path)
    g = generator_of(golden, told).eval().requires_grad_(False)
    weights = ColourWeights(float(told["lambda_l1_clr"]), float(told["lambda_l1_bg"]))
    training = Training(recipe_of(golden, told, rampdown=0.5), g, colours=weights)
    masks = torch.stack([golden["color_masks"], golden["background_masks"]], 1)
    losses = trained(golden, told, training, torch.cat([golden["colors"], masks], 1))
    for name, values in losses.items():
        assert values == pytest.approx(golden[f"loss/{name}"].tolist(), rel=1e-4)
    assert losses["L1_background"][:2] == [0, 0]


@items("compose")
def test_composition(path: Path) -> None:
    golden, told = load(path)
    g = generator_of(golden, told).eval()
    base = dict(g.state_dict())
    numbers = sorted({key.partition("/")[0] for key in golden if key.startswith("edit")})
    edits = [under(golden, f"{number}/") for number in numbers]
    scales = golden["scales"].tolist()
    ways = {"all": scales, "first_only": [scales[0], *[0.0] * (len(edits) - 1)], "all_full": [1.0] * len(edits)}
    ws = g.mapping(golden["z"], None, truncation_psi=float(told["truncation_psi"]))
    for way, mine in ways.items():
        changed = compose(base, edits, mine)
        for name, value in under(golden, f"{way}/").items():
            if name != "img":
                assert_close(changed[name], value, 1e-6)
        assert_close(render(g, ws, changed, noise_mode="const").detach(), golden[f"{way}/img"], IMAGE)


@items("ganspace_edit")
def test_ganspace(path: Path) -> None:
    golden, told = load(path)
    g = generator_of(golden, told).eval()
    start, end = ast.literal_eval(told["layers_half_open"])
    steps = strengths(float(told["strength"]), int(told["num_frames"]))
    assert_close(steps, golden["s_range"].float(), 1e-6)
    moved = move_along(golden["latents"], golden["pcs_scaled"][int(told["comp_idx"])], steps, (start, end))
    with torch.no_grad():
        made = render(g, moved.flatten(0, 1), noise_mode="const")
    frames = ((made + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).reshape(golden["frames_u8"].shape)
    difference = (frames.int() - golden["frames_u8"].int()).abs()
    assert difference.max() <= 1
    assert (difference == 0).float().mean() >= 0.995


def test_every_golden_is_read() -> None:
    theirs = {path for prefix in ELSEWHERE for path in files(PAPER, prefix)}
    assert set(folder(PAPER).glob("*.safetensors")) == READ | theirs
