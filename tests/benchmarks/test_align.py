"""`gengauge align`: a folder in a transformer's common frame, with an edit that is carried to all of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from gangealing_tiny import transformer, write_checkpoint
from PIL import Image
from typer.testing import CliRunner

from gengauge.benchmarks import cli
from gengauge.benchmarks.align import align, open_model, read_template
from gengauge.benchmarks.zoo.aligners import ALIGNERS
from gengauge.datasets import world
from gengauge.datasets.weights import WEIGHTS, WeightsNotFound


def read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int16)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures, one of them wide and in a folder of its own."""
    made = world.pictures(3, range(3), 256, species="cat").permute(0, 2, 3, 1).numpy()
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, pixels in zip(("a.png", "b.png", "more/wide.png"), (made[0], made[1], made[2][64:192]), strict=True):
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of a transformer that leaves pictures as they are."""
    return write_checkpoint(tmp_path / "0000001.pt", transformer())


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """A red square in the middle of the frame."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[28:36, 28:36] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_a_folder_is_aligned_drawn_on_and_averaged(photos: Path, model: Path, drawing: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [str(photos), "--model", str(model), "--out", str(out), "--draw", str(drawing), "--maps"]
    result = CliRunner().invoke(cli.app, ["align", *arguments, "--no-flips"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "3 pictures" in result.stdout
    given = {name: read(photos / name) for name in ("a.png", "b.png", "more/wide.png")}
    given["more/wide.png"] = np.pad(given["more/wide.png"], ((64, 64), (0, 0), (0, 0)), mode="edge")
    for name, pixels in given.items():
        aligned, edited, shown = (read(out / kind / f"{name}.png") for kind in ("aligned", "edited", "maps"))
        inside = slice(4, -4)  # beyond, the flow's grid of 64 px ends
        assert np.abs(aligned - pixels)[inside, inside].max() <= 1
        assert (np.abs(edited[124:132, 124:132] - np.array([255, 0, 0])) <= 2).all()
        assert (edited[:100] == pixels[:100]).all()
        assert np.abs(shown - pixels).mean() > 20  # coloured everywhere
    mean = np.mean([read(out / "aligned" / f"{name}.png") for name in given], 0)
    assert np.abs(read(out / "average.png") - mean).max() <= 1
    rows = list(csv.DictReader((out / "pictures.csv").open()))
    assert [row["picture"] for row in rows] == ["a.png.png", "b.png.png", "more/wide.png.png"]
    assert all(float(row["smoothness"]) == 0 and row["mirrored"] == "False" and row["cluster"] == "0" for row in rows)


@pytest.mark.parametrize("aligner", ALIGNERS.values(), ids=lambda aligner: aligner.NAME)
def test_transformers_of_the_zoo_align_too(photos: Path, tmp_path: Path, aligner: object) -> None:
    opened = open_model(aligner.NAME)  # type: ignore[attr-defined]
    assert align(opened, photos, tmp_path / "out") == 3
    assert read(tmp_path / "out" / "average.png").shape == (64, 64, 3)
    with pytest.raises(ValueError, match="holds files already"):
        align(opened, photos, tmp_path / "out")


def test_what_does_not_fit_is_told(photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'lion' is no file and none of the models bicycle, cat, .*poses64"):
        open_model("lion")
    monkeypatch.setenv("GENGAUGE_OFFLINE", "1")
    monkeypatch.delenv(WEIGHTS["gangealing-cat"].variable, raising=False)
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsNotFound, match=r"wget .*cat\.pt"):
        open_model("cat")
    for pixels, mode, message in (
        (np.zeros((8, 8, 3), np.uint8), "RGB", "no transparency"),
        (np.zeros((8, 9, 4), np.uint8), "RGBA", r"9 x 8 px; a drawing in the common frame is square"),
    ):
        Image.fromarray(pixels, mode).save(tmp_path / "drawing.png")
        with pytest.raises(ValueError, match=message):
            read_template(tmp_path / "drawing.png")
    (tmp_path / "drawing.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"drawing\.png is no drawing"):
        read_template(tmp_path / "drawing.png")
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        align(open_model(str(model)), photos, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        align(open_model(str(model)), tmp_path / "nowhere", tmp_path / "other")
