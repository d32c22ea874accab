"""Guides from files: both conventions of masks, every refusal with its way out, and hostile files that run nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gengauge.datasets.sets import DataNotFound
from gengauge.datasets.strokes import Composites, read_mask_and_image, read_painting
from gengauge.datasets.unpickling import DamagedCheckpoint, UnsafeCheckpoint

IMAGE = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
MASK = (torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def picture(path: Path, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def noise(height: int = 4, width: int = 6, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)


def halves(height: int = 4, width: int = 6) -> np.ndarray[Any, Any]:
    """A mask whose right half is white."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_published_file(tmp_path: Path, dtype: torch.dtype) -> None:
    mask = MASK.clone()
    mask[0, 0, 0], mask[1, 2, 3] = 0.5, 0.999  # anything but 1.0 may change
    guide = read_mask_and_image(saved(tmp_path / "a.pth", [mask.to(dtype), IMAGE.to(dtype)]))
    assert torch.allclose(guide.picture, IMAGE, atol=1e-3)
    assert guide.picture.dtype == torch.float32
    assert guide.editable.dtype == torch.bool
    assert torch.equal(guide.editable, mask.to(dtype) != 1)
    assert guide.editable[0, 0, 0]
    assert guide.editable[1, 2, 3]


def test_a_mask_is_looked_at_before_it_is_rounded(tmp_path: Path) -> None:
    mask = MASK.double()
    mask[0, 0, 0] = 1 - 1e-12
    assert read_mask_and_image(saved(tmp_path / "a.pth", [mask, IMAGE])).editable[0, 0, 0]


def test_older_files_and_tuples_and_expanded_masks(tmp_path: Path) -> None:
    mask = MASK[:1].expand(3, -1, -1)
    path = tmp_path / "a.pth"
    torch.save((mask, IMAGE.permute(2, 1, 0).contiguous().permute(2, 1, 0)), path, _use_new_zipfile_serialization=False)
    guide = read_mask_and_image(path)
    assert torch.equal(guide.picture, IMAGE)
    assert torch.equal(guide.editable, mask != 1)


def test_the_other_order_is_recognised_and_can_be_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", [IMAGE, MASK])
    with pytest.raises(ValueError, match=r"another order than 'mask, image'.*torch.save\(\[mask, image\]"):
        read_mask_and_image(path)
    guide = read_mask_and_image(path, order="image, mask")
    assert torch.equal(guide.picture, IMAGE)
    assert torch.equal(guide.editable, MASK != 1)
    # Black and white drawings are pictures too.
    guide = read_mask_and_image(saved(tmp_path / "b.pth", [MASK, 1 - MASK]))
    assert torch.equal(guide.picture, 1 - MASK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([MASK[0], IMAGE], r"mask \(4, 6\), which has no three channels.*mask.expand\(3, -1, -1\)"),
        ([MASK[:1], IMAGE], r"mask \(1, 4, 6\).*expand"),
        ([MASK, IMAGE[0]], r"image \(4, 6\).*expand"),
        ([MASK.permute(1, 2, 0), IMAGE], r"mask \(4, 6, 3\), not \(3, H, W\)"),
        ([MASK[None], IMAGE[None]], r"\(1, 3, 4, 6\), not \(3, H, W\)"),
        ([MASK[..., :5], IMAGE], r"mask \(3, 4, 5\) of an image \(3, 4, 6\)"),
        ([MASK, 2 * IMAGE - 1], r"image with values from -.* not in \[0, 1\]"),
        ([MASK * 255, IMAGE], "mask with values from 0 to 255"),
        ([MASK, torch.full_like(IMAGE, torch.nan)], "image with values from nan"),
        ([MASK, (IMAGE * 255).byte()], r"image of torch.uint8.*image.float\(\) / 255"),
        ([MASK == 1, IMAGE], r"mask of torch.bool.*make it mask.float\(\), and"),
        ([MASK], "holds 1 tensors"),
        ([MASK, IMAGE, IMAGE], "holds 3 tensors"),
        ({"mask": MASK, "image": IMAGE}, r"holds 2 tensors \(mask, image\), not two; save it by"),
        ([MASK[:, :0], IMAGE[:, :0]], r"mask \(3, 0, 6\)"),
    ],
)
def test_other_content_is_refused_with_the_way_out(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path / "a.pth", content)
    with pytest.raises(ValueError, match=message) as error:
        read_mask_and_image(path)
    assert str(path) in str(error.value)
    assert "torch.save([mask, image], path)" in str(error.value)


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_a_hostile_or_damaged_file_is_named_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeCheckpoint, match=r"a\.pth is refused"):
        read_mask_and_image(saved(tmp_path / "a.pth", [MASK, IMAGE, Bomb()]))
    (tmp_path / "b.pth").write_bytes(pickle.dumps([Bomb()]))
    with pytest.raises(UnsafeCheckpoint, match=r"b\.pth is refused"):
        read_mask_and_image(tmp_path / "b.pth")
    assert not (tmp_path / "exploded").exists()
    content = saved(tmp_path / "c.pth", [MASK, IMAGE]).read_bytes()
    (tmp_path / "c.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedCheckpoint, match=r"c\.pth"):
        read_mask_and_image(tmp_path / "c.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read_mask_and_image(tmp_path / "none.pth")


def test_pictures_and_masks(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "p.png", noise())
    mask = picture(tmp_path / "m.png", halves())
    guide = read_painting(tmp_path / "p.png", tmp_path / "m.png")
    assert torch.equal((guide.picture * 255).round().byte(), torch.from_numpy(pixels).permute(2, 0, 1))
    assert guide.picture.dtype == torch.float32
    assert torch.equal(guide.editable, torch.from_numpy(mask == 255).expand(3, 4, 6))
    for mode in ("1", "RGB", "P"):
        Image.fromarray(mask).convert(mode).save(tmp_path / "n.png")
        assert torch.equal(read_painting(tmp_path / "p.png", tmp_path / "n.png").editable, guide.editable)
    assert read_painting(tmp_path / "p.png").editable.all()
    picture(tmp_path / "grey.png", pixels[..., 0])
    assert torch.equal(read_painting(tmp_path / "grey.png").picture, guide.picture[:1].expand(3, -1, -1))


def grey(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    mask = mask.copy()
    mask[0, :2] = 7, 254
    return mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (grey(halves()), "has 2 pixels that are neither black nor white; threshold it"),
        (np.stack([halves(), halves(), halves()[:, ::-1]], 2), "24 pixels that are neither"),
        (halves() // 255, "12 pixels that are neither"),
        (halves(4, 8), r"m\.png is 8 x 4 pixels and .*p\.png is 6 x 4; bring them to one size"),
        (np.zeros((4, 6), np.uint8), "no white pixel"),
    ],
)
def test_a_picture_that_is_no_mask_is_refused(tmp_path: Path, mask: np.ndarray[Any, Any], message: str) -> None:
    picture(tmp_path / "p.png", noise())
    picture(tmp_path / "m.png", mask)
    with pytest.raises(ValueError, match=message):
        read_painting(tmp_path / "p.png", tmp_path / "m.png")


def test_missing_and_damaged_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"p\.png: there is no such picture"):
        read_painting(tmp_path / "p.png")
    picture(tmp_path / "p.png", noise())
    with pytest.raises(FileNotFoundError, match=r"m\.png: there is no such picture"):
        read_painting(tmp_path / "p.png", tmp_path / "m.png")
    (tmp_path / "p.png").write_bytes((tmp_path / "p.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"p\.png cannot be read as a picture"):
        read_painting(tmp_path / "p.png")


def composites(root: Path, names: tuple[str, ...] = ("b", "a")) -> Path:
    for i, name in enumerate(names):
        original = picture(root / "original" / f"{name}.png", noise(seed=i))
        mask = picture(root / "mask" / f"{name}.png", halves())
        picture(root / "composite" / f"{name}.png", np.where(mask[..., None] == 255, noise(seed=10 + i), original))
    return root


def test_composites_by_name(tmp_path: Path) -> None:
    found = Composites(composites(tmp_path))
    assert found.names == ("a", "b")
    assert len(found) == 2
    one = found.composite(1)
    assert one.name == "b"
    for part, tensor in (("original", one.original), ("composite", one.composite)):
        expected = np.asarray(Image.open(tmp_path / part / "b.png")).transpose(2, 0, 1)
        assert np.array_equal((tensor * 255).round().byte().numpy(), expected)
    assert torch.equal(one.original[~one.pasted], one.composite[~one.pasted])
    assert torch.equal(one.pasted, torch.from_numpy(halves() == 255).expand(3, 4, 6))
    with pytest.raises(IndexError, match="outside a set of 2 composites"):
        found.composite(2)
    with pytest.raises(IndexError):
        found.composite(-1)


def test_missing_parts_of_composites_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"composites not found.*original/NAME\.png"):
        Composites(tmp_path)
    composites(tmp_path)
    (tmp_path / "mask" / "a.png").unlink()
    with pytest.raises(DataNotFound, match=r"mask/a\.png"):
        Composites(tmp_path)
    picture(tmp_path / "mask" / "a.png", halves())
    picture(tmp_path / "original" / "a.png", noise(5, 6))
    with pytest.raises(ValueError, match="bring them to one size"):
        Composites(tmp_path).composite(0)


def test_a_mask_that_keeps_nothing_is_meant_otherwise(tmp_path: Path) -> None:
    """What is not exactly 1.0 may change: a mask of halves, or of 1/255, would keep nothing."""
    image, half = torch.rand(3, 8, 8), torch.zeros(3, 8, 8)
    half[:, :4] = 0.5
    path = tmp_path / "half.pth"
    torch.save([half, image], path)
    with pytest.raises(ValueError, match=r"no 1\.0.*mask == mask\.max"):
        read_mask_and_image(path)
    torch.save([(half == half.max()).float(), image], path)
    assert read_mask_and_image(path).editable.float().mean() == 0.5
    torch.save([(half > 0).to(torch.uint8), image], path)
    with pytest.raises(ValueError, match=r"mask == mask\.max"):
        read_mask_and_image(path)
    torch.save([torch.zeros(3, 8, 8), image], path)
    assert read_mask_and_image(path).editable.all()
    with pytest.raises(ValueError, match="the order is"):
        read_mask_and_image(path, order="foo")  # type: ignore[arg-type]
