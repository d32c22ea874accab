"""SDEdit's experiments on strokes at a size of seconds: all that they declare, on the world and on published files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sdedit_tiny import (
    context_of,
    experiment_of,
    measured,
    network_for,
    small,
    values,
    write_lsun,
    write_painting,
)
from typer.testing import CliRunner

from gengauge.benchmarks import cli
from gengauge.benchmarks.core.claims import judge
from gengauge.benchmarks.core.experiments import Scale
from gengauge.benchmarks.core.store import read_records
from gengauge.benchmarks.papers.sdedit import PAPER, runs, strokes
from gengauge.benchmarks.papers.sdedit.loading import Layout, save_network
from gengauge.benchmarks.papers.sdedit.priors import PRIORS
from gengauge.benchmarks.papers.sdedit.runs import WORLD, Pictures, Sampling, run_edit
from gengauge.benchmarks.training.loop import step_seed
from gengauge.datasets import weights
from gengauge.datasets.diffusers_folder import WEIGHTS
from gengauge.datasets.lsun import LMDBSet
from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.weights import WeightsNotFound
from gengauge.reference.sdedit.editing import Behaviour, edit, edit_ve, from_noise
from gengauge.reference.sdedit.projector import Recipe
from gengauge.reference.sdedit.schedule import DDPM, VESchedule

FEW = Pictures(WORLD, 4, 6)
QUICK = replace(strokes.QUICK, steps_per_unit=10, batch=3)
CHURCHES = "church_outdoor_val_lmdb"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)


def tiny(key: str) -> Any:
    """An experiment's settings at quick scale with fewer pictures and steps."""
    settings = experiment_of(key).scales["quick"].settings
    if isinstance(settings, strokes.Simulated):
        return replace(settings, pictures=FEW, sampling=replace(QUICK, t0=settings.sampling.t0))
    if isinstance(settings, strokes.TradeOff):
        lines = [(name, replace(QUICK, prior=sampling.prior), t0s) for name, sampling, t0s in settings.lines]
        return replace(settings, pictures=FEW, lines=tuple(lines))
    return replace(settings, pictures=FEW, recipe=replace(settings.recipe, steps=3, draws=20), batch=2)


def published(key: str) -> Any:
    """An experiment's settings at paper scale with fewer and smaller pictures and steps."""
    settings = experiment_of(key).scales["paper"].settings
    few = replace(settings.pictures, count=4, references=4, resolution=8)
    if isinstance(settings, strokes.TradeOff):
        lines = [(name, replace(sampling, steps_per_unit=10, batch=3), t0s) for name, sampling, t0s in settings.lines]
        return replace(settings, pictures=few, lines=tuple(lines))
    return replace(settings, pictures=few, sampling=replace(settings.sampling, t0=0.005, batch=3))


def names(monkeypatch: pytest.MonkeyPatch, key: str, path: Path) -> None:
    """Sets the variable that says where a user has published weights."""
    monkeypatch.setenv(weights.WEIGHTS[key].variable, str(path))


# ----------------------------------------------------------------------------------------------------------------------
# On the embedded world, with the zoo's networks


@pytest.mark.parametrize("key", ["church", "colours", "projector"])
def test_every_cell_of_a_table_is_measured(key: str) -> None:
    experiment = experiment_of(key)
    found, pictures = measured(experiment, tiny(key), "quick")
    for m in found:
        assert m.low is not None
        assert m.high is not None
        assert m.low < m.value < m.high
        assert m.samples == 4
        assert m.interval
        assert m.column != "l2" or m.value > 0
    assert {p.row for p in pictures} == set(experiment.rows)
    assert all(p.pixels.shape[1] == 4 * 64 for p in pictures)  # a column a picture, zoomed to 64 px
    _, others = measured(experiment, tiny(key), "quick", seed=1)
    assert not others


def test_a_seed_gives_its_numbers_again_and_another_one_others() -> None:
    first, again, other = (values(measured(experiment_of("church"), tiny("church"), "quick", s)[0]) for s in (0, 0, 1))
    assert first == again
    assert all(first[cell] != other[cell] for cell in first)


def test_every_seed_paints_its_own_pictures_and_none_of_the_references() -> None:
    loaded = [FEW.load(context_of(None, "quick", seed)) for seed in range(3)]
    assert all(torch.equal(references, loaded[0][1]) for _, references in loaded)
    every = torch.cat([loaded[0][1], *(real for real, _ in loaded)])
    assert (every.shape, every.dtype) == ((6 + 3 * 4, 3, 32, 32), torch.uint8)
    assert len(every.unique(dim=0)) == len(every)


def test_realism_and_faithfulness_over_t0_and_what_is_claimed_of_them() -> None:
    experiment, settings = experiment_of("trade-off"), tiny("trade-off")
    cells: dict[tuple[int, str, str], float] = {}
    expected = {name: [round(100 * t0) for t0 in t0s] for name, _, t0s in settings.lines}
    for seed in range(2):
        found, pictures = measured(experiment, settings, "quick", seed)
        cells |= {(seed, row, column): value for (row, column), value in values(found).items()}
        steps = {
            name: [m.step for m in found if m.row == row.key and m.column == "l2" and m.step is not None]
            for name, row in strokes.LINES.items()
        }
        assert steps == expected
        assert bool(pictures) == (seed == 0)
        # A curve's points are those of the rows.
        at = {m.step: m.value for m in found if m.row == strokes.LINES[strokes.TRAINED].key and m.column == "l2"}
        assert all(at[round(100 * t0)] == cells[seed, strokes._at(t0).key, "l2"] for t0 in strokes.ROWS_T0)
        assert cells[seed, strokes.STROKES.key, "l2"] == 0
        assert cells[seed, strokes._at(0.5, 3).key, "l2"] != cells[seed, strokes._at(0.5).key, "l2"]
    for key in ("church", "projector"):
        for seed in range(2):
            found, _ = measured(experiment_of(key), tiny(key), "quick", seed)
            cells |= {(seed, row, column): value for (row, column), value in values(found).items()}
    judged = {claim.key: judge(claim, cells) for claim in strokes.CLAIMS}
    assert {"realism-rises", "faithfulness-falls", "beats-projector-kid", "beats-projector-l2"} == set(judged)
    for judgement in judged.values():
        assert judgement.interval is not None
        assert judgement.interval.count == 2
    falls = judged["faithfulness-falls"].interval
    assert falls is not None
    assert falls.mean > 0
    rises = next(claim for claim in strokes.CLAIMS if claim.key == "realism-rises")
    without = {cell: value for cell, value in cells.items() if cell[1] != rises.cells["high"].row}
    assert judge(rises, without).verdict == "undecided"


def test_a_claim_on_faithfulness_fails_where_one_step_of_t0_comes_nearer() -> None:
    claim = next(claim for claim in strokes.CLAIMS if claim.key == "faithfulness-falls")

    def verdict(*distances: float) -> str:
        cells = {
            (seed, strokes._at(t0).key, "l2"): distance + 0.001 * seed * distance
            for seed in range(3)
            for t0, distance in zip(strokes.ROWS_T0, distances, strict=True)
        }
        return judge(claim, cells).verdict

    assert verdict(1, 2, 3, 4) == "holds"
    assert verdict(1, 3, 2, 4) == "fails"


def test_the_exact_denoiser_returns_pictures_that_it_knows() -> None:
    prior = PRIORS["exact"].load("cpu")
    known = ((prior.pictures + 1) * 127.5).round()  # type: ignore[attr-defined]
    assert len(known) == 20
    real, _ = FEW.load(context_of(None, "quick"))
    sampling = Sampling("exact", t0=0.9, steps_per_unit=50)
    out = run_edit(prior, sampling, real, 0).float()
    assert ((out[:, None] - known).abs().amax((2, 3, 4)).amin(1) <= 1).all()


# ----------------------------------------------------------------------------------------------------------------------
# A run over many guides


def of_batch(seed: int, number: int) -> torch.Generator:
    """The noise of a batch."""
    return torch.Generator().manual_seed(step_seed(seed, 0, number))


def test_guides_are_edited_in_parts_with_noise_of_their_own() -> None:
    network, told = network_for("church"), []
    guides = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    editable = torch.zeros(5, 1, 8, 8, dtype=torch.bool)
    editable[..., :4] = True
    sampling = Sampling("church", t0=0.005, repeats=2, batch=2)
    out = run_edit(network, sampling, guides, 1, "cpu", editable, lambda *done: told.append(done))
    assert (out.shape, out.dtype) == (guides.shape, torch.uint8)
    assert told == [(n, 30) for n in range(1, 31)]
    levels, expected = DDPM.levels(0.005), []
    for number, part in enumerate((slice(0, 2), slice(2, 4), slice(4, 5))):
        made = edit(
            from_noise(network, levels),
            2 * guides[part].float() / 255 - 1,
            levels,
            editable[part],
            repeats=2,
            generator=of_batch(1, number),
        )
        expected.append((made * 127.5 + 128).clamp(0, 255).to(torch.uint8))
    assert torch.equal(out, torch.cat(expected))
    # Kept pixels differ by the noise of the first level.
    away = (out.float() - guides.float())[(~editable).expand(out.shape)]
    assert 0.9 < away.square().mean().sqrt() < 1.7


def test_two_processes_edit_what_one_does() -> None:
    guides = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    editable = torch.ones(3, 1, 32, 32, dtype=torch.bool)
    editable[1, :, :16] = False
    sampling, told = Sampling("zoo", t0=0.3, steps_per_unit=10, clamp=True, batch=1), []
    here = context_of(None, "quick")
    one, two = (
        runs.Editor(replace(here, processes=count), "zoo")(sampling, guides, lambda *done: told.append(done), editable)
        for count in (1, 2)
    )
    assert torch.equal(one, two)
    # Of two processes the first, which edits two of the three, tells how far it is.
    assert told == [*((n, 9) for n in range(1, 10)), *((n, 6) for n in range(1, 7))]


@pytest.mark.parametrize("clamp", [False, True])
def test_fewer_steps_are_spread_and_the_clean_picture_cut_where_asked(clamp: bool) -> None:
    network = network_for("church")
    guides = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sampling = Sampling("church", t0=0.5, steps_per_unit=10, clamp=clamp)
    levels, behaviour = DDPM.levels(0.5, 5), Behaviour(clamp=clamp)
    made = edit(
        from_noise(network, levels, behaviour),
        2 * guides.float() / 255 - 1,
        levels,
        generator=of_batch(1, 0),
    )
    out = run_edit(network, sampling, guides, 1)
    assert torch.equal(out, (made * 127.5 + 128).clamp(0, 255).to(torch.uint8))


def test_a_score_network_takes_the_exploding_form() -> None:
    network = network_for("faces")
    guides = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = run_edit(network, Sampling("faces", 0.35, steps_per_unit=20), guides, 1)
    made = edit_ve(network, guides.float() / 255, VESchedule(348.0), t0=0.35, steps=7, generator=of_batch(1, 0))
    assert torch.equal(out, (255 * made + 0.5).clamp(0, 255).to(torch.uint8))


# ----------------------------------------------------------------------------------------------------------------------
# The published protocol, on small files of the published formats


LAYOUTS: list[tuple[str, Layout]] = [
    ("sdedit-church", "bare"),
    ("ddim-church", "ddim"),
    ("sdedit-church", "model and ema"),
    ("ddpm-ema-church-256", "diffusers"),
]


@pytest.mark.parametrize(("key", "layout"), LAYOUTS, ids=[layout for _, layout in LAYOUTS])
def test_a_published_prior_in_any_layout_edits_the_validation_pictures(
    key: str, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, other = network_for("church"), network_for("church", seed=1)
    path = tmp_path / "prior"
    save_network(other, path, layout, network.state_dict())
    names(monkeypatch, key, path / WEIGHTS[0] if layout == "diffusers" else path)
    data = write_lsun(tmp_path / "data", f"lsun/{CHURCHES}", 5)
    experiment, settings = experiment_of("church"), published("church")
    found, _ = measured(experiment, settings, "paper", data=data)
    # The same from the network itself.
    real = LMDBSet(data / f"lsun/{CHURCHES}", 8, limit=4, resample="bilinear").pictures(range(4))
    guides = strokes.strokes(real)
    results = run_edit(network, settings.sampling, guides, 0)
    expected = [runs.l2(strokes.CHURCH, guides, results), runs.Scores(real, "cpu").kid(strokes.CHURCH, results)]
    assert found == expected


def test_the_colours_and_the_curve_run_on_the_validation_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_network(network_for("church"), tmp_path / "x.ckpt", "bare")
    names(monkeypatch, "sdedit-church", tmp_path / "x.ckpt")
    data = write_lsun(tmp_path / "data", CHURCHES, 4)
    found, _ = measured(experiment_of("colours"), published("colours"), "paper", data=data)
    assert len({m.value for m in found if m.column == "l2"}) == 5
    found, pictures = measured(experiment_of("trade-off"), published("trade-off"), "paper", data=data)
    line = [m for m in found if m.row == strokes.LINES[strokes.TRAINED].key and m.column == "kid"]
    assert [m.step for m in line] == [1, *range(10, 101, 10)]
    # There are no other real pictures than the references: one half of them stands beside the other.
    (other,) = (m for m in found if m.row == strokes.FRESH.key)
    assert other.samples == 2
    (sheet,) = pictures
    assert sheet.pixels.shape == (64 * (2 + 11 + 1), 64 * 4, 3)


def test_bedrooms_have_a_prior_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_network(network_for("bedroom"), tmp_path / "x.ckpt", "ddim")
    names(monkeypatch, "ddim-bedroom", tmp_path / "x.ckpt")
    data = write_lsun(tmp_path / "data", "bedroom_val_lmdb", 4)
    measured(experiment_of("bedroom"), published("bedroom"), "paper", data=data)


def test_the_first_prior_that_is_there_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = PRIORS["church"]
    assert prior.found == "ddim-church"
    for key in reversed(prior.weights):
        save_network(network_for("church"), tmp_path / key)
        names(monkeypatch, key, tmp_path / key)
        assert prior.found == key
    (need,) = prior.needs()
    assert need.where == tmp_path / "ddim-church"


def test_strokes_by_hand_are_edited_where_their_masks_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_network(network_for("bedroom"), tmp_path / "x.ckpt", "bare")
    names(monkeypatch, "sdedit-bedroom", tmp_path / "x.ckpt")
    experiment = experiment_of("by-hand")
    at = experiment.scales["paper"].settings
    assert (at.sampling.t0, at.sampling.steps) == (0.5, 500)
    settings = replace(at, sampling=replace(at.sampling, steps_per_unit=10))
    distances = {}
    for name, mask in (("kept", torch.ones(3, 8, 8)), ("free", torch.zeros(3, 8, 8))):
        data = tmp_path / name
        for i in range(3):
            write_painting(data / "sdedit-strokes" / f"lsun_bedroom{i}.pth", mask, seed=i)
        (found,), pictures = measured(experiment, settings, "paper", data=data)
        assert (found.column, found.samples) == ("l2", 3)
        assert pictures[0].pixels.shape == (2 * 64, 3 * 64, 3)
        distances[name] = found.value
    noise = 0.005 * (3 * 8 * 8) ** 0.5  # 1 % of [-1, 1]
    assert 0.7 * noise < distances["kept"] < 1.6 * noise
    assert distances["free"] > 10 * noise


def test_paintings_of_another_size_are_refused_by_name(tmp_path: Path) -> None:
    write_painting(tmp_path / "sdedit-strokes" / "a.pth", torch.ones(3, 8, 8))
    write_painting(tmp_path / "sdedit-strokes" / "b.pth", torch.ones(3, 12, 12), size=12)
    experiment = experiment_of("by-hand")
    with pytest.raises(ValueError, match=r"b\.pth has \(12, 12\) px; the network takes 8 x 8: resize mask and image"):
        list(experiment.run(context_of(experiment.scales["paper"].settings, "paper", data=tmp_path)))


def test_a_set_with_too_few_pictures_is_refused(tmp_path: Path) -> None:
    data = write_lsun(tmp_path, CHURCHES, 3)
    with pytest.raises(ValueError, match="church_outdoor_val_lmdb holds 3 pictures; 300 are needed"):
        experiment_of("church").scales["paper"].settings.pictures.load(context_of(None, "paper", data=data))


# ----------------------------------------------------------------------------------------------------------------------
# What is missing, and what is declared


@pytest.mark.parametrize(
    ("key", "kind", "command"),
    [
        ("church", WeightsNotFound, r"wget -O model-4432000\.ckpt .*set GENGAUGE_DDIM_CHURCH"),
        ("bedroom", WeightsNotFound, r"wget -O model-2388000\.ckpt .*set GENGAUGE_DDIM_BEDROOM"),
        ("by-hand", DataNotFound, r"put your own \.pth files.*into the folder sdedit-strokes"),
    ],
)
def test_what_is_missing_says_how_to_get_it(key: str, kind: type[Exception], command: str, tmp_path: Path) -> None:
    experiment = experiment_of(key)
    for data in (None, tmp_path):
        with pytest.raises(kind, match=command):
            list(experiment.run(context_of(experiment.scales["paper"].settings, "paper", data=data)))


def test_missing_pictures_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_network(network_for("church"), tmp_path / "x.ckpt", "bare")
    names(monkeypatch, "sdedit-church", tmp_path / "x.ckpt")
    for data in (None, tmp_path):
        with pytest.raises(DataNotFound, match=r"300 validation pictures.*church_outdoor_val_lmdb\.zip"):
            list(experiment_of("church").run(context_of(published("church"), "paper", data=data)))


def test_rows_without_their_data_or_weights_are_unavailable(tmp_path: Path) -> None:
    targets = ["sdedit/human-strokes", "sdedit/compositing", "sdedit/simulated-strokes/sdedit@lsun-bedroom"]
    options = ["--scale", "paper", "--device", "cpu", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.app, ["run", *targets, *options], catch_exceptions=False)
    assert done.exit_code == cli.UNAVAILABLE, done.stdout
    frame = read_records(tmp_path / "out")
    assert set(frame["status"]) == {"unavailable"}
    reasons = dict(zip(frame["table"], frame["reason"], strict=True))
    assert set(reasons) == {"human-strokes", "compositing", "simulated-strokes"}
    assert "into the folder sdedit-strokes" in reasons["human-strokes"]
    assert "mask/NAME.png" in reasons["compositing"]
    assert "wget -O model-2388000.ckpt" in reasons["simulated-strokes"]


def test_the_published_settings_are_those_of_the_paper() -> None:
    for key, source in (("church", "lsun-church-val"), ("bedroom", "lsun-bedroom-val"), ("colours", "lsun-church-val")):
        settings = experiment_of(key).scales["paper"].settings
        sampling = settings.sampling
        assert settings.pictures == Pictures(source, 300, 300, 256)
        assert (sampling.t0, sampling.steps, sampling.repeats, sampling.clamp) == (0.5, 500, 1, False)
    ((_, sampling, t0s),) = experiment_of("trade-off").scales["paper"].settings.lines
    assert t0s == (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert (sampling.steps_per_unit, sampling.clamp) == (1000, False)
    assert Recipe().steps == experiment_of("projector").scales["small"].settings.recipe.steps == 1000


def test_every_experiment_fills_rows_of_its_table_and_every_claim_speaks_of_them() -> None:
    cells = set()
    for experiment in PAPER.experiments:
        table = PAPER.table(experiment.table)
        assert set(experiment.rows) <= {row.key for row in table.rows}
        mine = {(row, column.key) for row in experiment.rows for column in experiment.columns} - experiment.without
        cells |= {(experiment.table, *cell) for cell in mine}
    for claim in PAPER.claims:
        assert {(claim.table, cell.row, cell.column) for cell in claim.cells.values()} <= cells
    assert len({claim.key for claim in PAPER.claims}) == len(PAPER.claims)


def test_no_row_is_filled_twice_at_a_scale() -> None:
    for scale in ("quick", "small", "paper"):
        filled = [(e.table, row) for e in PAPER.experiments if scale in e.scales for row in e.rows]
        assert len(filled) == len(set(filled))


@pytest.mark.parametrize("scale", ["quick", "small", "paper"])
def test_every_row_over_t0_is_a_point_of_the_first_line(scale: Scale) -> None:
    settings = experiment_of("trade-off").scales[scale].settings
    _, _, t0s = settings.lines[0]
    assert set(strokes.ROWS_T0) <= set(t0s)
    assert settings.repeats_at in t0s
    assert {name for name, _, _ in settings.lines} <= set(strokes.LINES)


def test_a_plan_has_the_published_networks_and_names_what_is_missing(tmp_path: Path) -> None:
    options = ["--scale", "paper", "--dry-run", "--device", "cpu", "--data", str(tmp_path)]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["run", "sdedit", *options], catch_exceptions=False)
    text = " ".join(done.stdout.split())
    assert done.exit_code == 0
    # Tables 2 and 4 and the curve; tables 1 and 2; table 3. Multiply-accumulates are of a picture and step.
    for network, times in (
        ("DDPM U-Net, LSUN churches: 113,673,219 parameters, 248,5", 3),
        ("DDPM U-Net, LSUN bedrooms: 113,673,219 parameters, 248,5", 2),
        ("NCSN++, FFHQ: 65,574,549 parameters, 266,", 1),
    ):
        assert text.count(network) == times, network
    for missing in (
        "lsun-church-val:",
        "lsun-bedroom-val:",
        "sdedit-strokes:",
        "sdedit-composites:",
        "ddim-church:",
        "ddim-bedroom:",
        "ncsnpp-ffhq-256:",
    ):
        assert any(part.startswith(missing) and "MISSING, looked in" in part for part in text.split(" needs ")), missing
    for command in ("church_outdoor_val_lmdb.zip", "wget -O model-4432000.ckpt", "GENGAUGE_NCSNPP_FFHQ_256"):
        assert command in text
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["run", "sdedit", *options[2:]], catch_exceptions=False)
    assert "small DDPM U-Net, cats: 2,7" in done.stdout
    assert not (tmp_path / "out").exists()
