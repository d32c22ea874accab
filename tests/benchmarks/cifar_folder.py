"""A CIFAR-10 folder of noise in the published binary format, tiny rows to train on it, and a process that does."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gengauge.benchmarks.core.experiments import Context
from gengauge.benchmarks.papers.diffaugment import measure
from gengauge.benchmarks.papers.diffaugment.rows import CIFAR_BIGGAN, CIFAR_STYLEGAN2, Protocol, Run
from gengauge.reference.diffaugment import biggan, stylegan2


class Tiny:
    """Rows like the published ones, with other numbers."""

    ITERATIONS = 4

    @staticmethod
    def run(family: str, repeats: int = 1) -> Run:
        narrow = {"ch": 1, "num_classes": 10}
        recipe: biggan.Recipe | stylegan2.Recipe
        protocol: Protocol
        if family == "biggan":
            protocol = CIFAR_BIGGAN
            recipe = biggan.Recipe(
                policy="translation,cutout",
                consistency=10.0,
                batch=4,
                d_steps=2,
                generator=narrow,
                discriminator=narrow,
            )
        else:
            protocol = CIFAR_STYLEGAN2
            width = {"channel_base": 128, "channel_max": 8}
            recipe = stylegan2.Recipe(
                policy="color,translation,cutout",
                batch=8,
                pl_weight=2.0,
                pl_interval=2,
                r1_interval=2,
                generator={"z_dim": 8, "w_dim": 8, "img_resolution": 32, "synthesis_kwargs": width},
                discriminator={"img_resolution": 32, **width},
            )
        protocol = replace(protocol, samples=6, batch=4, repeats=repeats)
        return Run("cifar10", 32, recipe, Tiny.ITERATIONS, 2, protocol, fraction=0.5, subset="random", log_every=1)


def write_cifar(root: Path, per_file: int) -> Path:
    """The binary version: a label byte and 3,072 bytes a picture. Returns the data folder."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = random.integers(0, 256, (per_file, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return root


def context(run: Run, data: Path, work: Path) -> Context:
    return Context(run, 0, "small", "cpu", data, work / "training", lambda done, total, doing: None)


def main() -> None:
    family, data, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    pause = float(os.environ.get("GENGAUGE_SLOW_STEPS", "0"))
    torch.set_num_threads(1)
    built = []
    build = measure.build

    def slow(*args: object) -> object:
        training = build(*args)  # type: ignore[arg-type]
        step = training.step

        def wait(*more: object, **named: object) -> dict[str, torch.Tensor]:
            time.sleep(pause)
            return step(*more, **named)  # type: ignore[arg-type]

        training.step = wait  # type: ignore[method-assign]
        built.append(training)
        return training

    measure.build = slow  # type: ignore[assignment]
    measure.train_row(context(Tiny.run(family), data, work))
    weights = b"".join(p.detach().numpy().tobytes() for p in built[0].networks["G"].parameters())
    print(f"weights of process {os.environ.get('RANK', '0')}: {hashlib.sha256(weights).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
