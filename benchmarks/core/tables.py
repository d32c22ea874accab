"""The words table, column, row and published number, and the reader of `benchmarks/published/*.csv`."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast, get_args

Direction = Literal["higher", "lower", "none"]
Confidence = Literal["read", "memory", "unknown"]
Kind = Literal["result", "setting"]

PUBLISHED = Path(__file__).parent.parent / "published"


def slug(text: str) -> str:
    """What a person types for a name: lower case, with one dash for whatever is neither letter, digit nor dot."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace("%", "pct")).strip("-")


@dataclass(frozen=True)
class Column:
    """A metric of a table. `metric` defines it in words; `unit` is "1" for a number without one.

    An `exact` one depends on no weights, data or seed: it is no stand-in at any scale.
    """

    key: str
    metric: str
    unit: str
    direction: Direction
    exact: bool = False


@dataclass(frozen=True)
class Row:
    """A method under a setting (data set, data fraction, edit size, policy)."""

    method: str
    setting: str = ""

    @property
    def key(self) -> str:
        """Unique in its table, for the command line: `biggan-diffaugment@cifar-10-10pct-data`."""
        return slug(self.method) + (f"@{slug(self.setting)}" if self.setting else "")

    def __str__(self) -> str:
        return f"{self.method} ({self.setting})" if self.setting else self.method


@dataclass(frozen=True)
class PublishedNumber:
    """One number as the paper prints it, or the place of one that could not be obtained (`text` empty).

    `confidence` says whether the number was read in a source or is remembered; `kind` sets run settings apart.
    """

    table: str
    title: str
    method: str
    setting: str
    column: str
    metric: str
    unit: str
    direction: Direction
    text: str
    spread: str
    spread_kind: str
    kind: Kind
    source: str
    confidence: Confidence

    @property
    def value(self) -> float:
        """The printed text as a number, NaN where it is unknown."""
        return float(self.text) if self.text else math.nan

    @property
    def row(self) -> Row:
        return Row(self.method, self.setting)


@dataclass(frozen=True)
class Table:
    """A table of a paper with its published numbers; `rows` and `columns` stand in the paper's order.

    `beside` names published tables of the paper that a report shows under this one's measured numbers: of the same
    networks, for instance, on other machines.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    published: tuple[PublishedNumber, ...]
    beside: tuple[str, ...] = ()

    def number(self, row: str, column: str) -> PublishedNumber | None:
        """The published number of a row's and a column's key, None where the paper has no such cell."""
        return next((n for n in self.published if n.row.key == row and n.column == column), None)


CSV_FIELDS = tuple("value" if f.name == "text" else f.name for f in fields(PublishedNumber))


def read_published(file: Path) -> tuple[PublishedNumber, ...]:
    """The published numbers of one paper.

    Raises ValueError naming file and line where a line breaks the schema: a column too many or too few, a value that
    is no number, an unknown direction, kind or confidence, the same cell twice.
    """
    numbers: list[PublishedNumber] = []
    seen: set[tuple[str, str, str]] = set()
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, strict=True)
        if tuple(reader.fieldnames or ()) != CSV_FIELDS:
            raise ValueError(f"{file}: the first line must be {','.join(CSV_FIELDS)}")
        for line in reader:
            where = f"{file}:{reader.line_num}"
            if None in line or None in line.values():
                raise ValueError(f"{where}: {len(CSV_FIELDS)} fields are expected")
            number = PublishedNumber(**{"text" if k == "value" else k: v for k, v in line.items()})  # type: ignore[arg-type]
            _check(number, where)
            cell = (number.table, number.row.key, number.column)
            if cell in seen:
                raise ValueError(f"{where}: {'/'.join(cell)} stands in the file already")
            seen.add(cell)
            numbers.append(number)
    return tuple(numbers)


def tables_of(numbers: Iterable[PublishedNumber]) -> tuple[Table, ...]:
    """Groups published numbers into tables, each with its columns and rows in order of appearance.

    Raises ValueError where two numbers of one column differ in metric, unit or direction.
    """
    groups: dict[str, list[PublishedNumber]] = {}
    for number in numbers:
        groups.setdefault(number.table, []).append(number)
    tables = []
    for key, group in groups.items():
        columns: dict[str, Column] = {}
        for n in group:
            column = Column(n.column, n.metric, n.unit, n.direction)
            if columns.setdefault(n.column, column) != column:
                raise ValueError(
                    f"table {key}: column {n.column} is defined in two ways: {columns[n.column]}, {column}"
                )
        rows = tuple(dict.fromkeys(n.row for n in group))
        tables.append(Table(key, group[0].title, tuple(columns.values()), rows, tuple(group)))
    return tuple(tables)


def load_tables(paper: str, folder: Path = PUBLISHED) -> tuple[Table, ...]:
    """The published tables of a paper by its key, for instance `load_tables("diffaugment")`."""
    return tables_of(read_published(folder / f"{paper}.csv"))


def _check(number: PublishedNumber, where: str) -> None:
    for name, allowed in (("direction", Direction), ("kind", Kind), ("confidence", Confidence)):
        value, words = getattr(number, name), cast(tuple[str, ...], get_args(allowed))
        if value not in words:
            raise ValueError(f"{where}: {name} is {value!r}, not one of {', '.join(words)}")
    for name in ("table", "title", "method", "column", "metric", "unit", "source"):
        if not getattr(number, name).strip():
            raise ValueError(f"{where}: {name} is empty")
    for name in ("table", "column"):
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", getattr(number, name)):
            raise ValueError(f"{where}: {name} {getattr(number, name)!r} is no slug")
    for name in ("text", "spread"):
        text = getattr(number, name)
        try:
            finite = not text or math.isfinite(float(text))
        except ValueError:
            finite = False
        if not finite:
            raise ValueError(f"{where}: {'value' if name == 'text' else name} {text!r} is no finite number")
    if bool(number.spread) != bool(number.spread_kind):
        raise ValueError(f"{where}: a spread needs its kind, and a kind its spread")
    if number.kind == "setting" and number.direction != "none":
        raise ValueError(f"{where}: a setting has direction none")
    if not number.text and number.confidence != "unknown":
        raise ValueError(f"{where}: an empty value has confidence unknown")
