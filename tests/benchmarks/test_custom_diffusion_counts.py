"""The exact numbers of Custom Diffusion against those that were measured on the published code."""

from __future__ import annotations

from pathlib import Path

import pytest

from gengauge.benchmarks.core.claims import judge
from gengauge.benchmarks.core.experiments import Context, Measurement
from gengauge.benchmarks.core.tables import Row
from gengauge.benchmarks.papers.custom_diffusion import counts


def test_counts_are_those_of_the_published_code(tmp_path: Path) -> None:
    context = Context(counts.Settings(), 0, "quick", "cpu", None, tmp_path, lambda done, total, doing: None)
    found = {(m.row, m.column): m.value for m in counts.count(context) if isinstance(m, Measurement)}
    assert found.keys() == {(row.key, column.key) for row in counts.TABLE.rows for column in counts.COLUMNS}

    def of(name: str, unet: str = "Stable Diffusion 1") -> list[float]:
        return [found[Row(name, unet).key, column.key] for column in counts.COLUMNS]

    assert of("Keys and values of cross-attention") == pytest.approx([32, 19_169_280, 2.230, 76.68], abs=0.003)
    assert of("All of cross-attention")[1:3] == pytest.approx([43_962_560, 5.115], abs=5e-4)
    assert of("The whole U-Net")[1:3] == [859_520_964, 100]
    large = "Stable Diffusion XL"
    assert of("Keys and values of cross-attention", large) == pytest.approx([140, 340_787_200, 13.27, 1363], abs=0.2)
    assert of("The whole U-Net", large)[1] == 2_567_463_684
    for rank in counts.RANKS:
        assert of(f"Keys and values at rank {rank}")[1] == 49_536 * rank
    values = {(0, *key): value for key, value in found.items()}
    assert {claim.key: judge(claim, values).verdict for claim in counts.CLAIMS} == {
        "few-values": "holds",
        "small-file": "holds",
    }
