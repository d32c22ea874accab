"""The page of warp-ui: its session, what its server refuses, and a person's way through it in a browser."""

from __future__ import annotations

import http.client
import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gengauge.benchmarks.training.loop import Tell
from gengauge.benchmarks.warp_ui.background import Background, Busy
from gengauge.benchmarks.warp_ui.opening import open_session
from gengauge.benchmarks.warp_ui.server import MAX_BODY, address, listen, serve, server
from gengauge.benchmarks.warp_ui.session import MOST_AT_ONCE, Session, Train, Unknown
from gengauge.benchmarks.warp_ui.settings import Settings
from gengauge.benchmarks.warp_ui.training import trainer
from gengauge.datasets.edited_weights import (
    Factors,
    LowRankEdit,
    fingerprint,
    read_edited_weights,
    read_low_rank_edit,
    write_edited_weights,
    write_low_rank_edit,
)
from gengauge.datasets.warp_edits import read_warp_edit
from gengauge.reference.gan_warping.training import Recipe
from gengauge.reference.gan_warping.warps import preview
from gengauge.reference.nets.stylegan2.generator import Generator

SIDE = 16
RECIPE = Recipe(layers="2", rank=2, stylemix=(3, 6), mse=1.0, lpips=0.0, batch=2, iterations=6, lr=0.1)
SETTINGS = Settings.of(RECIPE)
EDIT = [(3, [[4, 4, 7, 6]]), (5, [[8, 8, 8, 8], [2, 9, 2, 12]]), (9, [])]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def tiny() -> Generator:
    torch.manual_seed(0)
    g = Generator(8, 0, 8, SIDE, mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channel_max": 8})
    return g.eval().requires_grad_(False)


def a_session(train: Train | None = None) -> Session:
    g = tiny()
    return Session(g, "tiny", train or trainer(g, "tiny", RECIPE, distance=lambda: None), SETTINGS)


def trained(session: Session, name: str = "nose") -> int:
    """The number of an edit that is trained now."""
    session.set_edit(EDIT)
    session.start_training(name, SETTINGS)
    assert session.training.wait(60)
    progress = session.progress()
    assert (progress.state, progress.error) == ("done", None)
    return max(session.trained)


def test_pictures_stay_right_while_an_edit_is_trained() -> None:
    session = a_session()
    number = trained(session)
    seeds = list(range(100, 104))
    mix = {number: 1.0}
    plain, mixed = session._render(seeds, None), session._render(seeds, session.mixed(mix))
    session.start_training("again", replace(SETTINGS, iterations=60))
    rendered = 0
    while not session.training.wait(0):
        np.testing.assert_array_equal(session._render(seeds, None), plain)
        np.testing.assert_array_equal(session._render(seeds, session.mixed(mix)), mixed)
        rendered += 1
    assert rendered > 3
    assert session.progress().state == "done"
    alone = a_session()
    alone.set_edit(EDIT)
    alone.start_training("again", replace(SETTINGS, iterations=60))
    assert alone.training.wait(60)
    (wanted,), (found,) = (s.one(max(s.trained)).tensors.values() for s in (alone, session))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


class Site:
    """A server that runs, and requests to it."""

    def __init__(self, session: Session, url: str) -> None:
        self.session, self.url, self.port = session, url, int(url.rstrip("/").rpartition(":")[2])

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body
        try:
            connection.request(method, path, sent, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        got, content, _ = self.ask(method, path, body)
        assert got == status, content
        return json.loads(content)

    def error(self, method: str, path: str, body: Any = None, status: int = 400) -> str:
        return str(self.json(method, path, body, status)["error"])


@contextmanager
def running(session: Session) -> Iterator[Site]:
    with listen(0) as listening:
        at_work = server(session)
        thread = threading.Thread(target=at_work.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Site(session, address(listening))
        finally:
            at_work.should_exit = True
            thread.join(20)
            session.close()
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running(a_session()) as found:
        yield found


def picture(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


# The session


def test_a_seed_names_its_picture_whatever_is_made_beside_it() -> None:
    session = a_session()
    three = session.pictures([3])[0]
    g = tiny()
    z = torch.from_numpy(np.random.RandomState(3).randn(1, 8)).float()
    wanted = ((g(z, noise_mode="const")[0].clamp(-1, 1) + 1) * 127.5).to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(three, wanted)
    many = session.pictures([7, 3, 2**32 - 1, 3])
    assert many.shape == (4, SIDE, SIDE, 3)
    # Convolutions of a batch of other size may round otherwise.
    assert np.abs(many[1].astype(int) - three).max() <= 1
    assert np.array_equal(many[1], many[3])


def test_the_warp_is_the_methods() -> None:
    session = a_session()
    rows = [[4, 4, 7, 6], [8, 8, 8, 8]]
    assert np.array_equal(session.warped(3, rows), preview(session.pictures([3])[0], np.array(rows)))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "3", None])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number"):
        a_session().pictures([seed])


def test_so_many_pictures_at_once_and_no_more() -> None:
    for count in (0, MOST_AT_ONCE + 1):
        with pytest.raises(ValueError, match=f"not {count}"):
            a_session().pictures(range(count))


def test_a_trained_edit_changes_samples_as_strongly_as_asked() -> None:
    session = a_session()
    before = session.pictures([20, 21])
    number = trained(session)
    whole = session.pictures([20, 21], {number: 1.0})
    half = session.pictures([20, 21], {number: 0.5})
    assert np.array_equal(session.pictures([20, 21], {number: 0}), before)
    assert np.array_equal(session.pictures([20, 21]), before)
    assert not np.array_equal(whole, before)
    assert not np.array_equal(half, before)
    assert not np.array_equal(half, whole)


def test_edits_add_up_and_are_exported_as_published(tmp_path: Path) -> None:
    session = a_session()
    one = trained(session)
    two = session.add_weights("bias", "by hand", {"synthesis.b8.conv1.bias": torch.ones(8)})
    (name,) = session.trained[one].tensors
    file = tmp_path / "edit.pth"
    file.write_bytes(session.export_mix({one: 0.25, two: 0.5}))
    mixed, base = read_edited_weights(file), tiny().state_dict()
    assert set(mixed) == {name, "synthesis.b8.conv1.bias"} == {"synthesis.b8.conv1.weight", "synthesis.b8.conv1.bias"}
    expected = base[name] + 0.25 * (session.trained[one].tensors[name] - base[name])
    assert torch.allclose(mixed[name], expected, atol=1e-6)
    assert torch.equal(mixed["synthesis.b8.conv1.bias"], torch.full((8,), 0.5))
    factors = tmp_path / "edit.safetensors"
    factors.write_bytes(session.export(one, "safetensors"))
    again = read_low_rank_edit(factors)
    assert again.rank == 2
    other = a_session()
    assert np.array_equal(
        other.pictures([4], {other.add_factors("again", "", again): 1}), session.pictures([4], {one: 1})
    )
    with pytest.raises(ValueError, match="factors are not known"):
        session.export(two, "safetensors")
    session.forget(one)
    for wrong in (lambda: session.forget(one), lambda: session.export(one, "pth"), lambda: session.mixed({one: 1})):
        with pytest.raises(Unknown, match="may have been forgotten"):
            wrong()


def test_an_edit_of_another_generator_is_refused() -> None:
    session = a_session()
    with pytest.raises(ValueError, match="does not have"):
        session.add_weights("other", "", {"synthesis.b999.conv1.weight": torch.ones(1)})
    session.set_edit(EDIT)
    text = session.document_text()
    session.open_text(text.replace('"tiny"', '"models/tiny.pkl"'))
    wrong = {'"tiny"': '"large"', f'"resolution": {SIDE}': '"resolution": 99', '"truncation": 1': '"truncation": 0.5'}
    for old, new in wrong.items():
        changed = text.replace(old, new)
        assert changed != text
        with pytest.raises(ValueError, match="and this page shows"):
            session.open_text(changed)


def test_a_training_needs_a_batch_of_pictures_with_points() -> None:
    session = a_session()
    session.set_edit([(3, [[4, 4, 7, 6]]), (9, [])])
    with pytest.raises(ValueError, match="1 pictures have points, and a batch takes 2"):
        session.start_training("x", SETTINGS)
    session.set_edit(EDIT)
    with pytest.raises(ValueError, match=r"layer must be from 0 to \d+, not 50"):
        session.start_training("x", Settings(50, 2, 2, 6, 0.1, True))


@pytest.mark.parametrize(
    "change",
    [
        {"layer": -1},
        {"rank": 0},
        {"batch": 1.5},
        {"iterations": True},
        {"iterations": 10**9},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"style_mixing": 1},
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    good = {"layer": 1, "rank": 2, "batch": 2, "iterations": 3, "learning_rate": 0.1, "style_mixing": True}
    assert Settings(**good).applied(RECIPE).layers == "1"
    assert Settings(**{**good, "style_mixing": False}).applied(RECIPE).stylemix is None
    with pytest.raises(ValueError, match="must be"):
        Settings(**{**good, **change})


def test_work_in_the_background_is_told_of_cancelled_and_one_at_a_time() -> None:
    background, told, go = Background(), threading.Event(), threading.Event()

    def work(tell: Tell) -> None:
        for i in range(1000):
            tell(i, 1000, "working")
            if i == 2:
                told.set()
                go.wait(20)
            time.sleep(0.001)

    background.start(work)
    assert told.wait(20)
    progress = background.progress()
    assert (progress.state, progress.done, progress.total) == ("running", 2, 1000)
    assert progress.left is not None
    assert progress.left > 0
    with pytest.raises(Busy):
        background.start(work)
    background.cancel()
    go.set()
    assert background.wait(20)
    assert background.progress().state == "cancelled"


def test_work_that_fails_says_why() -> None:
    background = Background()

    def work(tell: Tell) -> None:
        raise ValueError("no weights")

    def broken(tell: Tell) -> None:
        raise KeyError("a fault of the program")

    background.start(work)
    assert background.wait(20)
    assert (background.progress().state, background.progress().error) == ("failed", "the training failed: no weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda arguments: None)
        background.start(broken)
        assert background.wait(20)
    assert background.progress().state == "failed"
    assert "the terminal says more" in str(background.progress().error)


# The server


def test_the_page_its_parts_and_nothing_else_are_served(site: Site) -> None:
    status, content, headers = site.ask("GET", "/")
    assert status == 200
    assert b"<!doctype html>" in content
    assert "default-src 'self'" in str(headers["Content-Security-Policy"])
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name in ("app.js", "style.css"):
        assert site.ask("GET", f"/{name}")[0] == 200
    for name in ("session.py", "..%2fserver.py", "..%2f..%2fcli.py", "../server.py"):
        assert site.ask("GET", f"/{name}")[0] == 404
    for path in (Path(__file__).parents[2] / "benchmarks/warp_ui/page").iterdir():
        text = path.read_text()
        assert "http://" not in text, f"{path.name} loads something from elsewhere"
        assert "https://" not in text, f"{path.name} loads something from elsewhere"


def test_pictures_come_side_by_side_and_previews_warp_them(site: Site) -> None:
    status, content, _ = site.ask("POST", "/api/pictures", {"seeds": [3, 4], "mix": {}})
    assert status == 200
    strip = picture(content)
    assert strip.shape == (SIDE, 2 * SIDE, 3)
    warped = picture(site.ask("POST", "/api/preview", {"seed": 3, "points": [[4, 4, 9, 6]]})[1])
    assert warped.shape == (SIDE, SIDE, 3)
    assert not np.array_equal(warped, strip[:, :SIDE])


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[", "0.0.0.0"])
def test_a_name_that_is_not_this_machines_is_refused(site: Site, host: str) -> None:
    status, content, _ = site.ask("GET", "/api/state", headers={"Host": host})
    assert status in (400, 403)
    if status == 403:
        assert "127.0.0.1 and localhost only" in json.loads(content)["error"]


def test_this_machines_names_are_answered(site: Site) -> None:
    for host in (f"localhost:{site.port}", f"[::1]:{site.port}", "127.0.0.1"):
        assert site.ask("GET", "/api/state", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_pages_changes_are_refused(site: Site, headers: dict[str, str]) -> None:
    before = site.json("GET", "/api/state")["edit"]
    body = {"pictures": [{"seed": 77, "points": []}]}
    status, content, _ = site.ask("PUT", "/api/points", body, headers)
    assert status == 403
    assert "another page" in json.loads(content)["error"]
    assert site.json("GET", "/api/state")["edit"] == before


def test_the_pages_own_changes_are_taken(site: Site) -> None:
    body = {"pictures": [{"seed": 77, "points": []}]}
    headers = {"Origin": f"http://127.0.0.1:{site.port}", "Sec-Fetch-Site": "same-origin"}
    assert site.ask("PUT", "/api/points", body, headers)[0] == 200
    assert site.json("GET", "/api/state")["edit"] == body["pictures"]


def test_a_form_of_another_page_cannot_pose_as_json(site: Site) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, content, _ = site.ask("POST", "/api/preview", {"seed": 3, "points": []}, {"Content-Type": kind})
        assert status == 415
        assert "JSON" in json.loads(content)["error"]


def test_large_bodies_are_refused_with_and_without_their_length(site: Site) -> None:
    status, content, _ = site.ask("POST", "/api/preview", headers={"Content-Length": str(MAX_BODY + 1)})
    assert status == 413
    assert "larger than" in json.loads(content)["error"]
    assert site.ask("POST", "/api/preview", headers={"Content-Length": "-5"})[0] in (400, 413)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    parts = (b" " * 2**20 for _ in range(MAX_BODY // 2**20 + 2))
    connection.request("PUT", "/api/edit", parts, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/api/preview", b"{", "no JSON"),
        ("POST", "/api/preview", b"\xff\xfe", "no JSON"),
        ("POST", "/api/preview", b"[" * 100_000, "no JSON"),
        ("POST", "/api/preview", b'{"seed": 1, "points": [[NaN, 1, 1, 1]]}', "no number of JSON"),
        ("POST", "/api/preview", b'{"seed": 1, "points": [[1e999, 1, 1, 1]]}', "point 1 is not four numbers"),
        ("POST", "/api/preview", {"seed": 1}, "must be an object with seed, points"),
        ("POST", "/api/preview", [1], "must be an object"),
        ("POST", "/api/preview", {"seed": "a", "points": []}, "seed must be a whole number"),
        ("POST", "/api/preview", {"seed": 1, "points": "abcd"}, "a list of at most"),
        ("POST", "/api/preview", {"seed": 1, "points": [[1, 1, 1]]}, "point 1 is not four numbers"),
        ("POST", "/api/preview", {"seed": 1, "points": [[1, 1, 1, 1], [1, 1, SIDE, 1]]}, "point 2 is not"),
        ("POST", "/api/preview", {"seed": 1, "points": [[1, 1, -1, 1]]}, "point 1 is not four numbers"),
        ("POST", "/api/preview", {"seed": 1, "points": [[1, True, 1, 1]]}, "point 1 is not four numbers"),
        ("POST", "/api/preview", {"seed": 1, "points": [[1, 1, 1, 1]] * 201}, "at most 200"),
        ("POST", "/api/pictures", {"seeds": [], "mix": {}}, "from 1 to"),
        ("POST", "/api/pictures", {"seeds": 4, "mix": {}}, "seeds must be a list"),
        ("POST", "/api/pictures", {"seeds": [4], "mix": {"x": 1}}, "mix must be"),
        ("PUT", "/api/points", {"pictures": [{"seed": 1}]}, "objects with a seed and points"),
        ("PUT", "/api/points", {"pictures": [{"seed": 1, "points": []}] * 2}, "twice"),
        ("PUT", "/api/points", {"pictures": [{"seed": 1, "points": [[1, 1, 2, 2], [3, 3, 2, 2]]}]}, "both end"),
        ("PUT", "/api/edit", b"\xff\xfe", "not text"),
        ("PUT", "/api/edit", b"{}", "the file is no warp edit"),
        ("PUT", "/api/edit", b"nothing", "the file is no JSON"),
        ("POST", "/api/training", {"name": "x"}, "must be an object with name, layer"),
        ("POST", "/api/mix", {"mix": {}}, "nothing to export"),
    ],
)
def test_what_cannot_be_is_refused_with_one_sentence(site: Site, method: str, path: str, body: Any, said: str) -> None:
    before = site.session.edit
    assert said in site.error(method, path, body)
    assert site.session.edit == before


def test_what_is_not_there_is_not_found(site: Site) -> None:
    assert "forgotten" in site.error("DELETE", "/api/trained/99", status=404)
    assert "forgotten" in site.error("GET", "/api/trained/99.pth", status=404)
    assert "forgotten" in site.error("POST", "/api/pictures", {"seeds": [1], "mix": {"99": 1}}, 404)
    assert "pth or safetensors" in site.error("GET", "/api/trained/1.exe", status=404)


def test_an_edit_is_saved_and_loaded_again(site: Site, tmp_path: Path) -> None:
    pictures = [{"seed": seed, "points": points} for seed, points in EDIT]
    site.json("PUT", "/api/points", {"pictures": pictures})
    status, content, headers = site.ask("GET", "/api/edit?name=a/b%20c")
    assert status == 200
    assert headers["Content-Disposition"] == 'attachment; filename="a_b_c.json"'
    file = tmp_path / "edit.json"
    file.write_bytes(content)
    document = read_warp_edit(file)
    assert (document.generator, document.resolution, document.name) == ("tiny", SIDE, "a/b c")
    assert [one.seed for one in document.pictures] == [3, 5]
    site.json("PUT", "/api/points", {"pictures": []})
    assert "nothing to save" in site.error("GET", "/api/edit")
    assert site.json("PUT", "/api/edit", content)["edit"] == pictures[:2]


def test_a_training_runs_once_is_cancelled_and_fails_in_words() -> None:
    hold = threading.Event()

    def endless(pictures: Any, settings: Settings, tell: Tell) -> Any:
        for i in range(100_000):
            tell(i, 100_000, "")
            hold.wait(0.01)
        raise AssertionError("it was not cancelled")

    asked = {"name": "x", "layer": 2, "rank": 2, "batch": 2, "iterations": 6, "learning_rate": 0.1}
    asked["style_mixing"] = True
    with running(a_session(endless)) as site:
        assert "a batch takes 2" in site.error("POST", "/api/training", asked)
        site.session.set_edit(EDIT)
        assert "rank must be" in site.error("POST", "/api/training", {**asked, "rank": 0})
        assert "needs a name" in site.error("POST", "/api/training", {**asked, "name": " "})
        assert site.json("POST", "/api/training", asked, 202)["state"] == "running"
        assert "runs already" in site.error("POST", "/api/training", asked, 409)
        site.json("DELETE", "/api/training")
        assert site.session.training.wait(20)
        assert site.json("GET", "/api/training")["state"] == "cancelled"
        assert site.json("GET", "/api/state")["trained"] == []


def test_a_port_that_is_taken_is_named_with_the_way_out() -> None:
    with listen(0) as listening:
        port = listening.getsockname()[1]
        assert listening.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OSError, match=f"port {port} cannot be had .*--port"):
            serve(a_session(), port)


def test_a_session_goes_on_with_an_edit_and_with_weights_of_before(tmp_path: Path) -> None:
    zoo = open_session()
    zoo.set_edit([(3, [[20, 14, 18, 6]])])
    file = tmp_path / "ears.json"
    file.write_text(zoo.document_text("ears"))
    layer = "synthesis.b16.conv1"
    weight = zoo.generator.get_submodule(layer).get_parameter("weight")
    lambdas = torch.zeros(weight.shape[0], 1, 3, 3)
    lambdas[:, :, 1, 1] = 3
    pair = Factors(lambdas, torch.ones(1, weight.shape[1]))
    write_low_rank_edit(
        tmp_path / "low.safetensors", LowRankEdit(zoo.name, {layer: pair}, {layer: fingerprint(weight)})
    )
    write_edited_weights(tmp_path / "whole.pth", {f"{layer}.weight": weight + 3 * (torch.arange(9) == 4).view(3, 3)})
    session = open_session(None, file, [tmp_path / "low.safetensors", tmp_path / "whole.pth"])
    assert (session.name, session.edit) == (zoo.name, zoo.edit)
    assert [one.name for one in session.trained.values()] == ["low", "whole"]
    low, whole = (session.pictures([8], {number: 1}) for number in session.trained)
    assert np.array_equal(low, whole)
    assert not np.array_equal(low, session.pictures([8]))
    write_edited_weights(tmp_path / "other.pth", {"synthesis.nothing.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"other\.pth cannot be mixed in"):
        open_session(None, None, [tmp_path / "other.pth"])
    with pytest.raises(ValueError, match=r"for the truncation 1, and this page shows 0\.5"):
        open_session(None, file, (), 0.5)


# A person's way through it


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; on Debian: apt-get install chromium")
def test_a_person_drags_a_point_trains_and_sees_other_samples(tmp_path: Path) -> None:
    from playwright.sync_api import Page, sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    flags += ["--disable-sync", "--no-first-run"]

    def pixels(page: Page, selector: str) -> str:
        return str(page.locator(selector).first.evaluate("canvas => canvas.toDataURL()"))

    def wait_until(page: Page, condition: str, shown: str = "") -> None:
        url = "const url = selector => document.querySelector(selector)?.toDataURL();"
        page.wait_for_function(f"shown => {{ {url} return {condition}; }}", arg=shown)

    with running(a_session()) as site, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        foreign: list[str] = []
        page.on("request", lambda request: None if request.url.startswith(site.url) else foreign.append(request.url))
        page.goto(site.url)
        assert page.locator("#start").is_disabled()

        for seed in (3, 5):
            page.click(f'#samples [data-seed="{seed}"]')
            page.wait_for_selector(f"#which:text('Seed {seed}')")
            # Without points both show the picture as it is.
            wait_until(page, "document.querySelector('#warped').width > 100 && url('#warped') === url('#editor')")
            before = pixels(page, "#warped")
            box = page.locator("#editor").bounding_box()
            assert box is not None
            at = [box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4]
            page.mouse.move(*at)
            page.mouse.down()
            page.mouse.move(at[0] + box["width"] * 0.25, at[1], steps=4)
            wait_until(page, "url('#warped') !== shown", before)  # while the button is still down
            page.mouse.up()
            page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8)
        page.wait_for_selector("#edit li:nth-child(2) :text('5 · 2 pts')")
        assert [[row[:] for row in one.points] for one in site.session.edit] == [
            [(6, 6, 10, 6), (12, 12, 12, 12)],
            [(6, 6, 10, 6), (12, 12, 12, 12)],
        ]

        page.locator("#editor").press("ArrowUp")
        page.locator("#editor").press("Control+z")
        page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8, button="right")
        page.wait_for_selector("#edit li:nth-child(2) :text('5 · 1 pt')")
        page.click("#undo")
        page.wait_for_selector("#edit li:nth-child(2) :text('5 · 2 pts')")
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "edit.json")
        assert read_warp_edit(tmp_path / "edit.json").pictures == site.session.edit

        page.click("#tab-model")
        page.click("#start")
        page.wait_for_selector("#trained li")
        page.wait_for_function("document.querySelector('#pairs .after:not(.stale)')?.width > 50")
        wait_until(page, "url('#pairs .after') !== url('#pairs .before')")
        strong = pixels(page, "#pairs .after")
        page.locator("#trained input[type=range]").fill("0")
        wait_until(page, "url('#pairs .after') !== shown && url('#pairs .after') === url('#pairs .before')", strong)
        with page.expect_download() as download:
            page.click("#trained a:text('.safetensors')")
        download.value.save_as(tmp_path / "edit.safetensors")
        assert read_low_rank_edit(tmp_path / "edit.safetensors").rank == 2

        page.reload()
        page.click("#tab-warp")
        page.wait_for_selector("#edit li:nth-child(2)")
        page.set_input_files("#load", files=[{"name": "bad.json", "mimeType": "application/json", "buffer": b"{}"}])
        page.wait_for_selector("#message:not([hidden])")
        assert "no warp edit" in page.inner_text("#message")
        browser.close()
        # Chromium logs the refusal of the bad file itself.
        assert [text for text in wrong if "400" not in text] == []
        assert [url for url in foreign if not url.startswith(("blob:", "data:"))] == []
