"""Building and finding the native library: a machine without a compiler, a stale or damaged file, a forced absence."""

from __future__ import annotations

import ctypes
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gengauge.kernels import native
from gengauge.kernels.native import build

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """What was loaded from other folders is forgotten."""
    yield
    native._load.cache_clear()


def copy_of_sources(folder: Path) -> Path:
    """The C++ and what builds it, elsewhere."""
    folder.mkdir()
    for file in [*build.sources(), *build.HERE.glob("*.h"), build.HERE / "build.py"]:
        shutil.copy(file, folder)
    return folder


def test_without_a_compiler_the_step_succeeds_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    said: list[str] = []
    assert build.build(tmp_path, said.append) == []
    assert "/nonexistent" in said[0]
    assert "gengauge.kernels.native" in said[0]
    found, why = native._load(tmp_path)
    assert found is None
    assert "not built" in why


def test_no_native_is_built_or_loaded_where_it_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENGAUGE_NO_NATIVE", "1")
    said: list[str] = []
    assert build.build(tmp_path, said.append) == []
    assert "GENGAUGE_NO_NATIVE" in said[0]
    native._load.cache_clear()
    assert native.library() is None
    assert "GENGAUGE_NO_NATIVE" in native.reason()


def test_a_forced_absence_falls_back_to_torch() -> None:
    code = """
import torch
from gengauge.kernels.tiles import gather
x, indices = torch.randn(1, 2, 4, 4), torch.tensor([[0, 0]])
print(torch.equal(gather(x, indices, 4), x))
try:
    gather(x, indices, 4, way="native")
except RuntimeError as error:
    print(error)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "GENGAUGE_NO_NATIVE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.startswith("True\n")
    assert "GENGAUGE_NO_NATIVE" in ran.stdout


@needs_compiler
def test_a_failing_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\necho 'internal error' >&2\nexit 1\n")
    fails.chmod(0o755)
    monkeypatch.setenv("CXX", str(fails))
    said: list[str] = []
    assert build.build(tmp_path / "out", said.append) == []
    assert all("internal error" in line for line in said)
    assert not list((tmp_path / "out").iterdir())


@needs_compiler
def test_without_openmp_one_thread_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = build.compiler()
    assert found is not None
    lacks = tmp_path / "lacks"
    lacks.write_text(f'#!/bin/sh\ncase " $* " in *" -fopenmp "*) exit 1;; esac\nexec {" ".join(found)} "$@"\n')
    lacks.chmod(0o755)
    monkeypatch.setenv("CXX", str(lacks))
    monkeypatch.setattr(build, "LEVELS", {"baseline": ()})
    said: list[str] = []
    (file,) = build.build(tmp_path / "out", said.append)
    assert "without OpenMP" in said[0]
    assert ctypes.CDLL(str(file)).gengauge_openmp() == 0


@needs_compiler
def test_a_stale_library_is_noticed_and_a_new_one_serves(tmp_path: Path) -> None:
    folder = copy_of_sources(tmp_path / "native")
    (folder / "about.cpp").write_text((folder / "about.cpp").read_text() + "\n// another word\n")
    made = runpy.run_path(str(folder / "build.py"))["build"](folder, lambda _: None)
    assert made
    found, why = native._load(folder)
    assert found is not None, why
    assert why.startswith("yes")
    (folder / "about.cpp").write_text((folder / "about.cpp").read_text() + "\n// and another\n")
    native._load.cache_clear()
    found, why = native._load(folder)
    assert found is None
    assert "stale, run `pip install -e .` again" in why


def test_a_damaged_library_is_told(tmp_path: Path) -> None:
    for level in build.LEVELS:
        build.library_file(tmp_path, level).write_bytes(b"no library")
    found, why = native._load(tmp_path)
    assert found is None
    assert "damaged" in why


def test_the_best_level_is_taken_that_the_processor_has() -> None:
    assert native._levels("AVX512") == ["x86-64-v4", "x86-64-v3", "baseline"]
    assert native._levels("AVX2") == ["x86-64-v3", "baseline"]
    assert native._levels("DEFAULT") == native._levels("SVE256") == ["baseline"]
    assert torch.backends.cpu.get_cpu_capability()


@needs_compiler
def test_wheel_and_sdist_hold_the_sources_and_the_wheel_the_libraries(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    parts = ("benchmarks", "reference", "kernels", "datasets", "reports")
    for part in parts:
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__", "*.so", "weights"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    for kind in ("wheel", "sdist"):
        code = f"import setuptools.build_meta as b; b.build_{kind}({str(tmp_path)!r})"
        ran = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    sources = [file.name for file in [*build.sources(), *build.HERE.glob("*.h")]]
    assert {f"gengauge/kernels/native/{name}" for name in sources} <= {*packed}
    assert [name for name in packed if name.endswith("-baseline.so")]
    with tarfile.open(sdist) as stream:
        names = {Path(name).name for name in stream.getnames() if "/kernels/native/" in name}
    assert {*sources, "build.py"} <= names
