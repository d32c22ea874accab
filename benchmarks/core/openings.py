"""The words contract and opening: what a paper asks of a method of the user's own, and where that may stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gengauge.benchmarks.core.experiments import Context, Result


@dataclass(frozen=True)
class Contract:
    """What a method must offer: members of `protocol`, a typing.Protocol whose text is the template of a method.

    All of `required` must be there, and one or more of `one_of`; other members are optional.
    """

    protocol: type
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Own:
    """A method of the user's own, found and checked: `method` offers what the paper's contract asks.

    `spec` is how the user called it, `table` and `rows` are the keys of its place, `digest` is that of its sources.
    """

    spec: str
    table: str
    rows: tuple[str, ...]
    digest: str
    method: Any

    @property
    def row(self) -> str:
        """Its one row, or the first of several."""
        return self.rows[0]


@dataclass(frozen=True)
class Opening:
    """A place for a user's method in a table: one more row, measured as a declared experiment measures its own rows.

    `experiment` is the key of that one: settings, limits, threads, seeds, timing and differences from the published
    protocol are the same, and records of the new row stand under that key. `settings` end the rows' names in a table of
    several settings; an opening with several is measured at all of them in one job. `columns` are the keys of those
    that are measured, by default all of the experiment's.
    """

    experiment: str
    run: Callable[[Context, Own], Iterator[Result]]
    settings: tuple[str, ...] = ("",)
    columns: tuple[str, ...] = ()
