"""Compiles the C++ beside it into plain shared libraries, one a level of the instruction set.

They know neither torch's nor Python's headers, so one build serves every version of both. Standard library only:
`setup.py` runs this file before the package and what it depends on are there.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
# No -ffast-math: NaN and infinity must come through.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
# Best level first. Level 4 is AVX-512, level 3 is AVX2 with FMA.
LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64-v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "x86-64-v3": ("-march=x86-64-v3",),
    "baseline": (),
}
REMEDY = "with a C++ compiler at hand (or $CXX naming one) run `python -m gengauge.kernels.native`"


def library_file(folder: Path, level: str) -> Path:
    """Where the library of a level lies."""
    return folder / f"libgengauge-{level}.so"


def sources(folder: Path = HERE) -> list[Path]:
    """The C++ files, in order of name."""
    return sorted(folder.glob("*.cpp"))


def digest(folder: Path = HERE) -> str:
    """sha256 of the sources, their headers and the flags: what a library was built from."""
    found = hashlib.sha256(repr((FLAGS, LEVELS)).encode())
    for file in sorted([*sources(folder), *folder.glob("*.h")]):
        found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()


def compiler() -> list[str] | None:
    """The command of the C++ compiler: $CXX, else the first of c++, g++ and clang++ that is there."""
    if named := os.environ.get("CXX"):
        command = shlex.split(named)
        return command if shutil.which(command[0]) else None
    return next(([found] for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


def build(folder: Path = HERE, say: Callable[[str], None] = print) -> list[Path]:
    """Compiles every level that this machine's family of processors has into `folder`; returns the libraries made.

    Never raises for want of a compiler or by an error of one: it says so, and the plain torch way serves.
    """
    if os.environ.get("GENGAUGE_NO_NATIVE", "0") not in ("", "0"):
        say("gengauge: native kernels are not built (GENGAUGE_NO_NATIVE is set); plain torch serves.")
        return []
    if not (command := compiler()):
        named = os.environ.get("CXX")
        lack = f"there is no compiler {named!r} ($CXX)" if named else "no C++ compiler was found"
        say(f"gengauge: native kernels are not built, {lack}; plain torch serves. Later, {REMEDY}.")
        return []
    folder.mkdir(parents=True, exist_ok=True)
    levels = [*LEVELS] if platform.machine().lower() in ("x86_64", "amd64") else ["baseline"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(lambda level: _compile(command, level, folder, say), levels))
    return [file for file in made if file]


def _compile(command: list[str], level: str, folder: Path, say: Callable[[str], None]) -> Path | None:
    """One level: with OpenMP where the compiler has it, else without. The file appears whole or not at all."""
    target = library_file(folder, level)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        flags = [*FLAGS, *LEVELS[level], f'-DGENGAUGE_SOURCES="{digest()}"', "-o", str(made)]
        for threads in (["-fopenmp"], []):
            try:
                ran = subprocess.run(
                    [*command, *threads, *flags, *map(str, sources())], capture_output=True, text=True, check=False
                )
            except OSError as error:
                say(f"gengauge: native kernels ({level}) are not built: {error}; {REMEDY}.")
                return None
            if ran.returncode == 0:
                made.replace(target)
                say(f"gengauge: built {target.name}" + ("" if threads else ", without OpenMP: one thread"))
                return target
    last = ran.stderr.strip().splitlines()[-12:]
    say("\n".join([f"gengauge: native kernels ({level}) are not built, the compiler failed:", *last]))
    return None
