"""The ablation on the embedded world: what the flow, its smoothness and the annealing of the target are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import AtScale, Context, Experiment, Limits, Picture, Result
from gengauge.benchmarks.core.tables import Row, Table
from gengauge.benchmarks.jobs import code_version
from gengauge.benchmarks.papers.gangealing.comparison import PROTOCOL
from gengauge.benchmarks.papers.gangealing.evaluation import Protocol, congealed, transfer
from gengauge.benchmarks.papers.gangealing.figures import averages
from gengauge.benchmarks.papers.gangealing.scores import measurements
from gengauge.benchmarks.papers.gangealing.trained import plan, train_from_zoo
from gengauge.benchmarks.papers.gangealing.world import COLUMNS, SCORED, Pairs
from gengauge.benchmarks.training.loop import Trained, history
from gengauge.benchmarks.zoo import aligners
from gengauge.reference.gangealing.training import Recipe

DAY = 24 * 3600.0
FULL = Row("GANgealing, full")
ONLY = Row("GANgealing, similarity only")
SUDDEN = Row("GANgealing, without annealing")
ROUGH = Row("GANgealing, without total variation")
_BOTH = aligners.RECIPES["both"]
RECIPES: dict[Row, Recipe] = {
    FULL: _BOTH,
    ONLY: aligners.similarity_only(_BOTH),
    SUDDEN: replace(_BOTH, annealing=0, schedule=replace(_BOTH.schedule, period=_BOTH.iterations)),  # nearly its rates
    ROUGH: replace(_BOTH, tv_weight=0.0),
}


@dataclass(frozen=True)
class Settings:
    """A row's recipe, the pairs and how points are taken from one picture to the other."""

    row: str
    recipe: Recipe
    pairs: Pairs
    protocol: Protocol


def train_row(context: Context) -> Trained:
    """Trains the row's transformer, from where an earlier job left it."""
    return train_from_zoo(context, context.settings.recipe, every=500)


def ablate(context: Context) -> Iterator[Result]:
    """Trains and measures one row."""
    s: Settings = context.settings
    trained = train_row(context)
    network = s.recipe.build()
    network.load_state_dict(trained.last)
    network = network.to(context.device).eval()
    drawn = s.pairs.drawn(0)  # the same for all seeds, which are of the training
    found = transfer(network, drawn.batches(), s.protocol)
    told = history(trained.about, code_version())
    yield from measurements(s.row, drawn.hits(found.estimated_b), SCORED, context.seed, note=told)
    if context.seed == 0:
        some = drawn.pictures[:100]
        after = congealed(network, some, s.protocol, s.pairs.size).cpu()
        yield Picture(
            s.row,
            "average",
            averages(some.mean(0), after.mean(0)),
            f"The average of {len(some)} cats as they are and aligned ({s.row})",
        )


TABLE = Table(
    "ablation", "What the parts of GANgealing are worth on the embedded world (own)", COLUMNS, tuple(RECIPES), ()
)
EXPERIMENTS = tuple(
    Experiment(
        key=f"ablation-{row.key}",
        table="ablation",
        rows=(row.key,),
        columns=COLUMNS,
        scales={
            "small": AtScale(
                Settings(row.key, recipe, Pairs(500), Protocol(iters=3, flips=False)),
                3,
                Limits(DAY, 8),
                1,
                plan(recipe),
            )
        },
        run=ablate,
        train=train_row,
        protocol=PROTOCOL,
    )
    for row, recipe in RECIPES.items()
)


def _claim(key: str, sentence: str, worse: Row, column: str = "pck_10") -> Claim:
    return Claim(
        key,
        sentence,
        "ablation",
        {"full": Cell(FULL.key, column), "other": Cell(worse.key, column)},
        lambda v: v["full"] - v["other"],
        "%",
    )


CLAIMS = (
    _claim("ablation-flow", "Trained alike, a flow after the similarity beats the similarity alone.", ONLY),
    _claim("annealing", "Annealing the target from the picture's own pose matters.", SUDDEN),
    _claim("smoothness", "The flow's total variation must be held down.", ROUGH),
)
