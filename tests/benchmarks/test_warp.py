"""`gengauge warp-points` and `gengauge warp`: from landmarks to points, from points to an edited generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gengauge.benchmarks import cli, generators
from gengauge.benchmarks.generators import read_pickled
from gengauge.benchmarks.papers.gan_warping import edits
from gengauge.benchmarks.training.warping import latents, sample_ws
from gengauge.benchmarks.warp import Base, open_base, points_of_detections, read_rule, warp
from gengauge.benchmarks.zoo import stylegan2_poses
from gengauge.datasets.colour_edits import ColouredPicture, write_colour_folder
from gengauge.datasets.edited_weights import check_base, read_edited_weights, read_low_rank_edit
from gengauge.datasets.network_pickles import StoredNetwork
from gengauge.datasets.warp_edits import PointedPicture, WarpEdit, read_warp_edit
from gengauge.datasets.warp_folders import WarpedPicture, write_warp_folder
from gengauge.reference.gan_warping.low_rank import dense_weight, render
from gengauge.reference.gan_warping.training import Recipe
from gengauge.reference.nets.stylegan2.generator import Generator
from gengauge.reference.nets.stylegan3.generator import CONFIG_R
from gengauge.reference.nets.stylegan3.generator import Generator as Third

RECIPE = Recipe(layers="1", rank=2, stylemix=(3, 6), l1=1.0, lpips=0.0, batch=2, iterations=3)
EDIT = WarpEdit(
    "tiny",
    16,
    tuple(PointedPicture(seed, ((4.0, 4, 6, 3), (10, 10, 10, 10))) for seed in range(3)),
    truncation=0.7,
)


def tiny() -> Generator:
    torch.manual_seed(0)
    g = Generator(8, 0, 8, 16, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    return g.eval().requires_grad_(False)


def call(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"})


def test_cats_ears_become_points_and_an_edit_of_them_is_trained(tmp_path: Path) -> None:
    points = tmp_path / "ears.json"
    made = call("warp-points", "ears", "--pictures", "3", "--first", "5", "--out", str(points))
    assert made.exit_code == 0, made.output
    found = read_warp_edit(points)
    assert found.generator == stylegan2_poses.NAME
    assert [picture.seed for picture in found.pictures] == [5, 6, 7]
    assert np.allclose(
        found.pictures[0].rows(), edits.EARS.points(edits.landmarks(latents([5], 32))[0], 64), atol=0.0101
    )
    out = tmp_path / "out"
    options = ("--iterations", "2", "--batch", "2", "--rank", "3", "--device", "cpu")
    trained = call("warp", str(points), "--out", str(out), *options)
    assert trained.exit_code == 0, trained.output
    g = stylegan2_poses.load()
    factors, dense = read_low_rank_edit(out / "edit.safetensors"), read_edited_weights(out / "edit.pth")
    check_base(factors, g.state_dict())
    ((name, pair),) = factors.factors.items()
    assert pair.rank == 3
    assert list(dense) == [f"{name}.weight"]
    whole = dense_weight(g.get_parameter(f"{name}.weight"), pair.weight_lambda, pair.weight_context)
    assert torch.allclose(whole, dense[f"{name}.weight"], atol=1e-6)
    assert not torch.equal(whole, g.get_parameter(f"{name}.weight"))
    assert (out / "samples.png").is_file()


def test_an_edit_goes_on_where_it_was_and_another_one_is_refused_the_folder(tmp_path: Path) -> None:
    base = Base("tiny", tiny())
    warp(EDIT, base, RECIPE, tmp_path, distance=torch.dist)
    first = read_edited_weights(tmp_path / "edit.pth")
    warp(EDIT, base, RECIPE, tmp_path, distance=torch.dist)  # finished: nothing changes
    again = read_edited_weights(tmp_path / "edit.pth")
    assert all(torch.equal(first[name], value) for name, value in again.items())
    other = WarpEdit("tiny", 16, EDIT.pictures[:2], truncation=0.7)
    with pytest.raises(ValueError, match="another configuration"):
        warp(other, base, RECIPE, tmp_path, distance=torch.dist)


def test_folders_of_published_edits_are_trained(tmp_path: Path) -> None:
    base = Base("tiny", tiny())
    ws = sample_ws(base.network, range(3), 1.0, "cpu")
    points = np.array([[4.0, 4, 6, 3], [10, 10, 10, 10]])
    write_warp_folder(tmp_path / "warped", [WarpedPicture(latent, points) for latent in ws])
    stroke, kept = np.zeros((2, 16, 16), np.float32)
    stroke[4:8, 4:8] = 1
    kept[10:] = 1
    red = np.zeros((16, 16, 3), np.uint8)
    red[4:8, 4:8, 0] = 255
    write_colour_folder(tmp_path / "coloured", [ColouredPicture(latent, red, stroke, kept) for latent in ws])
    made = {}
    for kind in ("warped", "coloured"):
        warp(tmp_path / kind, base, RECIPE, tmp_path / f"{kind}-out", distance=torch.dist)
        made[kind] = read_edited_weights(tmp_path / f"{kind}-out" / "edit.pth")
    logged = [json.loads((tmp_path / f"{kind}-out/training/log.jsonl").read_text().splitlines()[-1]) for kind in made]
    assert [set(line) for line in logged] == [{"iteration", "L1"}, {"iteration", "L1_color", "L1_background"}]
    other = Base("other", Generator(8, 0, 8, 32, synthesis_kwargs={"channel_base": 64, "channel_max": 8}))
    with pytest.raises(ValueError, match=r"latents \(6, 8\); this generator takes \(8, 8\)"):
        warp(tmp_path / "coloured", other, RECIPE, tmp_path / "no", distance=torch.dist)
    with pytest.raises(FileNotFoundError):
        warp(tmp_path, base, RECIPE, tmp_path / "no", distance=torch.dist)
    result = call("warp", str(tmp_path / "warped"), "--out", str(tmp_path / "no"))
    assert "does not tell its generator" in str(result.exception)


def test_cars_are_warped_between_their_bars(tmp_path: Path) -> None:
    base = Base("tiny", tiny())
    ws = sample_ws(base.network, range(3), 1.0, "cpu")
    # Of the 12 rows between the bars: row 13 would be in the lower one.
    write_warp_folder(tmp_path / "cars", [WarpedPicture(latent, np.array([[4.0, 4, 6, 3]])) for latent in ws])
    recipe = replace(RECIPE, crop_bars=True)
    warp(tmp_path / "cars", base, recipe, tmp_path / "out", distance=torch.dist)
    square = tmp_path / "square"
    warp(tmp_path / "cars", base, RECIPE, square, distance=torch.dist)
    (a,), (b,) = (read_edited_weights(folder / "edit.pth").values() for folder in (tmp_path / "out", square))
    assert not torch.equal(a, b)
    write_warp_folder(tmp_path / "low", [WarpedPicture(latent, np.array([[4.0, 4, 6, 13]])) for latent in ws])
    with pytest.raises(ValueError, match="outside"):
        warp(tmp_path / "low", base, recipe, tmp_path / "no", distance=torch.dist)


def test_an_edit_in_which_nothing_moves_is_refused(tmp_path: Path) -> None:
    still = WarpEdit("tiny", 16, tuple(PointedPicture(seed, ((4.0, 4, 4, 4),)) for seed in range(3)))
    with pytest.raises(ValueError, match="no point of the edit moves"):
        warp(still, Base("tiny", tiny()), RECIPE, tmp_path, distance=torch.dist)


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    base = Base("tiny", tiny())
    with pytest.raises(ValueError, match=r"of 32 px; tiny makes 16 px"):
        warp(WarpEdit("tiny", 32, EDIT.pictures), base, RECIPE, tmp_path, distance=torch.dist)
    with pytest.raises(ValueError, match="3 pictures fills no batch of 8"):
        warp(EDIT, base, Recipe(layers="1", stylemix=None), tmp_path, distance=torch.dist)
    with pytest.raises(ValueError, match="is no file, and not stylegan2-poses64"):
        open_base("no such generator")
    result = call("warp-points", "ears", "--landmarks", "found.json", "--out", str(tmp_path / "x.json"))
    assert isinstance(result.exception, ValueError)
    assert "--generator go together" in str(result.exception)


def test_landmarks_of_any_detector_become_points(tmp_path: Path) -> None:
    rule = tmp_path / "nose.json"
    move = {"landmark": "nose", "start": "nose", "end": "brow", "by": 0.5}
    rule.write_text(json.dumps({"moves": [move], "pins": ["chin"]}))
    found = tmp_path / "found.json"
    places = {"nose": [100, 120.5], "brow": [100, 80.5], "chin": [101, 160]}
    found.write_text(json.dumps({"resolution": 256, "pictures": [{"seed": 9, "landmarks": places}]}))
    edit = points_of_detections(read_rule(str(rule)), found, "cats.pkl", "nose")
    assert edit.generator == "cats.pkl"
    assert edit.pictures == (PointedPicture(9, ((100.0, 120.5, 100.0, 100.5), (101.0, 160.0, 101.0, 160.0))),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[]", "no values by name"),
        ('{"moves": []}', "at least one"),
        ('{"moves": [{"landmark": "nose"}]}', "lacks 'start'"),
        ('{"pins": []}', "lacks 'moves'"),
        ('{"moves": [], "more": 1}', "neither moves nor pins"),
    ],
)
def test_a_rule_that_is_none_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rule.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_rule(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ('{"resolution": 64, "pictures": [{"seed": 1, "landmarks": {"chin": [1, 2]}}]}', "no landmark 'left_ear_tip'"),
        ('{"pictures": []}', "lacks 'resolution'"),
        ('{"resolution": 64, "pictures": []}', "at least one picture"),
        ('{"resolution": 64, "pictures": [{"seed": 1, "landmarks": {"left_ear_tip": 3}}]}', "holds no landmarks"),
    ],
)
def test_landmarks_that_are_none_are_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        points_of_detections(edits.EARS, path, "g.pkl", "ears")
    assert str(path) in str(caught.value)


def test_generators_of_all_three_code_bases_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    g = tiny()
    synthesis = {"channel_base": 64, "channel_max": 8}
    sizes: dict[str, Any] = {"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3}
    ada = sizes | {"synthesis_kwargs": synthesis}
    flat = sizes | synthesis | {"fused_modconv_default": "inference_only"}
    third_settings = dict(CONFIG_R) | {"channel_base": 128, "channel_max": 8}
    torch.manual_seed(1)
    third = Third(8, 0, 8, 16, 3, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=third_settings).eval()
    newest = sizes | {"mapping_kwargs": {"num_layers": 2}} | third_settings
    for network, arguments in ((g, ada), (g, flat), (third, newest)):
        stored = StoredNetwork("pytorch", "Generator", arguments, network.state_dict())
        monkeypatch.setattr(generators, "read_networks", lambda path, stored=stored: {"G_ema": stored})
        opened = read_pickled(tmp_path / "g.pkl")
        ws = sample_ws(opened, [3], 1.0, "cpu")
        with torch.no_grad():
            assert torch.equal(render(opened, ws, noise_mode="const"), render(network, ws, noise_mode="const"))
    wrong = StoredNetwork("pytorch", "Generator", ada | {"img_resolution": 32}, g.state_dict())
    monkeypatch.setattr(generators, "read_networks", lambda path: {"G_ema": wrong})
    with pytest.raises(ValueError, match=r"g\.pkl"):
        read_pickled(tmp_path / "g.pkl")
