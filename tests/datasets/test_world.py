"""The embedded world: drawing, rendering, labels, landmarks, captions and edits."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch

from gengauge.datasets import world
from gengauge.datasets.world import rendering

FRONT: dict[str, Any] = {
    "yaw": 0.0,
    "pitch": 0.0,
    "rotation": 0.0,
    "accessory": "none",
    "x": 0.5,
    "y": 0.5,
    "scale": 0.32,
}
LABEL = {name: k for k, name in enumerate(world.LABELS)}
MARK = {name: k for k, name in enumerate(world.LANDMARKS)}


def same(a: world.Rendering, b: world.Rendering) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(world.Rendering))


def test_a_scene_is_drawn_from_its_seed_and_index_only() -> None:
    assert world.scene(3, 5) == world.scene(3, 5)
    assert world.scene(3, 5) != world.scene(3, 6)
    assert dataclasses.replace(world.scene(3, 5), seed=4) != world.scene(4, 5)
    assert world.scenes(3, [5, 2]) == [world.scene(3, 5), world.scene(3, 2)]


def test_the_first_scene_is_the_same_on_every_machine() -> None:
    s = world.scene(0, 0)
    assert (s.species, s.fur_colour, s.pattern, s.eye_colour) == ("bear", "white", "plain", "brown")
    assert (s.fur_texture, s.background_texture) == (1321529464, 823941273)
    assert s.scale == pytest.approx(0.35480579390302147, abs=1e-12)


def test_draws_use_every_name_and_stay_in_the_middle_of_the_ranges() -> None:
    some = world.scenes(1, range(400))
    for field, names in world.CATEGORIES.items():
        drawn = {getattr(s, field) for s in some}
        assert len(drawn) >= len(names) - 4
        assert drawn <= set(names)
    assert {s.species for s in some} == set(world.SPECIES)
    assert {s.fur_colour for s in some} == set(world.NATURAL_FUR_COLOURS)
    assert {s.background for s in some} == set(world.BACKGROUNDS)


def test_fixing_an_attribute_leaves_the_others() -> None:
    for name in world.ATTRIBUTES:
        free = world.scene(7, 11)
        other = next(s for s in world.scenes(8, range(50)) if getattr(s, name) != getattr(free, name))
        fixed = world.scene(7, 11, **{name: getattr(other, name)})
        differing = [n for n in world.ATTRIBUTES if getattr(fixed, n) != getattr(free, n)]
        assert differing == [name]


def test_an_unusual_look_can_be_fixed_over_many_poses() -> None:
    look = {"species": "fox", "fur_colour": "blue", "pattern": "spotted", "eye_colour": "red"}
    some = world.scenes(2, range(20), **look)
    assert {(s.species, s.fur_colour, s.pattern, s.eye_colour) for s in some} == {tuple(look.values())}
    assert len({s.yaw for s in some}) == 20


@pytest.mark.parametrize(
    ("fixed", "error", "words"),
    [
        ({"species": "cow"}, ValueError, ["species", "cow", "rabbit"]),
        ({"scale": 3.0}, ValueError, ["scale", "3.0", "0.12", "0.6"]),
        ({"yaw": float("nan")}, ValueError, ["yaw", "nan"]),
        ({"yaw": "left"}, ValueError, ["yaw", "left", "0.7"]),
        ({"fur_texture": -1}, ValueError, ["fur_texture", "-1"]),
        ({"colour": "red"}, TypeError, ["colour", "fur_colour", "eye_colour"]),
    ],
)
def test_bad_attributes_are_named(fixed: dict[str, Any], error: type[Exception], words: list[str]) -> None:
    for attempt in (lambda: world.scene(0, 0, **fixed), lambda: world.edit(world.scene(0, 0), 32, **fixed)):
        with pytest.raises(error) as caught:
            attempt()
        assert all(word in str(caught.value) for word in words)


def test_bad_calls_are_refused() -> None:
    some = world.scenes(0, range(1))
    for size in (15, 513):
        with pytest.raises(ValueError, match=rf"size: {size} .* 16 to 512"):
            world.render(some, size)
    with pytest.raises(ValueError, match="at least one scene"):
        world.render([], 32)
    with pytest.raises(ValueError, match="seed and index"):
        world.scene(-1, 0)


@pytest.mark.parametrize("size", [16, 33, 101, 512])
def test_sizes(size: int) -> None:
    r = world.render(world.scenes(0, range(2)), size)
    assert r.images.shape == (2, 3, size, size)
    assert r.images.dtype == torch.float32
    assert r.images.min() >= -1
    assert r.images.max() <= 1
    assert r.labels.shape == (2, size, size)
    assert r.labels.dtype == torch.uint8
    assert r.landmarks.shape == (2, len(world.LANDMARKS), 2)
    assert r.visible.shape == (2, len(world.LANDMARKS))
    assert r.visible.dtype == torch.bool


def test_a_picture_does_not_depend_on_its_batch() -> None:
    some = world.scenes(4, range(70))
    # Extremes too: what is painted on cut-outs must fit them whatever the others' sizes are.
    for k, (yaw, rotation, scale) in enumerate(itertools.product((-0.7, 0.7), (0.8, -2.4), (0.12, 0.6))):
        some[k] = dataclasses.replace(some[k], yaw=yaw, rotation=rotation, scale=scale, eye_size=1.4, pitch=0.4)
    together = world.render(some, 48)
    for k in (*range(12), 40, 69):
        alone = world.render([some[k]], 48)
        row = world.Rendering(*(getattr(together, f.name)[k : k + 1] for f in dataclasses.fields(world.Rendering)))
        assert same(alone, row), k


def test_a_picture_does_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    some = world.scenes(5, range(6))
    whole = world.render(some, 150)
    monkeypatch.setattr(rendering, "_JOB_PIXELS", 2000)
    assert same(whole, world.render(some, 150))


def test_pictures_are_the_rendered_ones_in_bytes() -> None:
    images = world.render(world.scenes(6, [3, 1], species="cat"), 32).images
    bytes_ = world.pictures(6, [3, 1], 32, species="cat")
    assert bytes_.dtype == torch.uint8
    assert (bytes_.float() - (images + 1) * 127.5).abs().max() <= 0.5001
    assert torch.equal(
        world.to_uint8(torch.tensor([-1.0, 1.0, 0.0, 2.0])).int(), torch.tensor([0, 255, 128, 255]).int()
    )


def test_results_can_be_trained_on() -> None:
    weight = torch.ones(1, requires_grad=True)
    images = world.render(world.scenes(0, range(1)), 16).images
    (images * weight).sum().backward()
    assert weight.grad is not None


def test_each_kind_looks_different() -> None:
    for name in ("species", "fur_colour", "pattern", "eye_colour", "expression", "background"):
        renders = [
            world.render([world.scene(0, 1, **{**FRONT, name: value})], 48).images for value in world.CATEGORIES[name]
        ]
        assert all((a - b).abs().max() > 0.15 for a, b in itertools.combinations(renders, 2)), name


def test_labels_of_every_class_are_present() -> None:
    r = world.render(world.scenes(0, range(5), **{**FRONT, "accessory": "glasses"}), 64)
    for labels in r.labels:
        assert len(labels.unique()) >= 8
    assert set(r.labels.unique().tolist()) == set(range(len(world.LABELS)))
    shares = [(r.labels == LABEL[name]).float().mean() for name in ("head", "body", "background")]
    assert min(shares) > 0.05


@pytest.mark.parametrize("species", world.SPECIES)
def test_landmarks_lie_on_their_parts(species: str) -> None:
    size = 256
    some = world.scenes(9, range(12), species=species, accessory="none")
    r = world.render(some, size)
    expected = {
        "left_eye": {"eyes"}, "right_eye": {"eyes"}, "left_eye_outer": {"eyes"}, "right_eye_inner": {"eyes"},
        "nose": {"nose"}, "left_ear_tip": {"ears"}, "right_ear_tip": {"ears"}, "left_ear_base": {"ears"},
        "left_cheek": {"head"}, "right_cheek": {"head"}, "forehead": {"head"},
        "chin": {"muzzle", "mouth"}, "mouth": {"mouth", "muzzle"},
    }  # fmt: skip
    hits = total = 0
    for k, (name, allowed) in itertools.product(range(len(some)), expected.items()):
        if r.visible[k, MARK[name]]:
            x, y = r.landmarks[k, MARK[name]].long().tolist()
            total += 1
            hits += world.LABELS[r.labels[k, y, x]] in allowed
    assert total > 100
    assert hits >= 0.97 * total


def test_left_is_left_and_turning_hides_and_shifts() -> None:
    front, turned = world.render([world.scene(0, 0, **{**FRONT, "yaw": yaw}) for yaw in (0.0, 0.65)], 64).landmarks
    for part in ("ear_tip", "eye", "cheek", "mouth_corner"):
        assert front[MARK[f"left_{part}"], 0] < 32 < front[MARK[f"right_{part}"], 0]
    assert turned[MARK["nose"], 0] > front[MARK["nose"], 0] + 5
    r = world.render([world.scene(0, 0, **{**FRONT, "yaw": 0.65, "species": "cat"})], 64)
    assert r.visible[0, MARK["left_cheek"]]
    assert not r.visible[0, MARK["right_cheek"]]


def test_hidden_and_outside_landmarks_are_not_visible() -> None:
    hat, bare, moved = world.render(
        [
            world.scene(0, 0, **{**FRONT, "accessory": "hat"}),
            world.scene(0, 0, **FRONT),
            world.scene(0, 0, **{**FRONT, "x": 1.1}),
        ],
        64,
    ).visible
    assert bare[MARK["forehead"]]
    assert not hat[MARK["forehead"]]
    assert bare.sum() > moved.sum()
    assert not moved[MARK["right_eye"]]


def test_landmarks_and_labels_scale_with_the_picture() -> None:
    some = world.scenes(2, range(8))
    small, large = world.render(some, 32), world.render(some, 64)
    assert torch.allclose(large.landmarks, 2 * small.landmarks)
    assert torch.equal(large.visible, small.visible)
    coarse = torch.nn.functional.avg_pool2d(large.images, 2)
    assert (coarse - small.images).abs().mean() < 0.05


def test_a_rotated_picture_is_rotated() -> None:
    s = world.scene(1, 2, **{**FRONT, "species": "dog"})
    upright, turned = world.render([s, dataclasses.replace(s, rotation=torch.pi / 2)], 64).landmarks
    centre = torch.tensor([32.0, 32.0 - 0.02 * 0.32 * 64])
    offset = upright - centre
    assert torch.allclose(turned - centre, torch.stack([-offset[:, 1], offset[:, 0]], dim=1), atol=1e-3)


def test_an_edited_expression_changes_only_the_face() -> None:
    s = world.scene(0, 3, **{**FRONT, "expression": "neutral", "species": "bear"})
    e = world.edit(s, 64, expression="surprised")
    assert torch.equal(e.changed, (world.to_uint8(e.before.images) != world.to_uint8(e.after.images))[0].any(0))
    assert 0.01 < e.changed.float().mean() < 0.2
    ys, xs = e.changed.nonzero(as_tuple=True)
    assert xs.min() > 16
    assert xs.max() < 48
    assert ys.min() > 16
    assert ys.max() < 52
    assert torch.equal(e.before.images[..., :10], e.after.images[..., :10])
    moved = (e.before.landmarks - e.after.landmarks)[0].norm(dim=1)
    assert moved[MARK["chin"]] > 1
    assert moved[MARK["left_ear_tip"]] == 0


def test_an_added_accessory_changes_its_own_pixels() -> None:
    for accessory in ("hat", "collar", "glasses"):
        e = world.edit(world.scene(0, 3, **FRONT), 96, accessory=accessory)
        own = e.after.labels[0] == LABEL["accessory"]
        assert own.sum() > 60
        assert e.changed[own].float().mean() > 0.95
        assert e.changed.float().mean() < 0.25
        assert not (e.before.labels == LABEL["accessory"]).any()


def test_moved_ears_are_changed_pixels() -> None:
    e = world.edit(world.scene(0, 3, **{**FRONT, "species": "rabbit", "ear_spread": -0.8}), 96, ear_spread=0.8)
    tips = [MARK["left_ear_tip"], MARK["right_ear_tip"]]
    assert ((e.before.landmarks - e.after.landmarks)[0, tips].norm(dim=1) > 4).all()
    for shown in (e.before, e.after):
        x, y = shown.landmarks[0, tips[0]].long().tolist()
        assert e.changed[y, x]


def test_nothing_changes_without_a_change() -> None:
    s = world.scene(0, 3)
    assert not world.edit(s, 32, species=s.species).changed.any()


def test_captions_name_what_is_shown() -> None:
    sentences = set()
    for s in world.scenes(3, range(300)):
        text = world.caption(s)
        assert text == world.caption(s)
        words = text.replace(",", "").split()
        assert s.species in words
        assert s.fur_colour in words
        assert (s.pattern in words) == (s.pattern != "plain" or "plain" in words)
        if s.accessory != "none":
            assert s.accessory in words
            assert s.accessory_colour in words
        else:
            assert not {"collar", "hat", "glasses"} & set(words)
        assert {"plain": "plain", "gradient": "gradient", "meadow": "meadow", "night": "night", "bricks": "bricks"}[
            s.background
        ] in words
        for a, b in itertools.pairwise(text.split()):
            assert a not in ("a", "an") or (a == "an") == (b[0] in "aeiou")
        sentences.add(text)
    assert len(sentences) == 300


def test_captions_of_an_edit_differ_in_the_edited_words() -> None:
    s = world.scene(3, 4, fur_colour="black", species="cat")
    after = world.caption(dataclasses.replace(s, species="dog"))
    assert world.caption(s).replace("cat", "dog") == after
