"""Finds and loads the native library; where there is none, says why."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

from gengauge.kernels.native import build


def library() -> ctypes.CDLL | None:
    """The native functions at the best level that this processor has; None where there are none (see `reason`).

    Loaded once. Torch is loaded before it, so that both share one OpenMP runtime where torch's has its usual name.
    """
    return _load(build.HERE)[0]


def reason() -> str:
    """`yes` and what was loaded, or why there is no native library and what to do."""
    return _load(build.HERE)[1]


@cache
def _load(folder: Path) -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("GENGAUGE_NO_NATIVE", "0") not in ("", "0"):
        return None, "no: switched off by GENGAUGE_NO_NATIVE"
    refused = ""
    for level in _levels(torch.backends.cpu.get_cpu_capability()):
        file = build.library_file(folder, level)
        if not file.exists():
            continue
        try:
            found = ctypes.CDLL(str(file))
            found.gengauge_sources.restype = ctypes.c_char_p
            made_from = (found.gengauge_sources() or b"").decode(errors="replace")
        except (OSError, AttributeError) as error:
            refused = refused or f"no: {file.name} is damaged ({error}); run `python -m gengauge.kernels.native`"
            continue
        if build.sources(folder) and made_from != build.digest(folder):
            refused = refused or f"no: {file.name} is stale, run `pip install -e .` again"
            continue
        threads = "OpenMP" if found.gengauge_openmp() else "one thread, without OpenMP"
        return found, f"yes, {level}, {threads}"
    return None, refused or f"no: it was not built; {build.REMEDY}"


def _levels(capability: str) -> list[str]:
    """The levels that a processor can run, best first, from torch's word for it."""
    best = {"AVX512": 0, "AVX2": 1}.get(capability.split("_")[0], 2)
    return [*build.LEVELS][best:]
