"""The package as a whole: what an installation carries, and what its texts promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gengauge.benchmarks.core.version import __version__
from gengauge.reference.nets.biggan import Generator

ROOT = Path(__file__).parent.parent


def test_an_installation_carries_every_package_and_data_file(tmp_path: Path) -> None:
    build = ["setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    for top in ("benchmarks", "reference", "kernels", "datasets", "reports"):
        for file in (ROOT / top).rglob("*"):
            relative = file.relative_to(ROOT)
            if not file.is_file() or "__pycache__" in relative.parts or relative.parts[1] == "speed":
                continue
            if file.suffix == ".so":  # built in place by a development installation
                continue
            assert (tmp_path / "gengauge" / relative).is_file(), f"{relative} would be left out"


def test_the_readme_names_commands_that_exist() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    help_text = subprocess.run(
        [sys.executable, "-c", "from gengauge.benchmarks.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for command in re.findall(r"^    gengauge ([a-z]+)", readme, re.MULTILINE):
        assert command in help_text


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Generator(ch=1).state_dict(), tmp_path / "DiffAugment-biggan-cifar10-0.1.pth")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 12
    for block in blocks:
        if "read_records" not in block:  # that one needs a run
            exec(block, {})


def test_versions_agree() -> None:
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text()
