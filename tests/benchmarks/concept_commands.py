"""`gengauge concept` as tests call it: what it prints where it succeeds, and its error where it refuses."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from gengauge.benchmarks.concept_cli import app


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


def done(*arguments: Any) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return " ".join(result.stdout.split())


def refused(*arguments: Any) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, ValueError | OSError), (result.output, result.exception)
    return str(result.exception)
