"""What a result was made with: versions, devices, cores, and digests of the project's own sources."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

VERSIONED = ("torch", "torchvision", "numpy", "scipy", "pillow", "clean-fid", "diffusers")


@functools.cache
def versions() -> dict[str, str]:
    """Python's version and those of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


SOURCES = ("*.py", "*.cpp", "*.h", "*.json")


def source_digest(*places: Path) -> str:
    """A digest of the sources in files and folders, and of cards, which tell the networks that come with them."""
    hasher = hashlib.sha256()
    for place in places:
        for file in sorted(f for kind in SOURCES for f in place.rglob(kind)) if place.is_dir() else [place]:
            hasher.update(file.name.encode() + b"\0" + file.read_bytes())
    return hasher.hexdigest()[:12]


def device_name(device: str) -> str:
    """`cpu (Intel ...)` or `cuda (NVIDIA H100)`: what a time was measured on."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else "cuda"
    return f"{device} ({_processor()})"


def exact_float32() -> None:
    """Makes a GPU's float32 products float32: torch lets its convolutions round to TF32 unless it is told not to."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def available_cores() -> int:
    """Cores that this process may run on; a container's share of their time is not seen here."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def utc_now() -> str:
    """The time as `2026-01-31T12:00:00.000000Z`."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def all_cores() -> Iterator[None]:
    """What is not timed may use the whole machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
