"""CUB-200-2011 with ACSM's list of validation pictures: birds cut out, key points with them, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from key_point_trees import acsm_list, write_cub
from PIL import Image
from scipy.io import savemat

from gengauge.datasets.cub import KEY_POINTS, LIST, PERMUTATION, cub_crop, enlarged, read_cub, square_box, to_square
from gengauge.datasets.sets import DataNotFound, PictureSet

BIRDS = {"001.Jay/Jay_1.jpg": (60, 40, (11, 6, 30, 25)), "002.Owl/Owl_2.jpg": (30, 30, (1, 1, 30, 30))}
BOXES = {path: box for path, (_, _, box) in BIRDS.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    def place(number: int, part: int) -> tuple[float, float, int]:
        return (0.0, 0.0, 0) if part == KEY_POINTS else (10.0 + part, 6.0 + number, 1)

    sizes = {path: (width, height) for path, (width, height, _) in BIRDS.items()}
    return write_cub(tmp_path, {**sizes, "003.Tit/Tit_3.jpg": (5, 5)}, BOXES, place)


def test_birds_are_cut_out_with_their_key_points(root: Path) -> None:
    found = read_cub(root, 44)
    pictures: PictureSet = found
    assert (len(pictures), pictures.resolution, found.pairs, found.lengths) == (2, 44, None, None)
    # The box from 0 is (10, 5, 29, 24); a margin of 1 px makes it 22 px, which double.
    assert square_box(enlarged((10, 5, 29, 24))) == (9, 4, 30, 25)
    expected = [[(10.0 + part - 10) * 2, (7 - 5) * 2, 1] for part in range(1, KEY_POINTS)]
    assert found.key_points[0, :-1].tolist() == expected
    assert found.key_points[0, -1].tolist() == [-20, -10, 0]  # as published, what cannot be seen is moved too
    with Image.open(root / "CUB_200_2011" / "images" / "001.Jay" / "Jay_1.jpg") as picture:
        cut = picture.crop((9, 4, 31, 26)).resize((44, 44), Image.Resampling.LANCZOS)
    assert np.array_equal(found.pictures([0])[0].permute(1, 2, 0).numpy(), np.asarray(cut))
    assert found.thresholds([1]).tolist() == [44]
    order = found.usable_permutation()
    assert order is not None
    assert torch.equal(order[order], torch.arange(KEY_POINTS))
    assert [i for i, other in enumerate(PERMUTATION) if i != other] == [6, 7, 8, 10, 11, 12]


def test_a_box_may_leave_its_picture_which_goes_on_at_the_edges() -> None:
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    cut = cub_crop(picture, (-1, -1, 2, 2), None)
    assert cut.shape == (4, 4, 3)
    assert np.array_equal(cut[1:3, 1:], picture)
    assert np.array_equal(cut[:, 0], cut[:, 1])
    assert np.array_equal(cut[0], cut[1])
    for box in ((3, 0, 4, 1), (0, -5, 1, -4), (-100_000, -100_000, 100_000, 100_000)):
        with pytest.raises(ValueError, match="does not belong to a picture of 3 x 2 px"):
            cub_crop(picture, box, 8)


def test_squares_have_the_longer_side() -> None:
    assert square_box((0.5, 0, 3.49, 9)) == (-3, 0, 6, 9)  # halves up: 1 to 3, 7 px more, 4 of them to the left
    assert to_square(np.array([[5.0, 3, 1]]), (3, 1, 6, 4), 8).tolist() == [[2, 2, 1]]
    with pytest.raises(ValueError, match="has no size"):
        enlarged((5, 0, 4, 9))


def test_what_is_missing_or_damaged_is_named(root: Path) -> None:
    tree = root / "CUB_200_2011"
    with pytest.raises(ValueError, match="above 0"):
        read_cub(root, 0)
    savemat(root / LIST, acsm_list({"../../secret.jpg": (1, 1, 2, 2)}))
    with pytest.raises(ValueError, match="leads out"):
        read_cub(root)
    savemat(root / LIST, acsm_list({"009.Emu/Emu_9.jpg": (1, 1, 2, 2)}))
    with pytest.raises(ValueError, match=r"lists 009\.Emu/Emu_9\.jpg"):
        read_cub(root)
    savemat(root / LIST, acsm_list({"001.Jay/Jay_1.jpg": (500, 500, 520, 520)}))
    with pytest.raises(ValueError, match=r"Jay_1\.jpg: the box"):
        read_cub(root).pictures([0])
    (root / LIST).write_bytes(b"no list")
    with pytest.raises(ValueError, match="no list of pictures of ACSM"):
        read_cub(root)
    savemat(root / LIST, acsm_list(BOXES))
    (tree / "images" / "002.Owl" / "Owl_2.jpg").unlink()
    with pytest.raises(DataNotFound, match=r"the picture Owl_2\.jpg"):
        read_cub(root)
    for content, message in (
        ("1 1 5.0 5.0 1\n", "lacks key points"),
        ("1 16 5.0 5.0 1\n", "no key point"),
        ("1\n", "dam"),
    ):
        (tree / "parts" / "part_locs.txt").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_cub(root)
    (tree / "parts" / "part_locs.txt").unlink()
    with pytest.raises(DataNotFound, match=r"part_locs\.txt"):
        read_cub(root)
    (root / LIST).unlink()
    with pytest.raises(DataNotFound, match="validation list"):
        read_cub(root)
    with pytest.raises(DataNotFound, match="CUB-200-2011"):
        read_cub(root / "nowhere")
