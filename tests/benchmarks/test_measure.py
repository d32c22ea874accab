"""Networks from the user's files, measured by a row's protocol; the protocols' own rules."""

from __future__ import annotations

import ast
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_folder import Tiny, context, write_cifar
from goldens import load
from PIL import Image
from safetensors.torch import save_file

from gengauge.benchmarks import generators
from gengauge.benchmarks.core.experiments import Measurement
from gengauge.benchmarks.features.networks import FeatureNetwork
from gengauge.benchmarks.features.stream import fingerprint, running_moments, set_moments
from gengauge.benchmarks.metrics.frechet import fit
from gengauge.benchmarks.papers.diffaugment import PAPER, checkpoints, measure, scoring
from gengauge.benchmarks.papers.diffaugment.imagenet import ImageNetSet
from gengauge.benchmarks.papers.diffaugment.rows import IMAGENET, paper_runs
from gengauge.datasets.checkpoints import DamagedCheckpoint, UnsafeCheckpoint
from gengauge.datasets.network_pickles import StoredNetwork
from gengauge.datasets.pictures_set import FolderSet
from gengauge.datasets.sets import InMemory, Subset
from gengauge.datasets.subsets import cifar_subset
from gengauge.reference.diffaugment import recipes
from gengauge.reference.nets.biggan import BatchNorm, Generator
from gengauge.reference.nets.stylegan2.generator import Generator as StyleGAN2

GOLDENS = Path(__file__).parent.parent / "goldens" / "diffaugment"


def test_a_published_state_dict_is_measured_like_a_training_state(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "data", per_file=8)
    run = Tiny.run("biggan", repeats=2)
    g, _ = run.recipe.networks()
    torch.save(g.state_dict(), tmp_path / "DiffAugment-biggan-cifar10-0.1.pth")
    save_file({f"G_ema.{name}": value for name, value in g.state_dict().items()}, tmp_path / "state.safetensors")
    here = context(run, data, tmp_path)
    found = measure.measure_file(("fid", "is"), here, tmp_path / "DiffAugment-biggan-cifar10-0.1.pth")
    mean, spread = found["fid"]
    assert mean > 0
    assert spread > 0
    assert "is" not in found  # no package carries the classifier
    assert measure.measure_file(("fid",), here, tmp_path / "state.safetensors") == found


def test_two_processes_sample_what_one_does(tmp_path: Path) -> None:
    run = Tiny.run("biggan")
    # Three batches each: one process makes two of them.
    run = replace(run, protocol=replace(run.protocol, samples=10, statistics="accumulated", accumulated=12))
    here = context(run, write_cifar(tmp_path / "data", per_file=8), tmp_path)
    g, _ = run.recipe.networks()
    save_file({f"G_ema.{name}": value for name, value in g.state_dict().items()}, tmp_path / "state.safetensors")
    one, two = (
        measure.measure_file(("fid",), each, tmp_path / "state.safetensors")
        for each in (here, replace(here, processes=2))
    )
    assert two["fid"] == pytest.approx(one["fid"], rel=1e-9)


def test_network_pickles_of_both_kinds_become_generators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, metadata = load(GOLDENS / "sg2_tf_conversion.safetensors")
    variables = {key.removeprefix("tfG."): value for key, value in tensors.items() if key.startswith("tfG.")}
    static = ast.literal_eval(metadata["G_static_kwargs"])
    old = StoredNetwork("tensorflow", "G_main", static, variables)
    arguments = ast.literal_eval(metadata["G_init_kwargs"])
    network = StyleGAN2(**arguments)
    network.load_state_dict(
        {key.removeprefix("G."): value for key, value in tensors.items() if key.startswith("G.")}, strict=False
    )
    new = StoredNetwork("pytorch", "Generator", arguments, network.state_dict())
    run = Tiny.run("stylegan2")
    small = {**run.recipe.generator, "img_resolution": 16}
    run = replace(run, resolution=16, recipe=replace(run.recipe, generator=small))
    for stored in (old, new):
        monkeypatch.setattr(generators, "read_networks", lambda path, stored=stored: {"G_ema": stored})
        read = checkpoints.read_generator(tmp_path / "network.pkl", run).eval()
        assert torch.allclose(read(tensors["z"], noise_mode="const"), tensors["img_const"], atol=1e-5)
    with pytest.raises(ValueError, match="16 px; this row's has 32"):
        checkpoints.read_generator(tmp_path / "network.pkl", Tiny.run("stylegan2"))
    monkeypatch.setattr(
        generators, "read_networks", lambda path: {"G_ema": replace(new, arguments={**arguments, "magic": 1})}
    )
    with pytest.raises(ValueError, match="no StyleGAN2"):
        checkpoints.read_generator(tmp_path / "network.pkl", run)
    monkeypatch.setattr(generators, "read_networks", lambda path: {"G_ema": new})
    with pytest.raises(ValueError, match="holds a StyleGAN2; this row is of a BigGAN"):
        checkpoints.read_generator(tmp_path / "network.pkl", Tiny.run("biggan"))
    monkeypatch.setattr(generators, "read_networks", lambda path: {"D": new})
    with pytest.raises(ValueError, match="holds D but no averaged generator"):
        checkpoints.read_generator(tmp_path / "network.pkl", run)


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for name in ("network.pkl", "state.pth"):
        (tmp_path / name).write_bytes(pickle.dumps({"G_ema": Hostile()}))
        with pytest.raises(UnsafeCheckpoint, match=rf"{name} is refused.*system"):
            checkpoints.read_generator(tmp_path / name, Tiny.run("biggan"))
    assert not (tmp_path / "ran").exists()


def test_files_of_other_networks_are_named(tmp_path: Path) -> None:
    run = Tiny.run("biggan")
    with pytest.raises(FileNotFoundError):
        checkpoints.read_generator(tmp_path / "none.pth", run)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(DamagedCheckpoint, match=r"text\.pth"):
        checkpoints.read_generator(tmp_path / "text.pth", run)
    torch.save({"w": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no state of the BigGAN"):
        checkpoints.read_generator(tmp_path / "other.pth", run)
    torch.save(Generator(ch=1, num_classes=100).state_dict(), tmp_path / "hundred.pth")
    with pytest.raises(ValueError, match="100 classes; this row's has 10"):
        checkpoints.read_generator(tmp_path / "hundred.pth", run)
    state = Generator(ch=1).state_dict()
    state.pop("linear.bias")
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ValueError, match=r"less\.pth is of another network: 1 tensors are missing.*linear\.bias"):
        checkpoints.read_generator(tmp_path / "less.pth", run)


def test_every_run_is_a_row_of_its_published_table() -> None:
    from gengauge.benchmarks.core.tables import load_tables

    known = {(table.key, row.key) for table in load_tables("diffaugment") for row in table.rows}
    runs = paper_runs()
    assert set(runs) <= known
    rest = {row.partition("@")[0] for _, row in known - set(runs)}
    # Methods of others, which this project does not have.
    assert all(name.startswith(("ada", "freezed", "minegan", "scale-shift", "transfergan")) for name in rest)


def test_schedules_and_subsets_are_the_published_ones() -> None:
    runs = paper_runs()
    assert runs["cifar10", "biggan@10pct-data"].iterations == 125_000
    assert runs["cifar100", "biggan@100pct-data"].iterations == 500_000
    assert runs["cifar10", "cr-biggan-diffaugment@100pct-data"].recipe.policy == "cutout"
    low = runs["cifar10", "cr-biggan-diffaugment@10pct-data"].recipe
    assert (low.policy, low.consistency_augment) == ("translation,cutout", "")  # type: ignore[union-attr]
    assert runs["low-shot", "stylegan2-no-pre-training@animalface-dog-389"].iterations == 31_250
    assert runs["cifar10", "stylegan2-unconditional-diffaugment@100pct-data"].recipe.policy == "color,cutout"
    assert runs["imagenet", "biggan-diffaugment@25pct-data"].recipe.d_lr == 2e-4  # type: ignore[union-attr]
    # Rows of several tables that are one training.
    assert runs["slides", "stylegan2@cifar-10-10pct-data"] == runs["cifar10", "stylegan2-unconditional@10pct-data"]
    assert runs["placements", "biggan-baseline@translation"] == runs["cifar10", "biggan@100pct-data"]

    pixels = torch.zeros(20, 3, 32, 32, dtype=torch.uint8)
    everything = InMemory(pixels, np.arange(20) % 10, 10, "twenty")
    half = measure.training_set(replace(runs["cifar10", "biggan@10pct-data"], fraction=0.5), everything)
    assert isinstance(half, Subset)
    assert half.indices.tolist() == cifar_subset(10, 20).tolist()
    first = measure.training_set(replace(runs["few-images", "stylegan2@ffhq-1k"], count=3), everything)
    assert isinstance(first, Subset)
    assert first.indices.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="holds 20 pictures; this row trains on 1000"):
        measure.training_set(runs["few-images", "stylegan2@ffhq-1k"], everything)


def test_train_mode_sampling_takes_the_statistics_of_its_batch() -> None:
    run = Tiny.run("biggan")
    torch.manual_seed(0)
    g, _ = run.recipe.networks()
    g.eval()
    before = {name: value.clone() for name, value in g.state_dict().items()}
    pictures = torch.cat(list(scoring.samples(g, run, range(2), 1, "cpu")))
    assert pictures.dtype == torch.uint8
    assert len(pictures) == 8
    assert all(torch.equal(value, before[name]) for name, value in g.state_dict().items()), "a copy samples"
    assert not g.training
    for module in g.modules():
        if isinstance(module, BatchNorm):
            module.stored_mean.fill_(100)
            module.stored_var.fill_(100)
    again = torch.cat(list(scoring.samples(g, run, range(2), 1, "cpu")))
    assert torch.equal(again, pictures), "stored statistics are not what it takes"


@pytest.mark.parametrize(("family", "moves"), [("biggan", True), ("stylegan2", False)])
def test_a_batch_of_samples_is_the_same_without_those_before_it(
    family: str, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Tiny.run(family)
    torch.manual_seed(0)
    g = run.recipe.networks()[0]
    whole = list(scoring.samples(g, run, range(4), 1, "cpu"))
    assert not torch.equal(whole[0], whole[1])
    for mine in ((3,), (0, 2), (1, 3)):
        for number, made in zip(mine, scoring.samples(g, run, mine, 1, "cpu"), strict=True):
            assert torch.equal(made, whole[number])
    monkeypatch.setattr(scoring, "_move_on", lambda g, batches: None)
    (made,) = scoring.samples(g, run, (3,), 1, "cpu")
    assert torch.equal(made, whole[3]) is not moves, "power vectors move from batch to batch"


def test_accumulated_statistics_are_the_means_of_the_batches_moments() -> None:
    protocol = replace(IMAGENET, batch=4, accumulated=8)
    torch.manual_seed(0)
    g = Generator(ch=1, num_classes=3).train()
    norm = next(m for m in g.modules() if isinstance(m, BatchNorm))
    inputs: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    scoring.accumulate_statistics(g, protocol, 0, "cpu")
    handle.remove()
    assert len(inputs) == 2
    assert torch.allclose(norm.stored_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0))
    variances = torch.stack([x.var((0, 2, 3), unbiased=False) for x in inputs])
    assert torch.allclose(norm.stored_var, variances.mean(0))


def test_pictures_of_the_imagenet_protocol_are_not_rounded() -> None:
    run = replace(paper_runs()["imagenet", "biggan@100pct-data"], protocol=replace(IMAGENET, accumulated=64))
    grey = scoring.grey_levels(torch.tensor([0.0, 0.25, 1.0]), run)
    assert grey.tolist() == [0.0, 63.75, 255.0]
    cifar = Tiny.run("biggan")
    assert scoring.grey_levels(torch.tensor([-1.0, 0.0, 1.0]), cifar).tolist() == [0, 128, 255]


class Brightness(torch.nn.Module):
    """Stands for a feature network: means of the channels, and of their squares."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x.square().mean((2, 3))], 1)


def test_running_moments_are_those_of_all_features_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gengauge.benchmarks.features import stream

    network = FeatureNetwork("inception", "FID", 8, 6, Brightness(), lambda x, mode: x / 255, None, "brightness")
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    exact = fit(stream.stream_features(pixels.split(7), network, "clean", "cpu"))
    running = running_moments(pixels.split(7), 40, network, "clean", "cpu")
    assert np.allclose(running.mean, exact.mean, rtol=0, atol=1e-10)
    assert np.allclose(running.covariance, exact.covariance, rtol=0, atol=1e-10)
    monkeypatch.setattr(stream, "KEPT", 10)
    monkeypatch.setenv("GENGAUGE_CACHE", str(tmp_path))
    pictures = InMemory(pixels, None, 0, "forty")
    made = set_moments(pictures, network, "clean", "cpu")
    assert np.allclose(made.covariance, exact.covariance, rtol=0, atol=1e-10)
    monkeypatch.setattr(stream, "running_moments", lambda *_: pytest.fail("computed twice"))
    assert np.array_equal(set_moments(pictures, network, "clean", "cpu").covariance, made.covariance)


def test_the_fingerprint_of_a_set_tells_its_content() -> None:
    pixels = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    names = {
        fingerprint(InMemory(pixels, None, 0, "a")),
        fingerprint(InMemory(pixels + 1, None, 0, "a")),
        fingerprint(InMemory(pixels[:4], None, 0, "a")),
        fingerprint(InMemory(pixels, np.zeros(5, np.int64), 1, "a")),
        fingerprint(InMemory(pixels, np.arange(5) % 2, 2, "a")),
    }
    assert len(names) == 5


def test_an_imagenet_row_trains_on_zoomed_squares_and_is_scored_unrounded(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for place in ("train/n01", "train/n02", "val"):
        folder = tmp_path / "data" / "imagenet" / place
        folder.mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(0, 256, (90 + 10 * i, 150, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    published = paper_runs()["imagenet", "biggan-diffaugment@50pct-data"]
    recipe = recipes.biggan_imagenet(ch=8)
    recipe = replace(recipe, batch=2, d_steps=1, policy="translation")
    run = replace(
        published,
        recipe=recipe,
        iterations=1,
        snapshot_every=1,
        log_every=1,
        protocol=replace(published.protocol, samples=4, batch=2, accumulated=4, repeats=1),
    )
    columns = ("fid", "fid_last", "best_iteration")
    results = list(measure.fill("row", columns, context(run, tmp_path / "data", tmp_path)))
    final = {r.column: r.value for r in results if isinstance(r, Measurement) and r.step is None}
    assert set(final) == set(columns)
    assert all(np.isfinite(value) for value in final.values())


def test_imagenet_squares_are_central_and_not_rounded(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 50:150] = 101  # the largest central square
    pixels[25:75, 75:125] = 202  # in its middle, half its side
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    squares = ImageNetSet(FolderSet(tmp_path, 16, class_folders=True), 16)
    whole, half = squares.pictures([0]), squares.zoomed([0], [0.5])
    assert whole.dtype == torch.float32
    assert (whole[0, :, 0, 0] == 101).all()
    assert (whole != 0).all()
    assert (half == 202).all()
    assert torch.equal(squares.zoomed([0], [1.0]), whole)


def test_a_part_of_imagenet_has_pictures_of_every_class(tmp_path: Path) -> None:
    for label in range(4):
        (tmp_path / f"n{label}").mkdir()
        for i in range(10):
            Image.new("RGB", (9, 9), (label, i, 0)).save(tmp_path / f"n{label}" / f"{i}.png")
    everything = ImageNetSet(FolderSet(tmp_path, 8, class_folders=True), 8)
    run = replace(paper_runs()["imagenet", "biggan@50pct-data"], resolution=8)
    half = measure.training_set(run, everything)
    assert len(half) == 20
    assert half.labels is not None
    assert set(half.labels.tolist()) == {0, 1, 2, 3}
    assert half.pictures([3])[0, 0, 0, 0] == half.labels[3]
    # The published counts of the full set's 1,281,167 pictures.
    assert [int(1_281_167 * fraction) for fraction in (0.5, 0.25)] == [640_583, 320_291]


def test_a_scales_own_differences_are_told_at_that_scale_only() -> None:
    experiment = next(e for e in PAPER.experiments if e.key == "cifar10-biggan@10pct-data")
    assert "width" in {subject for subject, _, _ in experiment.scales["small"].protocol}
    assert not experiment.scales["paper"].protocol
    assert "width" not in {subject for subject, _, _ in experiment.protocol}


def test_at_paper_scale_a_set_must_be_whole(tmp_path: Path) -> None:
    data = write_cifar(tmp_path / "data", per_file=8)
    here = replace(context(Tiny.run("biggan"), data, tmp_path), scale="paper")
    with pytest.raises(ValueError, match="holds 40 pictures, the published set 50000"):
        measure.train_row(here)
    torch.save(Tiny.run("biggan").recipe.networks()[0].state_dict(), tmp_path / "G.pth")
    with pytest.raises(ValueError, match="holds 8 pictures, the published set 10000"):
        measure.measure_file(("fid",), here, tmp_path / "G.pth")
