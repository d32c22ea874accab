"""DiffAugment against tensors made by the published code; tolerances as in the goldens' MANIFEST.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from goldens import assert_close, files, folder, load, prefixes, settings
from torch import Tensor

from gengauge.benchmarks.metrics.frechet import Gaussian, fit, frechet_distance
from gengauge.benchmarks.metrics.inception_score import inception_score
from gengauge.benchmarks.metrics.kernel import kernel_distance
from gengauge.benchmarks.metrics.precision_recall import precision_recall
from gengauge.benchmarks.metrics.quantise import to_uint8
from gengauge.reference.diffaugment import augment
from gengauge.reference.diffaugment.augment import diff_augment

PAPER = "diffaugment"
OPS = {
    "rand_brightness": (augment.brightness, ("u",), 1e-5),
    "rand_saturation": (augment.saturation, ("u",), 1e-5),
    "rand_contrast": (augment.contrast, ("u",), 1e-5),
    "rand_translation": (augment.translation, ("tx", "ty"), 0.0),
    "rand_cutout": (augment.cutout, ("ox", "oy"), 0.0),
}
KINDS = ("diffaug_ops", "diffaug_policies", "diffaug_edges", "metrics_biggan_is_fid", "metrics_sg2pt")
# The networks and recipes of DiffAugment are not in the project yet; their goldens wait for them.
AWAITED = ("biggan_", "sg2_", "data_subsets")


def cases(prefix: str, ending: str) -> list[object]:
    """A test item a group of tensors in the files of a kind: (file, what stands before `ending`)."""
    return [
        pytest.param(path, name, id=f"{path.stem}-{name}")
        for path in files(PAPER, prefix)
        for name in prefixes(load(path)[0], ending)
    ]


def test_every_golden_file_is_of_a_known_kind() -> None:
    unknown = [path.name for path in folder(PAPER).glob("*.safetensors") if not path.name.startswith(KINDS + AWAITED)]
    assert not unknown, f"no test reads {unknown}"


@pytest.mark.parametrize(("path", "name"), cases("diffaug_ops", ".out"))
def test_operation(path: Path, name: str) -> None:
    tensors, _ = load(path)
    shape, op = name.split(".")
    function, draws, tolerance = OPS[op]
    x = tensors[f"{shape}.x"].requires_grad_()
    out = function(x, *(tensors[f"{name}.{draw}"] for draw in draws))
    assert_close(out, tensors[f"{name}.out"], tolerance)
    (grad,) = torch.autograd.grad(out, x, tensors[f"{shape}.cotangent"])
    assert_close(grad, tensors[f"{name}.grad_x"], 1e-6)


@pytest.mark.parametrize(("path", "name"), cases("diffaug_policies", ".out"))
def test_policy(path: Path, name: str) -> None:
    tensors, _ = load(path)
    found: dict[int, tuple[str, dict[str, Tensor]]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{name}.draw."):
            position, part, draw = key.removeprefix(f"{name}.draw.").split(".")
            found.setdefault(int(position), (part, {}))[1][draw] = value
    policy, draws = ",".join(found[i][0] for i in sorted(found)), [found[i][1] for i in sorted(found)]
    x = tensors["x"].requires_grad_()
    if name == "nhwc":
        out = diff_augment(x.permute(0, 2, 3, 1), policy, draws=draws, channels_first=False)
    else:
        assert policy == name.replace("+", ",")
        out = diff_augment(x, policy, draws=draws)
    assert out.is_contiguous()
    assert_close(out, tensors[f"{name}.out"], 1e-5)
    if f"{name}.grad_x" in tensors:
        (grad,) = torch.autograd.grad(out, x, tensors["cotangent"])
        assert_close(grad, tensors[f"{name}.grad_x"], 1e-5)


@pytest.mark.parametrize(("path", "name"), cases("diffaug_edges", ".out"))
def test_extreme_draws(path: Path, name: str) -> None:
    tensors, _ = load(path)
    function, draws = (augment.translation, ("tx", "ty")) if name.startswith("t") else (augment.cutout, ("ox", "oy"))
    out = function(tensors[f"{name}.x"], *(tensors[f"{name}.{draw}"] for draw in draws))
    assert_close(out, tensors[f"{name}.out"], 0.0)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        case
        for path in files(PAPER, "diffaug_edges")
        for case in [
            pytest.param(path, key, id=f"{path.stem}-{key}") for key in load(path)[0] if key.startswith("limits")
        ]
    ],
)
def test_limits_of_draws(path: Path, name: str) -> None:
    height, width, *golden = load(path)[0][name].tolist()
    shifts, sizes = augment.shift_limits(height, width), augment.cutout_size(height, width)
    assert [*shifts, *sizes] == golden[:4]
    # Enough draws that each end of each range comes up: the rarest has a share of 1 / 25 or so.
    translations, cutouts = augment.draw(
        "translation,cutout", (4096, 3, height, width), torch.Generator().manual_seed(0)
    )
    for axis, shift, centre in zip("xy", shifts, golden[4:6], strict=True):
        assert translations[f"translation_{axis}"].unique().tolist() == list(range(-shift, shift + 1))
        assert cutouts[f"cutout_{axis}"].unique().tolist() == list(range(centre + 1))


@pytest.mark.parametrize(("path", "case"), cases("metrics_biggan_is_fid", ".FID"))
def test_metrics_of_the_biggan_code(path: Path, case: str) -> None:
    tensors, metadata = load(path)
    t = {key.removeprefix(f"{case}."): value for key, value in tensors.items() if key.startswith(f"{case}.")}
    for side in ("real", "fake"):
        assert_close(to_uint8(t[f"{side}_images"]), t[f"{side}_uint8"], 0.0)
    real, fake = fit(t["real_features"].numpy()), fit(t["fake_features"].numpy())
    assert_close(torch.from_numpy(real.mean), t["real_mu"], 1e-6)
    assert_close(torch.from_numpy(real.covariance), t["real_sigma"], 1e-12, 1e-10)
    singular = min(len(t["real_features"]), len(t["fake_features"])) <= t["real_features"].shape[1]
    tolerance = settings(path).get("fid_relative", {}).get(case, 1e-3 if singular else 1e-4)
    assert frechet_distance(real, fake) == pytest.approx(t["FID"].item(), rel=tolerance)
    mean, std = inception_score(t["fake_probs"].numpy(), int(metadata["splits"]), borders="equal")
    assert mean == pytest.approx(t["IS_mean"].item(), abs=1e-6)
    assert std == pytest.approx(t["IS_std"].item(), abs=1e-6)


@pytest.mark.parametrize(("path", "_name"), cases("metrics_sg2pt", "kid_subset_indices"))
def test_metrics_of_the_stylegan2_port(path: Path, _name: str) -> None:
    t, _ = load(path)
    real, fake = t["real_features"].numpy(), t["gen_features"].numpy()
    a, b = fit(real, ddof=0), fit(fake, ddof=0)
    assert_close(torch.from_numpy(a.mean), t["real_mean"], 0.0, 1e-9)
    assert_close(torch.from_numpy(a.covariance), t["real_cov"], 0.0, 1e-9)
    assert frechet_distance(a, b) == pytest.approx(t["fid"].item(), rel=1e-6)
    saved = Gaussian(t["real_mean"].numpy(), t["real_cov"].numpy())
    assert frechet_distance(saved, b) == pytest.approx(t["fid"].item(), rel=1e-6)
    bounds = t["is_split_bounds"]
    mean, std = inception_score(t["gen_probs"].numpy(), len(bounds) - 1, borders="even")
    assert mean == pytest.approx(t["is_mean"].item(), rel=1e-6)
    assert std == pytest.approx(t["is_std"].item(), rel=1e-6)
    rows = t["kid_subset_indices"].numpy()
    subsets = list(zip(rows[1::2], rows[0::2], strict=True))  # the file's rows alternate generated, real
    assert kernel_distance(real, fake, subsets) == pytest.approx(t["kid"].item(), rel=1e-6)
    precision, recall = precision_recall(real, fake, k=3)
    assert abs(precision - t["precision_k3"].item()) <= 1 / len(fake) + 1e-9
    assert abs(recall - t["recall_k3"].item()) <= 1 / len(real) + 1e-9
    assert_close(to_uint8(t["u8.x"]), t["u8.sg2"], 0.0)
