"""PCK as measurements, with its spread over pairs of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from gengauge.benchmarks.core.experiments import Measurement
from gengauge.benchmarks.metrics.pck import Average, Hits, bootstrap, pck

RESAMPLES = 1000
CONFIDENCE = "95 % percentile bootstrap over pairs"


def measurements(
    row: str,
    found: Hits,
    columns: Mapping[str, tuple[Average, int]],
    seed: int,
    resamples: int = RESAMPLES,
    note: str = "",
) -> Iterator[Measurement]:
    """PCK of a row for each column, which tells what the mean is over and which of the alphas it is at."""
    for average in dict.fromkeys(average for average, _ in columns.values()):
        values = pck(found, average)
        spread = bootstrap(found, np.random.default_rng(seed), resamples, average=average)
        for column, (wanted, i) in columns.items():
            if wanted == average:
                deviation = f"standard deviation over {spread.resamples} re-samplings {spread.deviation[i]:.2f}"
                yield Measurement(
                    row,
                    column,
                    float(values[i]),
                    float(spread.low[i]),
                    float(spread.high[i]),
                    CONFIDENCE,
                    len(found),
                    note="; ".join(filter(None, (deviation, note))),
                )
