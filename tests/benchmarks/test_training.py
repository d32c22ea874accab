"""The training loop: states on disk, resuming with the same losses after a kill, bad folders, several processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_folder import Tiny, context, write_cifar
from histories import BY_TWO, notes, retell

from gengauge.benchmarks.core.experiments import Measurement, Picture
from gengauge.benchmarks.papers.diffaugment import measure
from gengauge.benchmarks.papers.diffaugment.rows import paper_runs
from gengauge.benchmarks.training import checkpoint
from gengauge.benchmarks.training.batches import Batches
from gengauge.benchmarks.training.checkpoint import load_newest
from gengauge.benchmarks.training.loop import Diverged, Schedule, history, read_log, step_seed, train
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.sets import DataNotFound, InMemory
from gengauge.datasets.subsets import epoch_orders
from gengauge.reference.diffaugment import biggan

HERE = Path(__file__).parent


pytestmark = pytest.mark.usefixtures("one_thread")


def logs(work: Path) -> list[dict[str, float]]:
    (folder,) = (work / "training").iterdir()
    return read_log(folder)


@pytest.mark.parametrize("family", ["biggan", "stylegan2"])
def test_a_training_on_cifar_that_is_killed_has_the_losses_of_one_that_is_not(tmp_path: Path, family: str) -> None:
    data = write_cifar(tmp_path / "data", per_file=8)
    whole = context(Tiny.run(family), data, tmp_path / "whole")
    measure.train_row(whole)
    expected = logs(tmp_path / "whole")
    assert [line["iteration"] for line in expected] == list(range(1, Tiny.ITERATIONS + 1))

    command = [sys.executable, str(HERE / "cifar_folder.py"), family, str(data), str(tmp_path / "killed")]
    environment = {**os.environ, "GENGAUGE_SLOW_STEPS": "0.3"}
    process = subprocess.Popen(command, env=environment, cwd=HERE)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            trainings = list((tmp_path / "killed" / "training").glob("*"))
            # Past the state of iteration 2, so that logged iterations are lost and must come out again.
            if trainings and len(read_log(trainings[0])) >= 3:
                break
            time.sleep(0.02)
        assert process.poll() is None, "the training ended before it was killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    killed = context(Tiny.run(family), data, tmp_path / "killed")
    measure.train_row(killed)
    assert logs(tmp_path / "killed") == expected
    # Not only what was logged: every network, average, optimiser and the measured curve.
    states = [load_newest(next((tmp_path / name / "training").iterdir())) for name in ("whole", "killed")]
    assert states[0] is not None
    assert states[1] is not None
    assert states[0].about["curve"] == states[1].about["curve"]
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert {name.split(".")[0] for name in states[0].tensors} >= {"G", "D", "G_ema", "adam", "best"}
    for name, value in states[0].tensors.items():
        assert torch.equal(value, states[1].tensors[name]), name


def test_a_row_is_trained_sampled_and_scored(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "data", per_file=8)
    columns = ("fid", "is", "fid_last", "best_iteration", "d_accuracy_train", "d_accuracy_test")
    results = list(measure.fill("row", columns, context(Tiny.run("biggan"), data, tmp_path)))
    final = {r.column: r for r in results if isinstance(r, Measurement) and r.step is None}
    assert set(final) == set(columns)
    assert final["is"].missing  # no package carries the classifier
    curve = {
        r.step: r.value for r in results if isinstance(r, Measurement) and r.step is not None and r.column == "fid"
    }
    assert sorted(curve) == [0, 2, 4]
    assert final["fid"].value == min(curve.values())
    assert final["fid_last"].value == curve[4]
    assert all(0 <= final[f"d_accuracy_{split}"].value <= 1 for split in ("train", "test"))
    assert [r for r in results if isinstance(r, Picture)]
    # Done already: the same numbers come without training.
    again = list(measure.fill("row", columns, context(Tiny.run("biggan"), data, tmp_path)))
    assert [r for r in again if isinstance(r, Measurement)] == [r for r in results if isinstance(r, Measurement)]
    assert notes(again) == {}
    retell(tmp_path)
    told = notes(measure.fill("row", columns, context(Tiny.run("biggan"), data, tmp_path)))
    assert {column for _, column in told} == set(columns)
    for (_, column), note in told.items():
        assert note == "; ".join(filter(None, (final[column].note, BY_TWO)))


@pytest.mark.parametrize(
    ("processes", "code", "told"),
    [
        (1, ["mine"], ""),
        (4, ["mine"], "trained by 4 processes"),
        (1, ["theirs"], "trained by code theirs"),
        (1, ["theirs", "mine"], "trained by code theirs, mine"),
        (2, ["theirs"], "trained by 2 processes; trained by code theirs"),
    ],
)
def test_what_others_trained_is_told(processes: int, code: list[str], told: str) -> None:
    assert history({"processes": processes, "code": code, "threads": 1}, "mine") == told


def test_repeated_evaluations_have_a_spread(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "data", per_file=8)
    run = Tiny.run("biggan", repeats=2)
    results = list(measure.fill("row", ("fid",), context(run, data, tmp_path)))
    (fid,) = (r for r in results if isinstance(r, Measurement) and r.column == "fid" and r.step is None)
    assert fid.low is not None
    assert fid.high is not None
    assert fid.low < fid.value < fid.high
    assert fid.interval == "standard deviation over 2 evaluations"


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"cifar-10.*tar\.gz"):
        measure.train_row(context(Tiny.run("biggan"), tmp_path / "nothing", tmp_path))


def test_two_processes_train_with_averaged_gradients(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "data", per_file=8)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(HERE / "cifar_folder.py"), "stylegan2", str(data), str(tmp_path)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line["iteration"] for line in logs(tmp_path)] == list(range(1, Tiny.ITERATIONS + 1))
    # The two may have written at once, on one line.
    digests = dict(re.findall(r"weights of process (\d): ([0-9a-f]{64})", done.stdout))
    assert sorted(digests) == ["0", "1"]
    assert len(set(digests.values())) == 1, "the processes' weights went apart"
    # What both have sampled before the first step is what one samples.
    state = load_newest(next((tmp_path / "training").iterdir()))
    assert state is not None
    run, here = Tiny.run("stylegan2"), context(Tiny.run("stylegan2"), data, tmp_path)
    torch.manual_seed(here.seed)
    g = measure.build(run, "cpu", Processes()).networks["G_ema"]
    judges = measure.judges_of(run, here, lambda done, total: None)
    expected = measure.score(g, run, *judges, step_seed(here.seed, measure.SAMPLING, 0), "cpu")["fid"]
    assert state.about["curve"][0]["fid"] == pytest.approx(expected, rel=1e-5)


def simple(folder: Path, iterations: int = 4, config: str = "a", log_every: int = 1, **more: object) -> object:
    """A small BigGAN on noise through the loop."""
    pixels = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pictures = InMemory(pixels, np.zeros(20, np.int64), 1, "noise")
    recipe = biggan.Recipe(
        batch=2, d_steps=1, generator={"ch": 1, "num_classes": 1}, discriminator={"ch": 1, "num_classes": 1}
    )
    return train(
        lambda: biggan.Training(recipe),
        Batches(pictures, epoch_orders, 0, 2, mirror=True),
        folder,
        Schedule(iterations, snapshot_every=2, save_every=1, log_every=log_every),
        {"name": config},
        seed=0,
        device="cpu",
        **more,  # type: ignore[arg-type]
    )


def test_a_damaged_state_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    simple(tmp_path / "a")
    simple(tmp_path / "b", iterations=3)
    newest = tmp_path / "b" / "step-00000003" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="step-00000003 is damaged"):
        simple(tmp_path / "b")
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")


def test_a_training_whose_states_are_all_damaged_begins_anew_and_keeps_its_own(tmp_path: Path) -> None:
    simple(tmp_path)
    for file in tmp_path.glob("step-*/state.safetensors"):
        file.write_bytes(b"")
    with pytest.warns(UserWarning, match="or anew where there is none"):
        simple(tmp_path, iterations=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001", "step-00000002"]
    assert len(list(tmp_path.glob("damaged-step-*"))) == 2


def test_as_many_processes_must_go_on(tmp_path: Path) -> None:
    simple(tmp_path, iterations=2)
    with pytest.raises(ValueError, match=r"begun by 1 processes.*not 2"):
        simple(tmp_path, processes=Processes(0, 2))
    assert simple(tmp_path, iterations=2, processes=Processes(0, 2)) is not None  # nothing is left to do


def test_a_number_of_processes_that_cannot_share_a_batch_is_refused_at_once() -> None:
    run = paper_runs()["cifar10", "biggan@10pct-data"]
    with pytest.raises(ValueError, match="50 cannot be shared by 4 processes; launch 1, 2, 5, 10, 25, 50"):
        measure.check_processes(run, 4)
    with pytest.raises(ValueError, match=r"16 cannot be shared by 8 processes; launch 1, 2, 4$"):
        measure.check_processes(paper_runs()["low-shot", "stylegan2-no-pre-training@100-shot-panda"], 8)


def test_two_states_are_kept_and_leftovers_of_a_kill_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-00000009.1.tmp"
    leftover.mkdir(parents=True)
    simple(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]
    assert not leftover.exists()


def test_another_configuration_in_the_folder_is_refused(tmp_path: Path) -> None:
    simple(tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        simple(tmp_path, config="b")
    with pytest.raises(ValueError, match="more than 2"):
        simple(tmp_path, iterations=2)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = biggan.Training.step

    def broken(self: biggan.Training, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        return {**step(self, *args, **kwargs), "G_loss": torch.tensor(float("nan"))}  # type: ignore[arg-type]

    monkeypatch.setattr(biggan.Training, "step", broken)
    with pytest.raises(Diverged, match="G_loss is nan at iteration 1"):
        simple(tmp_path)
    # Also where no line of the log is due: the state before it stays the newest.
    with pytest.raises(Diverged):
        simple(tmp_path, log_every=100)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000000"]


def test_no_space_is_told_and_earlier_states_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple(tmp_path, iterations=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"cannot be written.*No space left.*free space"):
        simple(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000001", "step-00000002"]
    assert not list(tmp_path.glob(".step*"))


def test_the_best_snapshot_is_kept_beside_the_last(tmp_path: Path) -> None:
    scores = {0: 5.0, 2: 1.0, 4: 3.0}
    seen: dict[int, torch.Tensor] = {}

    def snapshot(training: biggan.Training) -> object:
        def measured(iteration: int) -> dict[str, float]:
            seen[iteration] = training.networks["G_ema"].state_dict()["linear.weight"].clone()
            return {"fid": scores[iteration]}

        return measured

    trained = simple(tmp_path, snapshot=snapshot)
    assert [point["fid"] for point in trained.curve] == [5.0, 1.0, 3.0]  # type: ignore[attr-defined]
    assert torch.equal(trained.best["linear.weight"], seen[2])  # type: ignore[attr-defined]
    assert torch.equal(trained.last["linear.weight"], seen[4])  # type: ignore[attr-defined]
    about = json.loads((tmp_path / "step-00000004" / "about.json").read_text())
    assert [point["fid"] for point in about["curve"]] == [5.0, 1.0, 3.0]


def test_batches_do_not_depend_on_where_they_start(tmp_path: Path) -> None:
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 3, 4, 4).contiguous()
    pictures = InMemory(pixels, np.arange(7), 7, "seven")

    def labels(start: int, **more: int) -> list[list[int]]:
        source = Batches(pictures, epoch_orders, 3, 4, mirror=True, **more).start(start, "cpu")  # type: ignore[arg-type]
        return [next(source)[1].tolist() for _ in range(5)]

    assert labels(0)[2:] == labels(2)[:3]
    halves = [labels(0, process=process, processes=2) for process in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in labels(0)]
