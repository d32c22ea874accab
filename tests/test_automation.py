"""The workflow of a forge and the hooks before a commit: what they call exists."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from typer.testing import CliRunner

from gengauge.benchmarks.cli import app

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()


def options(*command: str) -> str:
    return CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "250", "TERM": "dumb"}).output


def test_the_workflow_runs_quick_compares_and_posts() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "quick.yml").read_text())
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert set(workflow[True]) == {"pull_request", "push", "workflow_dispatch"}  # YAML reads `on` as true
    steps = workflow["jobs"]["quick"]["steps"]
    scripts = "\n".join(step.get("run", "") for step in steps)
    order = [scripts.index(part) for part in ("make quick", "gengauge compare", "gh pr comment", 'exit "$STATUS"')]
    assert order == sorted(order)
    for target in re.findall(r"make (\w+)", scripts):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
    for command in re.findall(r"gengauge ((?:[a-z]+ ?)+)", scripts):
        words = command.split()
        assert "Usage" in options(*words), command
    called = re.search(r"gengauge compare((?:.|\\\n)*?)\|\|", scripts)
    assert called is not None
    for option in re.findall(r"--[a-z-]+", called[1]):
        assert option in options("compare"), option


def test_a_text_of_others_is_never_put_into_a_script() -> None:
    """Only numbers and this repository's own outputs, by the environment."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "quick.yml").read_text())
    for step in workflow["jobs"]["quick"]["steps"]:
        assert "${{" not in step.get("run", "")
    assert "pull_request_target" not in workflow[True]


def test_the_hooks_call_what_the_makefile_has() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = {hook["id"]: hook["entry"] for hook in repository["hooks"]}
    assert set(entries) == {"ruff", "ruff-format", "types"}
    for tool in ("ruff", "ruff-format"):
        assert entries[tool].startswith(".venv/bin/ruff ")
    assert re.search(r"^types:", MAKEFILE, re.MULTILINE)
    assert entries["types"] == "make types"
    assert "$(MAKE) types" in MAKEFILE  # `make check` does the same
