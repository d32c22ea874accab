"""What a plan needs, as found on this machine."""

from __future__ import annotations

from pathlib import Path

from gengauge.benchmarks.core.experiments import Need
from gengauge.datasets import weights
from gengauge.datasets.catalogue import data_folder, data_set


def weights_need(key: str) -> Need:
    """Published weights by key, with the places looked in."""
    entry = weights.WEIGHTS[key]
    places = [f"${entry.variable}", str(weights.cache_folder() / "weights")]
    if entry.carrier is not None:
        places.append(f"package {entry.carrier.package}")
    return Need(f"{entry.key}: {entry.what}", weights.find(key), tuple(places), weights.remedy(key))


def data_need(key: str, data: Path | None) -> Need:
    """A data set of the catalogue, with the places looked in."""
    root, entry = data or data_folder(), data_set(key)
    looked = tuple(str(root / mark) for mark in entry.marks) if root else ("no data folder: give --data DIR",)
    return Need(f"{entry.key}: {entry.what}", entry.find(root), looked, entry.remedy)
