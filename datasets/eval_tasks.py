"""The published list of what GAN Warping is evaluated on, `weights/eval_task`: one line an edited model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_BYTES = 2**20
FIELDS = "NAME DATA BASE WEIGHTS"


@dataclass(frozen=True)
class EvalTask:
    """A row's name, its edit's folder under the folder of all edits, the base generator's key, the edited weights."""

    name: str
    data: str
    base: str
    weights: str


def read_eval_tasks(path: Path) -> list[EvalTask]:
    """The tasks of a list, in order; empty lines are left out.

    Raises FileNotFoundError, ValueError naming the line that is no task.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such list of tasks")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES // 2**20} MiB and is no list of tasks")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error})") from None
    tasks = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 4:
            raise ValueError(f"{path}, line {number}: {len(fields)} fields, where there are four: {FIELDS}")
        task = EvalTask(*fields)
        place = PurePosixPath(task.data)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"{path}, line {number}: {task.data!r} leads out of the folder of edits")
        tasks.append(task)
    if not tasks:
        raise ValueError(f"{path} lists no tasks; a line is {FIELDS}")
    return tasks
