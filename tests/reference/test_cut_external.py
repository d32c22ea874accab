"""External negatives: the loss by hand, what the bank holds, that it follows slowly and is saved with a training."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gengauge.reference.cut.contrastive import Training
from gengauge.reference.cut.external import ExternalBank
from gengauge.reference.cut.patches import PatchSampleF, patch_nce
from gengauge.reference.cut.recipes import CUT
from gengauge.reference.nets.translation_resnet import ResnetGenerator

pytestmark = pytest.mark.usefixtures("one_thread")

TAPS = (4, 8)
TINY = replace(
    CUT,
    generator={"n_blocks": 2, "ngf": 4},
    discriminator={"ndf": 4},
    nce_layers=TAPS,
    num_patches=8,
    nc=6,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int, seed: int) -> Tensor:
    made = torch.randn(count, 6, generator=seeded(seed))
    return made / made.norm(dim=1, keepdim=True)


@pytest.fixture
def bank() -> ExternalBank:
    torch.manual_seed(0)
    g = ResnetGenerator(2, 4)
    return ExternalBank(g, PatchSampleF(g.tap_channels(TAPS), 6), TAPS, rows=10)


@pytest.mark.parametrize("internal", [True, False])
def test_the_loss_is_the_definition(internal: bool) -> None:
    queries, keys, others = rows(12, 1), rows(12, 2), rows(7, 3)
    found = patch_nce(queries, keys, 2, external=others, internal=internal)
    for i in range(12):
        same = range(0, 6) if i < 6 else range(6, 12)
        negatives = [keys[j] for j in same if j != i] if internal else []
        logits = torch.stack([queries[i] @ k for k in (keys[i], *negatives, *others)]) / 0.07
        assert found[i].item() == pytest.approx((logits.logsumexp(0) - logits[0]).item(), rel=1e-5, abs=1e-6)


def test_without_any_negative_there_is_nothing_to_learn() -> None:
    queries, keys = rows(4, 1), rows(4, 2)
    assert patch_nce(queries, keys, 1, internal=False).abs().max() == 0
    empty = torch.zeros(0, 6)
    assert torch.equal(patch_nce(queries, keys, 1, external=empty), patch_nce(queries, keys, 1))


def test_the_newest_rows_take_the_place_of_the_oldest(bank: ExternalBank) -> None:
    assert [len(part) for part in bank.negatives(5)] == [0, 0]
    pictures = torch.rand(4, 1, 3, 16, 16, generator=seeded()) * 2 - 1
    places = [torch.arange(4), torch.arange(4)]
    with torch.no_grad():
        made = [bank.f(bank.g.encode(picture, TAPS), places) for picture in pictures]
    for picture in pictures:
        bank.add(picture, places)
    assert bank.held.tolist() == [10, 10]
    for i in range(2):
        newest = torch.cat([part[i] for part in made])[-10:]
        held = bank.get_buffer(f"bank_{i}")
        assert {tuple(row) for row in held.tolist()} == {tuple(row) for row in newest.tolist()}
        drawn = bank.negatives(6, seeded())[i]
        assert len({tuple(row) for row in drawn.tolist()}) == 6
        assert torch.equal(drawn, bank.negatives(6, seeded())[i])


def test_copies_follow_by_the_momentum(bank: ExternalBank) -> None:
    g = ResnetGenerator(2, 4)
    before = bank.g.get_parameter("model.1.weight").clone()
    bank.follow(g, bank.f)
    expected = before + 0.001 * (g.get_parameter("model.1.weight") - before)
    assert torch.allclose(bank.g.get_parameter("model.1.weight"), expected, atol=1e-7)
    assert not any(p.requires_grad for p in bank.parameters())


@pytest.mark.parametrize(("rows", "momentum"), [(0, 0.9), (4, 1.0), (4, -0.1)])
def test_a_bank_that_makes_no_sense(rows: int, momentum: float, bank: ExternalBank) -> None:
    with pytest.raises(ValueError, match="at least one row"):
        ExternalBank(bank.g, bank.f, TAPS, rows, momentum)


@pytest.mark.parametrize("negatives", ["external", "both"])
def test_a_training_has_a_bank_a_side_and_goes_on_with_them(negatives: str) -> None:
    recipe = replace(TINY, negatives=negatives)

    def begun() -> Training:
        torch.manual_seed(0)
        return Training(recipe)

    def step(training: Training, number: int) -> dict[str, Tensor]:
        return training.step(torch.rand(2, 3, 32, 32, generator=seeded(number)) * 2 - 1, None, seeded(number))

    training = begun()
    first = step(training, 0)
    assert (first["NCE"] == 0) == (negatives == "external")  # no picture came before
    step(training, 1)
    assert training.banks["A"].held.tolist() == training.banks["B"].held.tolist() == [16, 16]
    resumed = begun()
    for name, network in training.networks.items():
        resumed.networks[name].load_state_dict(network.state_dict())
    for name, optimiser in training.optimisers.items():
        resumed.optimisers[name].load_state_dict(copy.deepcopy(optimiser.state_dict()))
    resumed.iteration = training.iteration
    assert set(training.optimisers) == {"G", "D", "F"}
    assert all(torch.equal(a, b) for a, b in zip(step(training, 2).values(), step(resumed, 2).values(), strict=True))


def test_without_identity_only_one_side_has_a_bank() -> None:
    assert set(Training(replace(TINY, negatives="both", nce_idt=False)).banks) == {"A"}
