"""What a plan needs, as found on this machine."""

from __future__ import annotations

from gengauge.benchmarks.core.experiments import Need
from gengauge.datasets import weights


def weights_need(key: str) -> Need:
    """Published weights by key, with the places looked in."""
    entry = weights.WEIGHTS[key]
    places = [f"${entry.variable}", str(weights.cache_folder() / "weights")]
    if entry.carrier is not None:
        places.append(f"package {entry.carrier.package}")
    return Need(f"{entry.key}: {entry.what}", weights.find(key), tuple(places), weights.remedy(key))
