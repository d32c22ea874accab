"""The experiments that fill the rows of DiffAugment's tables: by training, at paper scale and at small scale."""

from __future__ import annotations

from functools import partial

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import AtScale, Experiment, Limits, Scale
from gengauge.benchmarks.core.tables import Column, Table
from gengauge.benchmarks.papers.diffaugment.measure import fill, measure_file, train_row
from gengauge.benchmarks.papers.diffaugment.plans import plan
from gengauge.benchmarks.papers.diffaugment.rows import FRACTIONS, Run, paper_runs, small_runs
from gengauge.datasets.catalogue import data_set

DAY = 24 * 3600.0
MORE = (
    Column("fid_last", "FID of the last snapshot, same protocol", "1", "lower"),
    Column("best_iteration", "Iteration of the snapshot with the lowest FID", "1", "none"),
)
ACCURACY = (
    Column("d_accuracy_train", "Share of augmented training pictures that D calls real, eval mode", "1", "none"),
    Column("d_accuracy_test", "Share of augmented test pictures that D calls real, eval mode", "1", "none"),
)

SNAPSHOT = ("snapshot", "lowest FID, the reported metric itself", "the same, and the last snapshot beside it")
CIFAR_BIGGAN = (
    SNAPSHOT,
    ("GPUs", "2: batch norm over 25 pictures each", "as many as processes; alone, batch norm over 50; samples in 50s"),
    ("power vectors", "the averaged generator's move on while it samples", "those of a copy do"),
    ("random numbers", "the published code's stream", "streams of this project, seeded for each iteration"),
)
TENSORFLOW = (
    SNAPSHOT,
    (
        "subset",
        "the first N pictures of the authors' tfds, tfrecords or LMDB order",
        "the first N of your copy's order",
    ),
    ("order of pictures", "a shuffle buffer", "permutations, one an epoch"),
)
IMAGENET = (
    SNAPSHOT,
    ("subset", "the first N pictures of tfds's shuffled order", "the first N of a shuffled order of this project"),
    ("start of D's label embedding", "Glorot normal", "orthogonal, as all other weights"),
    ("hardware", "a TPU pod of 128 cores", "as many processes as hold 2,048 pictures; gradients are not accumulated"),
    ("batch norm", "over all 2,048 pictures", "over each process's share"),
)
SMALL = (
    ("width", "ch 64: 4.3 and 4.2 million parameters", "ch 32"),
    ("schedule", "125,000 to 250,000 iterations", "2,000 iterations, two snapshots after the start"),
    ("samples", "10,000, five evaluations", "5,000, one evaluation"),
)


def _protocol(table: str, run: Run) -> tuple[tuple[str, str, str], ...]:
    if run.data == "imagenet":
        return IMAGENET
    return CIFAR_BIGGAN if run.protocol.statistics == "batch" else TENSORFLOW


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """One experiment a row, at the scales at which it can run."""
    small = small_runs()
    out = []
    for (table, row), run in paper_runs().items():
        published = next(t for t in tables if t.key == table)
        columns = (*published.columns, *MORE, *(ACCURACY if run.protocol.d_accuracy else ()))
        keys = tuple(column.key for column in columns)
        scales: dict[Scale, AtScale] = {
            # Days on one GPU; a run that is stopped goes on from its last state.
            "paper": AtScale(run, 1, Limits(seconds=60 * DAY, gibibytes=256), threads=8, plan=plan(run))
        }
        if (table, row) in small:
            short = small[table, row]
            scales["small"] = AtScale(short, 2, Limits(seconds=2 * DAY, gibibytes=32), 2, plan(short), SMALL)
        out.append(
            Experiment(
                key=f"{table}-{row}",
                table=table,
                rows=(row,),
                columns=columns,
                scales=scales,
                run=partial(fill, row, keys),
                protocol=_protocol(table, run),
                reads=lambda settings, root: data_set(settings.data).find(root),
                train=train_row,
                measure=partial(measure_file, keys),
            )
        )
    return tuple(out)


def _cell(setting: str, augmented: bool) -> Cell:
    return Cell(f"biggan{'-diffaugment' if augmented else ''}@{setting}", "fid")


CLAIMS = (
    *(
        Claim(
            f"fid-{setting}",
            f"On CIFAR-10 with {setting.replace('pct-', ' % of the ')}, BigGAN has a lower FID with DiffAugment.",
            "cifar10",
            {"none": _cell(setting, False), "ours": _cell(setting, True)},
            lambda v: v["none"] - v["ours"],
        )
        for setting in FRACTIONS
    ),
    Claim(
        "gains",
        "DiffAugment gains more FID points with 10 % of CIFAR-10 than with all of it.",
        "cifar10",
        {
            "few_none": _cell("10pct-data", False),
            "few_ours": _cell("10pct-data", True),
            "all_none": _cell("100pct-data", False),
            "all_ours": _cell("100pct-data", True),
        },
        lambda v: (v["few_none"] - v["few_ours"]) - (v["all_none"] - v["all_ours"]),
    ),
)
