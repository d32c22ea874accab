"""Features: resizing as clean-fid and TensorFlow do it, extraction in one pass, the cache, and the whole evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from gengauge.benchmarks.cli import UNAVAILABLE, app
from gengauge.benchmarks.evaluate import evaluate, read_statistics, score
from gengauge.benchmarks.features import cache
from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import FeatureNetwork, load_network
from gengauge.benchmarks.features.resize import resizer
from gengauge.benchmarks.metrics.frechet import fit
from gengauge.datasets import world
from gengauge.datasets.weights import find
from gengauge.reference.nets.inception import Inception2015


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder(path: Path, seed: int, count: int, size: int = 20) -> Path:
    path.mkdir()
    for i, picture in enumerate(world.pictures(seed, range(count), size)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path / f"{i:03}.png")
    return path


class Stub(torch.nn.Module):
    """Eight numbers of a picture, cheap and not constant; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 24).view(8, 3))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.cat([x.mean((2, 3)) @ self.weight[:4].T, x.std((2, 3)) @ self.weight[4:].T], 1)


def stub(size: int = 12) -> FeatureNetwork:
    return FeatureNetwork(
        "efficientnet-lite0", "FD-EfficientNetLite0", size, 8, Stub(), lambda x, mode: x / 255, None, "stub"
    )


@pytest.mark.parametrize("shape", [(32, 32, 3), (17, 40, 3), (400, 300, 3)])
@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
def test_resizing_is_clean_fids(mode: str, shape: tuple[int, int, int]) -> None:
    picture = noise(*shape)
    np.testing.assert_array_equal(resizer(mode, 299)(picture), build_resizer(mode)(picture))  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width", "size"), [(4, 7, 10), (32, 32, 299), (13, 11, 5)])
def test_tensorflows_resizing_by_its_definition(height: int, width: int, size: int) -> None:
    picture = noise(height, width, 3)
    out = resizer("legacy_tensorflow", size)(picture)
    for i, j in [(0, 0), (size - 1, size - 1), (size // 2, size // 3), (1, size - 2)]:
        y, x = i * height / size, j * width / size
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        rows = [
            p[left] * (1 - x + left) + p[right] * (x - left)
            for p in (picture[top].astype(float), picture[bottom].astype(float))
        ]
        np.testing.assert_allclose(out[i, j], rows[0] * (1 - y + top) + rows[1] * (y - top), atol=1e-2)


def test_resizing_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        resizer("clean", 299)(np.zeros((5, 5), np.uint8))
    with pytest.raises(ValueError, match="no resizing 'best'"):
        resizer("best", 299)  # type: ignore[arg-type]


def test_files_and_tensors_give_the_same_features_in_order(tmp_path: Path) -> None:
    pictures = world.pictures(0, range(21), 20)
    paths = sorted(folder(tmp_path / "a", 0, 21).iterdir())
    from_files, from_tensor = extract(paths, stub()), extract(pictures, stub())
    np.testing.assert_array_equal(from_files, from_tensor)
    np.testing.assert_allclose(extract(pictures[5:6], stub()), from_tensor[5:6], rtol=1e-6)
    told: list[tuple[int, int]] = []
    extract(pictures, stub(), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (21, 21)


def test_extraction_names_a_bad_picture_and_refuses_bad_input(tmp_path: Path) -> None:
    paths = sorted(folder(tmp_path / "a", 0, 3).iterdir())
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"001\.png cannot be read"):
        extract(paths, stub())
    with pytest.raises(ValueError, match="uint8 tensor"):
        extract(torch.zeros(2, 3, 8, 8), stub())
    with pytest.raises(ValueError, match="is for GPUs"):
        extract(world.pictures(0, range(2), 16), stub(), precision="bf16")


def test_features_are_computed_once_by_content(tmp_path: Path) -> None:
    network = stub()
    paths = sorted(folder(tmp_path / "a", 1, 5).iterdir())
    first = cache.features(paths, network)
    assert network.network.calls == 1
    renamed = [path.rename(path.with_name("x" + path.name)) for path in paths]
    np.testing.assert_array_equal(cache.features(renamed, network), first)
    assert network.network.calls == 1
    cache.features(renamed[:4], network)
    cache.features(renamed, network, "legacy_pytorch")
    assert network.network.calls == 3
    Image.fromarray(noise(20, 20, 3)).save(renamed[0])
    assert not np.array_equal(cache.features(renamed, network), first)


def test_a_damaged_cache_file_is_made_again() -> None:
    network, pictures = stub(), world.pictures(7, range(4), 16)
    first = cache.features(pictures, network)
    newest = max(cache.cache_folder().glob("features/*.npy"), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:50])
    np.testing.assert_array_equal(cache.features(pictures, network), first)
    assert network.network.calls == 2


def test_features_equal_the_torchscript_file_as_clean_fid_runs_it() -> None:
    network = load_network("inception")
    source = find("inception")
    assert source is not None
    from gengauge.datasets.weights import WEIGHTS, carried

    file = carried(WEIGHTS["inception"])
    assert file is not None
    with pytest.warns(FutureWarning):  # torch.jit.load is deprecated; the comparison needs it
        script = torch.jit.load(str(file)).eval()
    pictures = torch.cat([world.pictures(0, range(4), 48), torch.from_numpy(noise(2, 3, 48, 48))])
    resize = build_resizer("clean")
    x = torch.from_numpy(np.stack([resize(p.permute(1, 2, 0).numpy()) for p in pictures])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        theirs = script.net.layers((x - 128) / 128).view(len(x), -1).numpy()
    ours = extract(pictures, network)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_a_user_may_bring_weights_with_the_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Inception2015(with_logits=True)
    torch.save({**network.state_dict(), "AuxLogits.conv0.conv.weight": torch.zeros(1)}, tmp_path / "own.pth")
    loaded = load_network("inception", tmp_path / "own.pth")
    features = extract(world.pictures(0, range(12), 32), loaded)
    (found,) = score(features, features, loaded, ["is"])
    assert found.value is not None
    assert 1 <= found.value < 1008
    save_file({"something": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no weights of inception"):
        load_network("inception", tmp_path / "other.safetensors")


def test_scores_of_a_folder_against_itself_and_against_its_statistics(tmp_path: Path) -> None:
    a, b, network = folder(tmp_path / "a", 1, 14), folder(tmp_path / "b", 2, 12), stub()
    same = {s.name: s for s in evaluate(a, a, network=network)}
    assert same["FD-EfficientNetLite0"].value == pytest.approx(0, abs=1e-7)  # roots of rounding
    assert same["precision-EfficientNetLite0"].value == 1
    other = {s.name: s for s in evaluate(a, b, network=network)}
    assert (other["FD-EfficientNetLite0"].value or 0) > 0
    low, value, high = (getattr(other["KID-EfficientNetLite0"], k) for k in ("low", "value", "high"))
    assert low < value < high
    assert "FID" not in other
    known = fit(extract(sorted(a.iterdir()), network))
    np.savez(tmp_path / "stats.npz", mu=known.mean, sigma=known.covariance)
    saved = {s.name: s for s in evaluate(tmp_path / "stats.npz", b, network=network)}
    assert saved["FD-EfficientNetLite0"].value == pytest.approx(other["FD-EfficientNetLite0"].value, rel=1e-9)
    assert saved["KID-EfficientNetLite0"].value is None
    assert "needs the real pictures" in saved["KID-EfficientNetLite0"].note


def test_statistics_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.zeros(8), sigma=np.zeros((7, 7)))
    with pytest.raises(ValueError, match="these features have 8 dimensions"):
        read_statistics(tmp_path / "a.npz", 8)
    np.savez(tmp_path / "b.npz", mean=np.zeros(8))
    with pytest.raises(ValueError, match="`mu` and `sigma` are expected"):
        read_statistics(tmp_path / "b.npz", 8)
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="holds no statistics"):
        read_statistics(tmp_path / "c.npz", 8)
    with pytest.raises(FileNotFoundError):
        read_statistics(tmp_path / "d.npz", 8)


def test_the_command_scores_two_folders(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", 1, 6), folder(tmp_path / "b", 2, 5)
    command = ["eval", str(a), str(b), "--features", "efficientnet-lite0", "--json", "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, "--metrics", "fid,kid"], catch_exceptions=False)
    assert result.exit_code == 0
    names = [s["name"] for s in json.loads(result.stdout)]
    assert names == ["FD-EfficientNetLite0", "KID-EfficientNetLite0"]
    missing = CliRunner().invoke(app, [*command, "--metrics", "is"], catch_exceptions=False)
    assert missing.exit_code == UNAVAILABLE
    assert "10 pictures" in json.loads(missing.stdout)[0]["note"]
    with pytest.raises(ValueError, match="no metric 'fud'"):
        CliRunner().invoke(app, [*command, "--metrics", "fud"], catch_exceptions=False)
