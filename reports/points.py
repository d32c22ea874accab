"""What a plot shows, as plain data: the measured and published points of one table, out of frames of records."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import pandas as pd

from gengauge.benchmarks.core.experiments import TRAINING, Axis, Paper
from gengauge.benchmarks.core.statistics import t_interval
from gengauge.benchmarks.core.tables import Column, Row, Table

GROUP = ["scale", "data", "device"]
MULTIPLES = {"k": 1e3, "M": 1e6}


class LeftOut(UserWarning):
    """Rows that were asked for are not in a plot; the message names them and says why."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, NaN bounds where there is none, and the values of its seeds."""

    value: float
    low: float = math.nan
    high: float = math.nan
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Source:
    """One run's part of a table under one scale, data and device: `label` is what a legend calls it."""

    label: str
    scale: str
    data: str
    device: str
    frame: pd.DataFrame

    @property
    def stand_in(self) -> bool:
        """Whether the numbers stand in for the published ones, as all below paper scale do."""
        return self.scale != "paper"

    def final(self, row: str, column: str) -> Estimate | None:
        """A cell's mean over seeds with Student's interval; of one seed the interval that its record has."""
        mine = self._of(row, column)
        mine = mine[mine["step"].isna()].sort_values("seed")
        if mine.empty:
            return None
        values = tuple(float(v) for v in mine["value"])
        found = t_interval(values)
        if found.count > 1:
            return Estimate(found.mean, found.low, found.high, values)
        low, high = (float(mine[name].iloc[0]) for name in ("low", "high"))
        return Estimate(found.mean, low, high, values)

    def curve(self, row: str, column: str) -> list[tuple[int, Estimate]]:
        """A cell's curve: at each step the mean, and the lowest and highest value over seeds."""
        mine = self._of(row, column)
        found = mine[mine["step"].notna()].groupby("step")["value"].agg(["mean", "min", "max"])
        lines = found.astype(float).itertuples(name=None)
        return [(int(step), Estimate(mean, low, high)) for step, mean, low, high in lines]

    def _of(self, row: str, column: str) -> pd.DataFrame:
        return self.frame[(self.frame["row"] == row) & (self.frame["column"] == column)]


@dataclass(frozen=True)
class Chosen:
    """A table's rows and columns that a plot may show: the declared ones where there is such a paper, else their keys.

    `rows` are those asked for; a published number is shown for each of them.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    keys: Mapping[Row, str]
    columns: Mapping[str, Column]
    axis: Axis
    table: Table | None
    sources: tuple[Source, ...]

    def column(self, key: str) -> Column:
        """A metric by its key. Raises ValueError naming the metrics there are."""
        if key not in self.columns:
            raise ValueError(f"{self.name} has no metric {key!r}; it has {', '.join(self.columns)}")
        return self.columns[key]

    def published(self, row: Row, column: str) -> tuple[float, bool] | None:
        """A published number and whether it is remembered only; None without one in the measured metric's unit."""
        number = None if self.table is None else self.table.number(self.keys[row], column)
        if number is None or not number.text or number.unit != self.columns[column].unit:
            return None
        return number.value, number.confidence == "memory"


def choose(
    runs: Mapping[str, pd.DataFrame], target: str, papers: Sequence[Paper] = (), rows: Sequence[str] = ()
) -> Chosen:
    """The part of runs (frames of records by name) that is about a table, PAPER/TABLE.

    `rows` are patterns of row keys; a row counts where one of them matches, by default where it was measured. Raises
    ValueError naming what there is: for a table without measured values and for a pattern that matches no row.
    """
    good = {
        name: frame[(frame["status"] == "ok") & (frame["column"] != "") & frame["value"].notna()]
        for name, frame in runs.items()
    }
    there = sorted({f"{p}/{t}" for frame in good.values() for p, t in zip(frame["paper"], frame["table"], strict=True)})
    if target not in there:
        raise ValueError(f"there are no measured values of table {target!r}; there are {', '.join(there) or 'none'}")
    key, _, table_key = target.partition("/")
    parts = {name: f[(f["paper"] == key) & (f["table"] == table_key)] for name, f in good.items()}
    frame = pd.concat(parts.values())
    paper = next((p for p in papers if p.key == key), None)
    table = next((t for t in paper.tables if t.key == table_key), None) if paper else None
    experiments = [e for e in paper.experiments if e.key in set(frame["experiment"])] if paper else []
    declared = {c.key: c for c in (*(table.columns if table else ()), *(c for e in experiments for c in e.columns))}
    units = dict(zip(frame["column"], frame["unit"], strict=True))
    columns = {k: replace(declared.get(k) or Column(k, k, "", "none"), unit=str(u)) for k, u in units.items()}
    known = {row.key: row for row in table.rows} if table else {}
    measured = [k for k in dict.fromkeys(frame["row"]) if k not in known]
    keys = {known.get(k) or Row(*k.split("@", 1)): k for k in (*known, *measured)}
    chosen = tuple(row for row, k in keys.items() if (_matches(k, rows) if rows else k in set(frame["row"])))
    for pattern in rows:
        if not any(_matches(k, [pattern]) for k in keys.values()):
            raise ValueError(f"no row of {target} matches {pattern!r}; it has {', '.join(keys.values())}")
    return Chosen(
        target,
        table.title if table else target,
        chosen,
        keys,
        columns,
        next((e.axis for e in experiments), TRAINING),
        table,
        _sources(parts),
    )


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _sources(parts: Mapping[str, pd.DataFrame]) -> tuple[Source, ...]:
    """Each run, in parts where it was measured under several scales, data or devices; labels say what differs."""
    groups: list[tuple[tuple[str, str, str, str], pd.DataFrame]] = []
    for name, frame in parts.items():
        for key, part in frame.groupby(GROUP, sort=True):
            scale, data, device = map(str, key)
            groups.append(((name, scale, data, device), part))
    varying = [i for i in range(4) if len({names[i] for names, _ in groups}) > 1]
    return tuple(Source(", ".join(names[i] for i in varying) or "measured", *names[1:], part) for names, part in groups)


@dataclass(frozen=True)
class Numbered:
    """Rows by a number in their setting: `name` of the number, and for each line its rows with their numbers.

    `without` are the rows that have no such number.
    """

    name: str
    lines: Mapping[str, tuple[tuple[float, Row], ...]]
    without: tuple[Row, ...]


_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s?(%|[a-zA-Z]+\b)?")


def by_number(rows: Sequence[Row], word: str = "") -> Numbered:
    """Rows as lines over a number that stands in their settings, as `10% data`, `FFHQ 5k` or `t0 = 0.3, K = 1`.

    A line is what has method and the rest of its setting in common. Of several kinds of numbers that one counts whose
    name holds `word`, and of those the one that joins the most rows. Multiples are resolved (5k is 5,000). Raises
    ValueError naming the numbers there are.
    """
    found = {row: [n for n in _numbers(row.setting) if word.lower() in f"{n.kind} {n.name}".lower()] for row in rows}
    kinds = dict.fromkeys(n.kind for numbers in found.values() for n in numbers)
    if not kinds:
        names = list(dict.fromkeys(n.name for row in rows for n in _numbers(row.setting)))
        has = f"there are {', '.join(map(repr, names))}" if names else "there are none"
        raise ValueError(f"no number{f' of {word!r}' if word else ''} in the settings of {len(rows)} rows; {has}")

    def joined(kind: str) -> tuple[int, int]:
        lines = Counter((row.method, n.rest) for row, numbers in found.items() for n in numbers if n.kind == kind)
        return sum(n for n in lines.values() if n > 1), sum(lines.values())

    best = max(kinds, key=joined)
    chosen = {row: next((n for n in numbers if n.kind == best), None) for row, numbers in found.items()}
    names = list(dict.fromkeys(n.name for n in chosen.values() if n))
    lines: dict[str, list[tuple[float, Row]]] = {}
    for row, n in chosen.items():
        if n is not None:  # what all lines have in common names the axis and no line
            line = Row(row.method, n.others if len(names) == 1 else n.rest)
            lines.setdefault(str(line), []).append((n.value, row))
    return Numbered(
        names[0] if len(names) == 1 else "number in the setting" if best in MULTIPLES else best,
        {line: tuple(sorted(points, key=lambda point: point[0])) for line, points in lines.items()},
        tuple(row for row, n in chosen.items() if n is None),
    )


@dataclass(frozen=True)
class _Number:
    """A number in a setting: its kind, its name for an axis, and the setting without it and without its whole part."""

    kind: str
    name: str
    value: float
    rest: str
    others: str


def _numbers(setting: str) -> list[_Number]:
    """The numbers of a setting. One is of the kind of its unit, or without a unit of the words about it."""
    out = []
    parts = setting.split(", ")
    for i, part in enumerate(parts):
        for match in _NUMBER.finditer(part):
            unit = match[2] or ""
            before, after = part[: match.start()].strip(" =(-"), part[match.end() :].strip(" )-")
            if unit not in ("", "%", *MULTIPLES):  # a word, as in `12 images`
                after, unit = f"{unit} {after}".strip(), ""
            words = " ".join(filter(None, (before, after)))
            name = f"{words} (%)".strip() if unit == "%" else words or "number in the setting"
            rest = ", ".join((*parts[:i], *([words] if words else []), *parts[i + 1 :]))
            others = ", ".join((*parts[:i], *parts[i + 1 :]))
            out.append(_Number(unit or words, name, float(match[1]) * MULTIPLES.get(unit, 1), rest, others))
    return out


def tell_left_out(chosen: Chosen, rows: Sequence[Row], why: str) -> None:
    """Warns of rows that a plot cannot show."""
    if rows:
        keys = ", ".join(chosen.keys[row] for row in rows)
        warnings.warn(f"left out of the plot, {why}: {keys}", LeftOut, stacklevel=3)


def dominated(points: Sequence[tuple[float, float]], signs: tuple[int, int]) -> list[bool]:
    """Which of points (x, y) another one beats: as good in both and better in one; a sign is 1 where less is better."""
    out = []
    for x, y in points:
        mine = (signs[0] * x, signs[1] * y)
        others = ((signs[0] * a, signs[1] * b) for a, b in points)
        out.append(any(o[0] <= mine[0] and o[1] <= mine[1] and o != mine for o in others))
    return out


def settings_of(sources: Sequence[Source]) -> str:
    """What all of the sources were measured under, for a line below a plot."""
    parts = []
    for name, values in (("scale", {s.scale for s in sources}), ("", {s.data for s in sources})):
        if len(values) == 1:
            parts.append(f"{name} {values.pop()}".strip())
    parts += {s.device for s in sources} if len({s.device for s in sources}) == 1 else ()
    return "; ".join(parts)
