"""Trainings as if others had done them, and which measurements tell so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gengauge.benchmarks.core.experiments import Measurement, Result

BY_TWO = "trained by 2 processes"


def retell(folder: Path, **changed: Any) -> None:
    """Has all trainings in a folder say that two processes did them, or what is `changed` of what they say."""
    for path in folder.rglob("about.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **(changed or {"processes": 2})}))


def notes(results: Iterable[Result]) -> dict[tuple[str, str], str]:
    """What final values tell of their training, by row and column; those that tell nothing are left out."""
    final = [m for m in results if isinstance(m, Measurement) and m.step is None]
    return {(m.row, m.column): m.note for m in final if "trained by" in m.note}
