"""DiffAugment's quick study at a size of seconds: what it yields, on the world and on a folder, and repeatably."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image

from gengauge.benchmarks.core.experiments import Context, Measurement, Picture, Result
from gengauge.benchmarks.papers.diffaugment import PAPER
from gengauge.benchmarks.papers.diffaugment import study as diffaugment
from gengauge.benchmarks.papers.diffaugment.study import Settings, study
from gengauge.datasets import world


def tiny(placement: str) -> Settings:
    return Settings(placement, pictures=16, generator_width=4, discriminator_width=4, batch=4, steps=6, curve_points=2,
                    samples=12, references=20)  # fmt: skip


def run(placement: str, seed: int = 0, data: Path | None = None) -> list[Result]:
    import torch

    torch.manual_seed(seed)
    told: list[tuple[int, int]] = []
    context = Context(
        tiny(placement), seed, "quick", "cpu", data, Path(), lambda done, total, doing: told.append((done, total))
    )
    results = list(study(context))
    assert told
    assert all(0 <= done <= total for done, total in told)
    return results


def values(results: list[Result]) -> dict[str, float]:
    return {r.column: r.value for r in results if isinstance(r, Measurement) and r.step is None}


def test_a_study_measures_every_column_with_curves_and_pictures() -> None:
    results = run("none")
    final = values(results)
    assert set(final) == {c.key for c in diffaugment.COLUMNS}
    assert all(math.isfinite(v) for v in final.values())
    curves = [r for r in results if isinstance(r, Measurement) and r.step is not None]
    assert {r.step for r in curves} == {3, 6}
    assert {r.column for r in curves} == {"d_train", "d_fresh", "d_fake"}
    assert {r.name for r in results if isinstance(r, Picture)} == {"samples", "training"}
    kid = next(r for r in results if isinstance(r, Measurement) and r.column == "kid")
    assert (kid.low or math.inf) < kid.value < (kid.high or -math.inf)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others() -> None:
    first = values(run("diffaugment", 1))
    assert values(run("diffaugment", 1)) == first
    assert values(run("diffaugment", 2)) != first
    assert values(run("none", 1)) != first


def test_a_study_on_a_folder_trains_on_few_and_measures_against_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffaugment, "FEWEST_REFERENCES", 8)
    for i, picture in enumerate(world.pictures(3, range(24), 40)):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    assert math.isfinite(values(run("none", data=tmp_path))["fid"])
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match=r"holds 23 pictures.*24 in all"):
        run("none", data=tmp_path)


def test_every_experiment_fills_a_row_of_the_papers_table_and_every_claim_speaks_of_one() -> None:
    for experiment in PAPER.experiments:
        rows = {r.key for r in PAPER.table(experiment.table).rows}
        assert set(experiment.rows) <= rows
    filled = {row for e in PAPER.experiments for row in e.rows}
    columns = {c.key for c in diffaugment.COLUMNS}
    for claim in PAPER.claims:
        for cell in claim.cells.values():
            assert cell.row in filled
            assert cell.column in columns
