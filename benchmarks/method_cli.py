"""The command `gengauge method`, and what `gengauge run --method` says of places that a method cannot take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

# Commands import what they need when they are called: help and errors of use come at once, not after torch.
if TYPE_CHECKING:
    from gengauge.benchmarks.core.experiments import Scale


def attach(app: typer.Typer) -> None:
    """Adds the command to `gengauge`."""
    app.command(
        "method",
        epilog="Example: `gengauge method gangealing > my_method.py`, fill it in, then `gengauge run gangealing/world "
        "--method my_method:MyMethod`",
    )(method_command)


def method_command(
    paper: Annotated[str, typer.Argument(help="A paper's key.")],
) -> None:
    """Print what a method of your own must offer to get a row in a paper's tables, as a module to fill in.

    It runs as it is printed. Where it may stand, and where not and why, goes to the error stream.
    """
    from gengauge.benchmarks.jobs import load_paper
    from gengauge.benchmarks.methods import template
    from gengauge.benchmarks.papers import SOURCES

    papers = {each.key: each for each in map(load_paper, SOURCES)}
    if paper not in papers:
        raise ValueError(f"there is no paper {paper!r}; there are {', '.join(papers)}")
    chosen = papers[paper]
    if chosen.contract is None:
        raise ValueError(f"{paper} takes no method")
    experiments = {e.key: e for e in chosen.experiments}
    places: dict[str, dict[str, None]] = {}
    for opening in chosen.openings:
        e = experiments[opening.experiment]
        places.setdefault(e.table, {}).update(dict.fromkeys(e.scales))
    print(template(paper, chosen.contract, next(iter(places))), end="")
    console = Console(stderr=True)
    for table, scales in places.items():
        console.print(f"{paper}/{table} takes a method at {', '.join(scales)}", highlight=False, soft_wrap=True)
    for key, why in chosen.closed.items():
        table, _, experiment = key.partition("/")
        what = f"{table}, where {experiment} is measured," if experiment else table
        console.print(f"{paper}/{what} takes none: {why}", highlight=False, soft_wrap=True)


def tell_closed(
    console: Console, methods: Sequence[str], alone: bool, targets: Sequence[str], scale: Scale
) -> list[str]:
    """Says in which tables of the targets methods get no row, and why; returns the targets in which they get none.

    Raises ValueError for methods without a target, and for `alone` without a method.
    """
    from gengauge.benchmarks.jobs import closed_places
    from gengauge.benchmarks.papers import SOURCES

    if alone and not methods:
        raise ValueError("--alone is for the rows of --method; give one")
    if not methods:
        return []
    if not targets:
        raise ValueError("--method needs a place: PAPER, PAPER/TABLE or PAPER/TABLE/ROW; `gengauge list` shows them")
    shut = []
    for target in targets:
        reasons, anywhere = closed_places(SOURCES, target, scale)
        shut += [] if anywhere else [target]
        for place, why in reasons.items():
            what = f"no row for {', '.join(methods)} in {place} at scale {scale}: {why}"
            console.print(what, style=None if anywhere else "yellow", markup=False, highlight=False, soft_wrap=True)
        if not anywhere and not reasons:
            what = f"no row for {', '.join(methods)} in {target} at scale {scale}: published numbers only"
            console.print(what, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return shut
