"""A user's own method in every paper's tables, at a size of seconds, and what is said of one that goes wrong."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cifar_folder import Tiny, write_cifar
from sige_tiny import TINY
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import Context, Measurement, Paper, Picture, Scale, Unavailable
from gengauge.benchmarks.core.openings import Own
from gengauge.benchmarks.jobs import load_paper, opening_of
from gengauge.benchmarks.methods import conform
from gengauge.benchmarks.papers import SOURCES
from gengauge.benchmarks.papers.custom_diffusion.own import changed
from gengauge.benchmarks.papers.cut.sets import World
from gengauge.benchmarks.papers.gan_warping import own as own_warps
from gengauge.benchmarks.papers.gangealing.world import Pairs
from gengauge.benchmarks.papers.sdedit.runs import WORLD, Pictures, Sampling
from gengauge.benchmarks.papers.sige import networks, speed
from gengauge.benchmarks.papers.sige.edits import ALL, SQUARE
from gengauge.benchmarks.papers.sige.fidelity_by_area import FINAL
from gengauge.benchmarks.protocols import CONTRACTS, Concept, Edits, Prior, Work
from gengauge.benchmarks.zoo.meadows import Meadows

pytestmark = pytest.mark.usefixtures("one_thread")

PAPERS: dict[str, Paper] = {paper.key: paper for paper in map(load_paper, SOURCES)}


def trivial(paper: str) -> Any:
    """The paper's template as an object."""
    protocol = CONTRACTS[paper].protocol
    return type("MyMethod", (), {key: value for key, value in vars(protocol).items() if not key.startswith("__")})()


def measure(
    paper: str,
    experiment: str,
    method: object,
    work: Path,
    scale: Scale = "quick",
    data: Path | None = None,
    spec: str = "mine:It",
    **settings: Any,
) -> tuple[dict[tuple[str, str], Measurement], list[Picture]]:
    """The final values of a method's rows by row and column, all that its opening declares, with smaller settings."""
    chosen = PAPERS[paper]
    declared = next(e for e in chosen.experiments if e.key == experiment)
    opening = opening_of(chosen, declared)
    assert opening is not None
    conform(method, paper, CONTRACTS[paper], spec)
    rows = tuple(f"it@{setting}" if setting else "it" for setting in opening.settings)
    own = Own(spec, declared.table, rows, "0" * 12, method)
    told: list[tuple[int, int]] = []
    chosen_settings = settings.get("settings") or replace(declared.scales[scale].settings, **settings)
    context = Context(
        chosen_settings, 0, scale, "cpu", data, work, lambda done, total, doing: told.append((done, total))
    )
    torch.manual_seed(0)  # as a job's process does
    found = list(opening.run(context, own))
    final = {(m.row, m.column): m for m in found if isinstance(m, Measurement) and m.step is None}
    columns = [c.key for c in declared.columns if not opening.columns or c.key in opening.columns]
    assert set(final) == {(row, column) for row in rows for column in columns}
    assert all(math.isfinite(m.value) or m.missing for m in final.values())
    assert all(0 <= done <= total for done, total in told)
    return final, [p for p in found if isinstance(p, Picture)]


# -- DiffAugment -------------------------------------------------------------------------------------------------------

STUDY: dict[str, Any] = {
    **{"pictures": 16, "generator_width": 4, "discriminator_width": 4, "batch": 4, "steps": 6, "curve_points": 2},
    **{"samples": 12, "references": 20},
}


class Augmentation:
    """A translation by some pixels, or what a test makes of it."""

    def __init__(self, change: Any = lambda x: x) -> None:
        self.change = change

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        shift = int(torch.randint(1, 5, (), generator=generator))
        return self.change(x.roll(shift, 3))


def test_an_augmentation_trains_the_gan_of_the_study(tmp_path: Path) -> None:
    found, pictures = measure("diffaugment", "diffaugment", Augmentation(), tmp_path, **STUDY)
    assert all(math.isfinite(m.value) for (_, column), m in found.items() if column != "leakage")
    assert found["it", "d_gap"].samples == 20
    assert [p.name for p in pictures] == ["samples"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:, :1], r"`augment` of mine:It returned a tensor \(4, 1, 32, 32\).*expected a tensor \(4, 3, 32"),
        (lambda x: None, "`augment` of mine:It returned NoneType"),
        (lambda x: x.detach(), "`augment` of mine:It is not differentiable"),
        (lambda x: x / 0, "`augment` of mine:It returned values that are not finite"),
    ],
)
def test_what_is_wrong_with_an_augmentation_is_said(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure("diffaugment", "diffaugment", Augmentation(change), tmp_path, **STUDY)


def test_a_training_is_measured_by_its_samples(tmp_path: Path) -> None:
    found, _ = measure("diffaugment", "diffaugment", trivial("diffaugment"), tmp_path, **STUDY)
    assert found["it", "fid"].samples == 12
    assert "shows no discriminator" in found["it", "d_gap"].missing

    class Wrong:
        def train(self, pictures: Tensor, labels: Tensor | None, work: Work) -> Any:
            assert (pictures.shape, pictures.dtype, labels) == ((16, 3, 32, 32), torch.uint8, None)
            assert work.folder.is_dir()
            return lambda count, generator: pictures[:count].float()

    with pytest.raises(ValueError, match=r"`train` of mine:It returned a tensor of float32; expected a tensor \(12, 3"):
        measure("diffaugment", "diffaugment", Wrong(), tmp_path, **STUDY)

    class Nothing:
        def train(self, pictures: Tensor, labels: Tensor | None, work: Work) -> Any: ...

    with pytest.raises(ValueError, match="`train` of mine:It returned NoneType; expected a function"):
        measure("diffaugment", "diffaugment", Nothing(), tmp_path, **STUDY)


def test_the_tables_on_cifar_take_augmentations_and_trainings(tmp_path: Path) -> None:
    data, run = write_cifar(tmp_path / "data", per_file=8), Tiny.run("biggan", repeats=2)
    key, at = "cifar10-biggan-diffaugment@10pct-data", partial(measure, scale="small", data=data, settings=run)
    found, _ = at("diffaugment", key, Augmentation(), tmp_path)
    assert found["it@10pct-data", "fid"].samples == 6
    assert found["it@10pct-data", "is"].missing  # no package carries the classifier
    trained = next(folder for folder in tmp_path.iterdir() if folder.name.startswith("cifar10-"))
    assert trained.name.endswith("-seed0")
    at("diffaugment", key, Augmentation(), tmp_path, spec="mine:Other")  # of the same file, so of the same digest
    assert len([folder for folder in tmp_path.iterdir() if folder.name.startswith("cifar10-")]) == 2
    found, _ = at("diffaugment", key, trivial("diffaugment"), tmp_path)
    assert found["it@10pct-data", "fid"].value > 0
    assert "at its end only" in found["it@10pct-data", "best_iteration"].missing
    shot = "low-shot-stylegan2-no-pre-training-diffaugment@100-shot-panda"
    with pytest.raises(Unavailable, match="give the method a `train`"):
        measure("diffaugment", shot, Augmentation(), tmp_path, "paper", settings=Tiny.run("stylegan2"))


# -- SIGE --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_speed(monkeypatch: pytest.MonkeyPatch) -> speed.Settings:
    """Two edits of a small network, two rounds."""
    monkeypatch.setitem(networks.NETWORKS, "tiny", TINY)
    monkeypatch.setattr(speed, "all_cores", contextlib.nullcontext)  # two threads wait for each other on a busy machine
    return speed.Settings("tiny", (SQUARE, ALL), ("eager", "channels_last"), rounds=2)


def timed(settings: speed.Settings, method: object, work: Path) -> dict[tuple[str, str], Measurement]:
    declared = next(e for e in PAPERS["sige"].experiments if e.key == "speed-ddpm-256-quick")
    opening = opening_of(PAPERS["sige"], declared)
    assert opening is not None
    assert opening.settings == ("shipped-edit", "square-of-1.2pct", "square-of-30pct", "all-pixels")
    own = Own("mine:It", declared.table, ("it@square-of-1.2pct", "it@all-pixels"), "", method)
    told: list[tuple[int, int]] = []
    context = Context(settings, 0, "quick", "cpu", None, work, lambda done, total, doing: told.append((done, total)))
    found = [m for m in opening.run(context, own) if isinstance(m, Measurement)]
    assert {m.row for m in found} == set(own.rows)
    assert {m.column for m in found} == set(opening.columns)
    assert all(0 <= done <= total for done, total in told)
    return {(m.row, m.column): m for m in found}


def test_a_way_is_timed_in_alternation_with_the_others(tiny_speed: speed.Settings, tmp_path: Path) -> None:
    found = timed(tiny_speed, trivial("sige"), tmp_path)
    seconds = found["it@all-pixels", "seconds"]
    assert len(seconds.repetitions) == 2
    assert len(found["it@square-of-1.2pct", "seconds"].repetitions) == 2 * speed.SPARSE_REPEATS
    assert 0 < seconds.value < 5
    assert 0.1 < found["it@all-pixels", "speedup"].value < 10  # it is the dense network
    assert found["it@all-pixels", "edited"].value == 100

    class Kept:
        def prepare(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
            kept = network(*inputs)
            return lambda edited, mask: kept + 1

    with pytest.raises(RuntimeError, match="mine:It, of the original itself, differs by 1"):
        timed(tiny_speed, Kept(), tmp_path)

    class Cropped:
        def prepare(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
            return lambda edited, mask: network(*edited)[..., 1:]

    with pytest.raises(ValueError, match=r"`prepare` of mine:It returned a tensor \(1, 3, 32, 31\); expected"):
        timed(tiny_speed, Cropped(), tmp_path)


def test_fidelity_by_area_takes_a_way(tmp_path: Path) -> None:
    class Original:
        """What the original gives: what is right where nothing differs."""

        def prepare(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
            kept = network(*inputs)

            def run(edited: tuple[Tensor, ...], mask: Tensor) -> Tensor:
                assert mask.shape == (32, 32)
                assert mask.dtype == torch.bool
                assert torch.equal(edited[0][..., ~mask], inputs[0][..., ~mask])
                assert torch.equal(edited[1], inputs[1])
                return kept

            return run

    few: dict[str, Any] = {"pictures": 1, "steps": 2, "edits": (FINAL,)}
    exact, pictures = measure("sige", "fidelity-by-area-quick", trivial("sige"), tmp_path, **few)
    assert exact["it", "first_noise"].value < 1e-3
    assert exact["it", "psnr_edit"].value > 50
    assert [(p.row, p.name) for p in pictures] == [("it", "edits")]
    found, _ = measure("sige", "fidelity-by-area-quick", Original(), tmp_path, **few)
    assert found["it", "first_noise"].value > 1
    assert found["it", "psnr_edit"].value < exact["it", "psnr_edit"].value


# -- GANgealing --------------------------------------------------------------------------------------------------------


def test_points_are_transferred_by_any_way(tmp_path: Path) -> None:
    class Learnt:
        def fit(self, pictures: Tensor, work: Work) -> None:
            assert pictures.shape[1:] == (3, 64, 64)
            assert -1 <= pictures.min() < -0.5 < 0.5 < pictures.max() <= 1
            (work.folder / "state").write_text("kept")

        def transfer(self, source: Tensor, target: Tensor, points: Tensor) -> Tensor:
            assert points.shape == (len(source), points.shape[1], 2)
            return points + 100

    few = {"pairs": Pairs(6)}
    left, pictures = measure("gangealing", "world", trivial("gangealing"), tmp_path, **few)
    assert left["it", "pck_20"].value > 0
    assert [p.name for p in pictures] == ["pairs"]
    found, _ = measure("gangealing", "world", Learnt(), tmp_path, **few)
    assert found["it", "pck_20"].value == 0
    assert [p.read_text() for p in tmp_path.rglob("state")] == ["kept"]

    class Nowhere:
        def transfer(self, source: Tensor, target: Tensor, points: Tensor) -> Tensor:
            return points * math.nan

    with pytest.raises(ValueError, match="`transfer` of mine:It returned values that are not finite"):
        measure("gangealing", "world", Nowhere(), tmp_path, **few)


def test_left_in_place_is_what_the_declared_row_measures(tmp_path: Path) -> None:
    from gengauge.benchmarks.papers.gangealing.comparison import EXPERIMENT, LEFT, compare

    settings = replace(EXPERIMENT.scales["quick"].settings, pairs=Pairs(6))
    context = Context(settings, 0, "quick", "cpu", None, tmp_path, lambda done, total, doing: None)
    declared = {m.column: m.value for m in compare(context) if isinstance(m, Measurement) and m.row == LEFT.key}

    class Left:
        def transfer(self, source: Tensor, target: Tensor, points: Tensor) -> Tensor:
            return points

    found, _ = measure("gangealing", "world", Left(), tmp_path, pairs=Pairs(6))
    assert {column: m.value for (_, column), m in found.items()} == declared


# -- GAN Warping -------------------------------------------------------------------------------------------------------


def test_a_generator_is_warped_by_any_way(tmp_path: Path) -> None:
    base, pictures = measure("gan_warping", "world-ears", trivial("gan_warping"), tmp_path, held_out=3)
    assert [p.name for p in pictures] == ["held-out"]

    class Seen:
        def warp(self, generator: Any, edits: Edits, work: Work) -> Any:
            assert edits.ws.shape[0] == len(edits.before) == len(edits.after) == len(edits.grids) == 10
            assert edits.grids.shape == (10, 2, 64, 64)
            made = generator.synthesis(edits.ws, noise_mode="const")
            assert torch.allclose(made, edits.before, atol=1e-5)
            moved = (edits.after - edits.before).abs()
            assert 0.001 < moved.mean() < 0.3
            with torch.no_grad():
                for parameter in generator.synthesis.parameters():
                    parameter.mul_(0.9)
            return generator

    found, _ = measure("gan_warping", "world-ears", Seen(), tmp_path, held_out=3)
    assert found["it@ears", "psnr"].value < base["it@ears", "psnr"].value

    class Painter:
        def warp(self, generator: Any, edits: Edits, work: Work) -> Any:
            return edits.after

    with pytest.raises(ValueError, match="`warp` of mine:It returned Tensor; expected a generator, which has a `syn"):
        measure("gan_warping", "world-nose", Painter(), tmp_path, held_out=3)


def test_what_is_shown_to_a_method_is_near_the_exact_warp() -> None:
    from gengauge.benchmarks.metrics.quantise import to_uint8
    from gengauge.benchmarks.papers.gan_warping.world import taught
    from gengauge.reference.gan_warping.warps import remap

    own = Own("mine:It", "world", ("it",), "", None)
    context = Context(None, 0, "quick", "cpu", None, Path(), lambda done, total, doing: None)
    edits = own_warps.shown_to(own, "ears", context)
    before, after = (to_uint8(x.clamp(-1, 1)).permute(0, 2, 3, 1).numpy() for x in (edits.before, edits.after))
    exact = np.stack([remap(a, grid) for a, grid in zip(before, taught("ears", 10, 0).pixels, strict=True)])
    assert np.abs(exact.astype(float) - after).mean() < 3  # bicubic against bilinear


# -- SDEdit ------------------------------------------------------------------------------------------------------------


def test_strokes_and_composites_are_edited_by_any_way(tmp_path: Path) -> None:
    seen: list[Tensor | None] = []

    class Denoised:
        def edit(self, guides: Tensor, editable: Tensor | None, prior: Prior, work: Work) -> Tensor:
            seen.append(editable)
            assert prior.abar.shape == (1000,)
            x = guides.float() / 127.5 - 1
            noise = prior.noise(x, torch.zeros(len(x)))
            assert noise.shape == x.shape
            made = ((x - 0.01 * noise).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
            return made if editable is None else torch.where(editable, made, guides)

    few: dict[str, Any] = {"pictures": Pictures(WORLD, 3, 6), "sampling": Sampling("zoo")}
    found, pictures = measure("sdedit", "church", Denoised(), tmp_path, **few)
    assert 0 < found["it@lsun-church", "l2"].value < 5
    assert [p.name for p in pictures] == ["strokes"]
    same, _ = measure("sdedit", "church", trivial("sdedit"), tmp_path, **few)
    assert same["it@lsun-church", "l2"].value == 0
    found, pictures = measure("sdedit", "compositing", Denoised(), tmp_path, count=2, sampling=Sampling("zoo"))
    assert found["it@celeba-hq", "outside"].value == 0
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1].shape == (2, 1, 32, 32)
    assert [p.name for p in pictures] == ["composites"]
    with pytest.raises(Unavailable, match="is variance-exploding, which methods are not given"):
        measure("sdedit", "compositing", Denoised(), tmp_path, count=2, sampling=Sampling("faces"))


# -- CUT ---------------------------------------------------------------------------------------------------------------


def test_a_translator_is_taught_and_scored_by_any_way(tmp_path: Path) -> None:
    declared = next(e for e in PAPERS["cut"].experiments if e.key == "cityscapes-cut").scales["quick"].settings
    data = World(Meadows(size=64, training=6, test=4))
    few = {"settings": replace(declared, method=replace(declared.method, data=data))}

    class Means:
        def train(self, sources: Tensor, targets: Tensor, work: Work) -> Any:
            assert sources.shape == targets.shape == (6, 3, 64, 64)
            assert sources.dtype == targets.dtype == torch.uint8
            a, b = (x.float().mean((0, 2, 3), keepdim=True) for x in (sources, targets))
            return lambda x: (x.float() - a + b).clamp(0, 255).to(torch.uint8)

    found, pictures = measure("cut", "cityscapes-cut", Means(), tmp_path, **few)
    assert found["it@cityscapes", "fid"].samples == 4
    assert [p.name for p in pictures] == ["translations"]
    same, _ = measure("cut", "cityscapes-cut", trivial("cut"), tmp_path, **few)
    assert same["it@cityscapes", "miou"].value != found["it@cityscapes", "miou"].value

    class Sizes:
        def train(self, sources: Tensor, targets: Tensor, work: Work) -> Any:
            return lambda x: x[..., 1:]

    with pytest.raises(ValueError, match=r"`train` of mine:It returned a tensor \(1, 3, 64, 63\); expected"):
        measure("cut", "cityscapes-cut", Sizes(), tmp_path, **few)


# -- Custom Diffusion --------------------------------------------------------------------------------------------------


class Phrased:
    """Learns nothing but a phrase, or what a test returns."""

    def __init__(self, give: Any = lambda pipeline: (pipeline, "pink cat")) -> None:
        self.give = give

    def customise(self, pipeline: Any, concept: Concept, work: Work) -> Any:
        assert (concept.pictures.shape, concept.category) == ((5, 3, 64, 64), "cat")
        assert len(concept.class_pictures) == len(concept.class_captions) == 200
        return self.give(pipeline)


@pytest.fixture(scope="module")
def few_samples() -> tuple[str, Scale, Any]:
    """The key of an open experiment, its scale, and settings with few samples."""
    paper = PAPERS["custom_diffusion"]
    opening = paper.openings[0]
    declared = next(e for e in paper.experiments if e.key == opening.experiment)
    scale = next(iter(declared.scales))
    settings = declared.scales[scale].settings
    few = replace(settings, sampling=replace(settings.sampling, prompts=2, captions=2, real=4, steps=1))
    return opening.experiment, scale, few


def test_a_model_is_customised_by_any_way(few_samples: tuple[str, Scale, Any], tmp_path: Path) -> None:
    key, scale, settings = few_samples
    found, pictures = measure("custom_diffusion", key, Phrased(), tmp_path, scale, settings=settings)
    assert found["it", "share"].value == 0
    assert [p.name for p in pictures] == ["samples"]


def test_the_share_of_a_network_that_is_another_or_new() -> None:
    before = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))  # 26 numbers
    after = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(1, 1))
    after.load_state_dict({**after.state_dict(), **before.state_dict()})
    assert changed(before, before) == 0
    assert changed(before, after) == pytest.approx(100 * 2 / 26)
    after[0].bias.data.add_(1)
    assert changed(before, after) == pytest.approx(100 * 6 / 26)


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (
            lambda pipeline: pipeline,
            "returned StableDiffusionPipeline; expected a pipeline of diffusers and the phrase",
        ),
        (lambda pipeline: (pipeline.unet, "cat"), "returned a pipeline without unet, vae, text_encoder"),
        (lambda pipeline: (pipeline, ""), "returned the phrase ''"),
    ],
)
def test_what_is_wrong_with_a_customisation_is_said(
    few_samples: tuple[str, Scale, Any], tmp_path: Path, give: Any, words: str
) -> None:
    key, scale, settings = few_samples
    with pytest.raises(ValueError, match=f"`customise` of mine:It {words}"):
        measure("custom_diffusion", key, Phrased(give), tmp_path, scale, settings=settings)
