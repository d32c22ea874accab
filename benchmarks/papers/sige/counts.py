"""The experiments that count: parameters and MACs of every network and edit, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from gengauge.benchmarks.core.claims import Cell, Claim
from gengauge.benchmarks.core.experiments import SCALES, AtScale, Context, Experiment, Limits, Measurement, Plan, Result
from gengauge.benchmarks.core.tables import Column, Row, Table
from gengauge.benchmarks.papers.sige.counting import (
    RELEASED,
    Count,
    Variant,
    count_dense,
    count_sparse,
    reduction,
)
from gengauge.benchmarks.papers.sige.edits import EDITS, SHIPPED, SQUARE, Edit
from gengauge.benchmarks.papers.sige.networks import NETWORKS
from gengauge.benchmarks.papers.sige.stable_diffusion import COUNTED, STABLE_DIFFUSION
from gengauge.reference.sige import masks

GIGA = 1e9


@dataclass(frozen=True)
class Counted:
    """What fills a row: a network, and an edit or (None) the dense network."""

    network: str
    edit: Edit | None = None
    variant: Variant = RELEASED

    def count(self) -> Count:
        return count_dense(self.network) if self.edit is None else count_sparse(self.network, self.edit, self.variant)

    def values(self) -> dict[str, float]:
        """The columns that the row has."""
        count = self.count()
        found: dict[str, float] = {
            "macs": count.macs / GIGA,
            "conv_macs": count.convolutions / GIGA,
            "parameters": count.parameters / 1e6,
        }
        if self.edit is not None or COUNTED[self.network].original:
            found["macs_reduction"] = reduction(self.network, count)
        if self.edit is not None and count.products is not None:
            found |= {"edited": 100 * count.edited, "products": count.products / GIGA}
        return found


@dataclass(frozen=True)
class Settings:
    """The rows of one experiment by key."""

    rows: tuple[tuple[str, Counted], ...]


# What may explain the published MACs of the churches, which the released configurations do not give.
VARIANTS = {
    "ddpm-256": (
        Variant("SIGE, masks of the levels grown by 2", dilation=2),
        Variant("SIGE from 32 px", 32),
        Variant("SIGE from 32 px, masks of the levels grown by 2", 32, dilation=2),
    ),
    "pd-128": (
        Variant("SIGE from 32 px", 32),
        Variant("SIGE from 16 px", 16),
        Variant("SIGE from 8 px", 8),
    ),
    "pd-256": (
        Variant("SIGE from 32 px", 32),
        Variant("SIGE from 16 px", 16),
    ),
}
# What tiles could save that the published policies leave: no paper has measured this.
BEYOND = "all layers on tiles"
# The shares of Stable Diffusion's published edits. Editing dilates them, and the decoder's once more.
INPAINTED, EDITED = (
    tuple(Edit(f"square of {100 * share:.1f}%", share) for share in shares) for shares in ((0.116,), (0.029, 0.017))
)
EDITING = Variant("SIGE, masks of editing", recipe=masks.STABLE_DIFFUSION_IMG2IMG)
STABLE_DIFFUSION_VARIANTS = {
    "sd-unet": EDITING,
    "sd-decoder": Variant("SIGE, masks of editing", recipe=masks.STABLE_DIFFUSION_DECODER, grown=5),
    "sd-encoder": RELEASED,  # its masks are those of editing
}
COLUMNS = (
    Column("macs", "Multiply-accumulate operations of one forward pass, by torchprofile's rules", "G", "lower", True),
    Column("macs_reduction", "MACs of the paper's original network divided by those of the row", "x", "higher", True),
    Column("conv_macs", "MACs of convolutions alone", "G", "none", True),
    Column(
        "products",
        "Multiplications that this project's engine, as built here, does for convolutions; Winograd's way takes fewer",
        "G",
        "none",
        True,
    ),
    Column("edited", "Edited share of the pixels after the first dilation, the papers' edit size", "%", "none", True),
    Column("parameters", "Trainable values, millions", "M", "none", True),
)
EDIT_PROTOCOL = (
    (
        "edits",
        "churches with edits of 1.20, 3.78, 7.19, 11.5 and 15.5 %, label maps with 1.18, 2.02 and 13.5 %",
        "of these the shipped ones, 15.5 % and 1.18 %; squares (named by their size before dilation) for those between",
    ),
)
STABLE_DIFFUSION_PROTOCOL = (
    (
        "edits",
        "as shipped: a mask of 11.6 % (inpainting), pairs of 2.9 and 1.7 % (editing; presumably before any dilation)",
        "centred squares of these shares and others: the shipped files are not at hand, and other tiles are touched",
    ),
    (
        "masks",
        "of inpainting: the mask as it is; of editing: dilated by 5, for the decoder by 40 more",
        "the same, as the released code has it",
    ),
)
DENSE_ONLY = (
    (
        "sparse rows",
        "by edits whose files are shipped with the repository",
        "these files are not at hand: the dense rows alone; squares of the same shares stand in the own table",
    ),
)
GAP_PROTOCOL = (
    (
        "configuration of the churches",
        "not told with the figure",
        "the released one: it gives the notebooks' ratios, not the figure's MACs (nearer: variants in the own table)",
    ),
)
LAST_DIGIT = (
    (
        "last digit",
        "GAN Compression with SIGE: one unit more; DDPM in the chart of computation: one unit less",
        "as a trace of the released code gives; the other figures print DDPM's number as counted here",
    ),
)


def _own_rows() -> dict[str, list[tuple[Row, Counted]]]:
    rows: dict[str, list[tuple[Row, Counted]]] = {}
    for key, network in NETWORKS.items():
        rows[key] = [(Row("Original" if not network.original else network.name, _setting(key)), Counted(key))]
        for edit in EDITS:
            row = Row(network.sparse_method, f"{_setting(key)}, {edit.name}")
            rows[key].append((row, Counted(key, edit)))
        for variant in VARIANTS.get(key, ()):
            row = Row(variant.name, f"{_setting(key)}, {SHIPPED.name}")
            rows[key].append((row, Counted(key, SHIPPED, variant)))
        rows[key] += _beyond(key, (SHIPPED, SQUARE))
    for key, network in STABLE_DIFFUSION.items():
        rows[key] = [(Row("Original", network.name), Counted(key))]
        squares = [edit for edit in EDITS if edit.share is not None]
        for edit in (*squares, *(() if key == "sd-encoder" else INPAINTED)):
            rows[key].append((Row(network.sparse_method, f"{network.name}, {edit.name}"), Counted(key, edit)))
        variant = STABLE_DIFFUSION_VARIANTS[key]
        for edit in EDITED:
            row = Row(variant.name or network.sparse_method, f"{network.name}, {edit.name}")
            rows[key].append((row, Counted(key, edit, variant)))
        rows[key] += _beyond(key, (SQUARE,))
    return rows


def _beyond(key: str, edits: tuple[Edit, ...]) -> Iterator[tuple[Row, Counted]]:
    variant = Variant(f"{COUNTED[key].sparse_method}, {BEYOND}", beyond=True)
    for edit in edits:
        yield Row(variant.name, f"{_setting(key)}, {edit.name}"), Counted(key, edit, variant)


def _setting(key: str) -> str:
    """What a row calls the network: GAN Compression is a method on the paper's GauGAN."""
    return COUNTED[COUNTED[key].original or key].name


OWN_ROWS = _own_rows()
TABLE = Table(
    "counts",
    "MACs of every network and edit (this project's own; all numbers are exact)",
    COLUMNS,
    tuple(row for rows in OWN_ROWS.values() for row, _ in rows),
    (),
)

_DENSE = {
    "original@ddpm-256": Counted("ddpm-256"),
    "original@progressive-distillation-128": Counted("pd-128"),
    "original@progressive-distillation-256": Counted("pd-256"),
    "original@gaugan": Counted("gaugan"),
    "gan-compression@gaugan": Counted("gan-compression"),
}
# Rows of published tables that measure the very same: the same network with the same edit.
PUBLISHED_ROWS: dict[str, dict[str, Counted]] = {
    "abstract": {"sige@gaugan-about-1pct-edit": Counted("gaugan", SHIPPED)},
    "teaser": {
        **{row: _DENSE[row] for row in ("original@ddpm-256", "original@gaugan", "gan-compression@gaugan")},
        "original@stable-diffusion": Counted("sd-unet"),
    },
    "macs": {
        **{
            row: _DENSE[row]
            for row in ("original@ddpm-256", "original@progressive-distillation-256", "original@gaugan")
        },
        "sige@gaugan-1.2pct-edit": Counted("gaugan", SHIPPED),
        "gan-compression-sige@gaugan-1.2pct-edit": Counted("gan-compression", SHIPPED),
    },
    "edits": {
        **{row: counted for row, counted in _DENSE.items() if counted.network != "pd-256"},
        "sige@ddpm-256-15.5pct-edit": Counted("ddpm-256", SHIPPED),
        "sige@progressive-distillation-128-15.5pct-edit": Counted("pd-128", SHIPPED),
        "sige@gaugan-1.18pct-edit": Counted("gaugan", SHIPPED),
        "gan-compression-sige@gaugan-1.18pct-edit": Counted("gan-compression", SHIPPED),
    },
    "sd-figure": {"original@inpainting-11.6pct-mask": Counted("sd-unet")},
    "sd-inpainting": {"original@unet": Counted("sd-unet"), "original@decoder": Counted("sd-decoder")},
    "sd-img2img": {
        "original@unet": Counted("sd-unet"),
        "original@encoder": Counted("sd-encoder"),
        "original@decoder": Counted("sd-decoder"),
    },
    "notebook": {
        "sige@ddpm-256-shipped-example": Counted("ddpm-256", SHIPPED),
        "sige@progressive-distillation-128-shipped-example": Counted("pd-128", SHIPPED),
        "sige@progressive-distillation-256-shipped-example": Counted("pd-256", SHIPPED),
        "sige@gaugan-shipped-example": Counted("gaugan", SHIPPED),
        "gan-compression-sige@gaugan-shipped-example": Counted("gan-compression", SHIPPED),
    },
}


def count(columns: tuple[str, ...], context: Context) -> Iterator[Result]:
    """Counts the rows of an experiment."""
    s: Settings = context.settings
    for number, (row, counted) in enumerate(s.rows):
        context.progress(number, len(s.rows), f"counting {row}")
        values = counted.values()
        for column in columns:
            if column in values:
                yield Measurement(row, column, values[column])


def _has(counted: Counted, column: str) -> bool:
    if column == "macs_reduction":
        return counted.edit is not None or bool(COUNTED[counted.network].original)
    return counted.edit is not None or column not in ("edited", "products")


def _experiment(
    key: str,
    table: str,
    rows: tuple[tuple[str, Counted], ...],
    columns: tuple[Column, ...],
    protocol: tuple[tuple[str, str, str], ...],
) -> Experiment:
    networks = tuple(dict.fromkeys(counted.network for _, counted in rows))
    at = AtScale(
        Settings(rows),
        seeds=1,
        limits=Limits(seconds=600, gibibytes=8),
        plan=Plan(tuple(COUNTED[name].planned(False) for name in networks)),
    )
    return Experiment(
        key=key,
        table=table,
        rows=tuple(row for row, _ in rows),
        columns=columns,
        scales=dict.fromkeys(SCALES, at),
        run=partial(count, tuple(column.key for column in columns)),
        protocol=protocol,
        without=frozenset((row, c.key) for row, counted in rows for c in columns if not _has(counted, c.key)),
    )


def experiments(tables: tuple[Table, ...]) -> tuple[Experiment, ...]:
    """One experiment a published table, and one a network of this project's own table."""
    out = []
    for key, rows in PUBLISHED_ROWS.items():
        published = next(table for table in tables if table.key == key)
        columns = tuple(
            replace(c, exact=True)
            for c in published.columns
            if c.key in ("macs", "macs_reduction") and any(_has(counted, c.key) for counted in rows.values())
        )
        dense_only = all(counted.edit is None for counted in rows.values())
        protocol = (
            *(DENSE_ONLY if dense_only else EDIT_PROTOCOL),
            *(GAP_PROTOCOL if key == "edits" else ()),
            *(LAST_DIGIT if key in ("edits", "macs") else ()),
        )
        out.append(_experiment(f"counts-{key}", key, tuple(rows.items()), columns, protocol))
    for network, own in OWN_ROWS.items():
        rows_of = tuple((row.key, counted) for row, counted in own)
        of_edits = STABLE_DIFFUSION_PROTOCOL if network in STABLE_DIFFUSION else EDIT_PROTOCOL
        out.append(_experiment(f"counts-of-{network}", TABLE.key, rows_of, COLUMNS, of_edits))
    return tuple(out)


def _rounds_to(key: str, sentence: str, row: str, column: str, printed: float, unit: float) -> Claim:
    """That a number, rounded as it is printed (to `unit`), is the published one."""
    return Claim(
        key,
        sentence,
        "edits",
        {"ours": Cell(row, column)},
        lambda v: unit / 2 - abs(v["ours"] - printed),
        exact=True,
    )


CLAIMS = (
    _rounds_to(
        "gaugan-18x",
        "SIGE reduces GauGAN's MACs 18 times for the edit of 1.18 %.",
        "sige@gaugan-1.18pct-edit",
        "macs_reduction",
        18,
        1,
    ),
    _rounds_to(
        "compression-50x",
        "With GAN Compression it reduces them 50 times.",
        "gan-compression-sige@gaugan-1.18pct-edit",
        "macs_reduction",
        50,
        1,
    ),
    _rounds_to(
        "church-3.2x",
        "SIGE reduces DDPM's MACs 3.2 times for the church's edit of 15.5 %.",
        "sige@ddpm-256-15.5pct-edit",
        "macs_reduction",
        3.2,
        0.1,
    ),
    *(
        Claim(
            f"macs-fall-{key}",
            f"{COUNTED[key].name}: the smaller the edit, the fewer the MACs.",
            "counts",
            {
                str(i): Cell(row.key, "macs")
                for i, row in enumerate(
                    row
                    for share in (0.012, 0.05, 0.15, 0.30, 0.50, 1.0)
                    for row, counted in OWN_ROWS[key]
                    if counted.edit is not None and counted.edit.share == share and counted.variant == RELEASED
                )
            },
            lambda v: min(v[str(i + 1)] - v[str(i)] for i in range(len(v) - 1)),
            unit="G",
            exact=True,
        )
        for key in COUNTED
    ),
)
