"""Animals on meadows: an unpaired set that is there as a whole or not at all, and what the zoo learnt from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gengauge.benchmarks.metrics.segmentation import confusion, mean_iou
from gengauge.benchmarks.segmenters import segment
from gengauge.benchmarks.zoo import entries, meadows, segmenter
from gengauge.benchmarks.zoo.meadows import COLOURS, Meadows, coloured, scenes
from gengauge.benchmarks.zoo.networks import networks
from gengauge.benchmarks.zoo.translators import RECIPES, SEEDS, TRANSLATORS, Translator
from gengauge.datasets.unpaired import UnpairedFolders

FEW = Meadows(32, training=3, test=2)


def read(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.array(Image.open(file))


def test_sides_of_training_are_of_different_scenes_and_those_of_testing_of_the_same(tmp_path: Path) -> None:
    folders = UnpairedFolders(FEW.write(tmp_path / "set"))
    assert (len(folders.a), len(folders.b)) == (3, 3)
    pictures, labels = scenes(0, 6, 32)
    for i in range(3):
        expected = coloured(labels[i : i + 1])[0].permute(1, 2, 0).numpy()
        assert (read(tmp_path / "set" / "trainA" / f"{i:05d}.png") == expected).all()
        assert (read(tmp_path / "set" / "trainB" / f"{i:05d}.png") == pictures[3 + i].permute(1, 2, 0).numpy()).all()
    exact = FEW.test_labels()
    for i in range(2):
        found = read(tmp_path / "set" / "testA" / f"{i:05d}.png")
        assert (found == COLOURS.numpy()[exact[i]]).all()
    assert len({tuple(colour) for colour in COLOURS.tolist()}) == meadows.CLASSES
    other = Meadows(32, training=3, test=2, seed=1).write(tmp_path / "other")
    assert (read(other / "testB" / "00001.png") == read(tmp_path / "set" / "testB" / "00001.png")).all()


def test_a_set_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        FEW.write(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_the_segmenter_has_the_scores_of_its_card() -> None:
    pictures, labels = scenes(meadows.TEST_SEED, 60, segmenter.RESOLUTION)
    found = segment(segmenter.load(), pictures)
    score = mean_iou(confusion(found, labels.numpy(), meadows.CLASSES))
    assert score == pytest.approx(segmenter.card()["miou"], abs=5)
    assert score > 60


@pytest.mark.parametrize("translator", TRANSLATORS.values(), ids=lambda t: t.NAME)
def test_translators_are_those_of_their_cards(translator: Translator) -> None:
    card = translator.card()
    file = entries.FOLDER / f"{translator.NAME}.safetensors"
    assert card["bytes"] == file.stat().st_size < 1_100_000
    assert card["iterations"] == 2000
    network = translator.load()
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    labels = scenes(meadows.TEST_SEED, 40, 64)[1]
    with torch.inference_mode():
        made = network(coloured(labels).float() / 127.5 - 1)
    grey = ((made + 1) * 127.5).to(torch.uint8)
    score = mean_iou(confusion(segment(segmenter.load(), grey), labels.numpy(), meadows.CLASSES))
    assert score == pytest.approx(card["miou"], abs=6)


def test_the_zoo_lists_every_network_once() -> None:
    listed = networks()
    assert set(listed) >= {f"{method}-meadow64-{seed}" for method in RECIPES for seed in SEEDS} | {segmenter.NAME}
    assert all(entry.card()["name"] == name for name, entry in listed.items())


def test_a_segmenter_and_a_translator_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "PICTURES", 20)
    monkeypatch.setattr(segmenter, "TEST", 4)
    segmenter.make(tmp_path, tmp_path / "work", "cpu", kimg=0.032)
    assert segmenter.card(tmp_path)["iterations"] == 2
    assert segmenter.load(tmp_path).training is False
    monkeypatch.setattr("gengauge.benchmarks.zoo.translators.SET", Meadows(training=4, test=2))
    TRANSLATORS["fastcut", 1].make(tmp_path, tmp_path / "work", "cpu", kimg=0.002)
    card = TRANSLATORS["fastcut", 1].card(tmp_path)
    assert (card["iterations"], card["test_pictures"]) == (2, 4)
    assert card["parameters"] == sum(p.numel() for p in TRANSLATORS["fastcut", 1].load(tmp_path).parameters())
