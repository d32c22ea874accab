"""What this machine has: versions, devices, space, weights and data, and how to get what is missing."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from gengauge.benchmarks.core.version import __version__
from gengauge.benchmarks.machine import available_cores, device_name, versions
from gengauge.datasets import catalogue, weights
from gengauge.kernels import available


@dataclass(frozen=True)
class Finding:
    """One line of the examination; a missing thing says in `detail` how to get it."""

    group: str
    subject: str
    state: Literal["ok", "missing", "info"]
    detail: str


def examine(data: Path | None = None) -> list[Finding]:
    """All findings. `data` is the folder of published data sets, by default $GENGAUGE_DATA."""
    return [*_machine(), *_kernels(), *_weights(), *_data(data or catalogue.data_folder())]


def _machine() -> list[Finding]:
    cache = weights.cache_folder()
    found = [
        Finding("versions", "gengauge", "info", __version__),
        *(Finding("versions", name, "info", version) for name, version in versions().items()),
        Finding("machine", "system", "info", f"{platform.system()} {platform.release()}, {device_name('cpu')}"),
        Finding(
            "machine", "cores", "info", f"{available_cores()} usable, torch takes {torch.get_num_threads()} threads"
        ),
        Finding(
            "machine",
            "memory",
            "info",
            f"{psutil.virtual_memory().available / 2**30:.1f} GiB free of "
            f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        ),
        *(
            Finding(
                "machine",
                f"disk ({what})",
                "info",
                f"{shutil.disk_usage(_existing(path)).free / 2**30:.1f} GiB free at {path}",
            )
            for what, path in (("output", Path.cwd()), ("cache", cache))
        ),
        Finding("machine", "cache", "info", f"{_size(cache) / 2**20:.0f} MiB; it may be deleted at any time"),
    ]
    if torch.cuda.is_available():
        found += [
            Finding("machine", f"cuda:{i}", "ok", torch.cuda.get_device_name(i))
            for i in range(torch.cuda.device_count())
        ]
    else:
        found.append(Finding("machine", "cuda", "info", "no GPU that torch can use; quick needs none"))
    if torch.backends.mps.is_available():
        found.append(Finding("machine", "mps", "ok", "Apple GPU"))
    return found


def _kernels() -> list[Finding]:
    """Each way to compute the hot loops. Native code is wanted everywhere, Triton on a GPU only."""
    out = []
    for way, told in available().items():
        lack: Literal["missing", "info"] = "missing" if way == "native" or torch.cuda.is_available() else "info"
        out.append(Finding("kernels", way, "ok" if told.startswith("yes") else lack, told))
    return out


def _weights() -> list[Finding]:
    out = []
    for key, entry in weights.WEIGHTS.items():
        where = weights.find(key)
        state: Literal["ok", "missing"] = "ok" if where else "missing"
        out.append(Finding("weights", key, state, str(where) if where else f"{entry.what}: {weights.remedy(key)}"))
    return out


def _data(root: Path | None) -> list[Finding]:
    out = [
        Finding("data", "embedded world", "ok", "made here, for every paper at quick scale"),
        Finding("data", "data folder", "info", str(root) if root else "not set; give --data DIR or set GENGAUGE_DATA"),
    ]
    for data_set in catalogue.DATA_SETS:
        where = data_set.find(root)
        out.append(
            Finding(
                "data",
                data_set.key,
                "ok" if where else "missing",
                str(where) if where else f"{data_set.what}: {data_set.remedy}",
            )
        )
    return out


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.exists() else 0
