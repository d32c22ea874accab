"""Captions: a plain English sentence that names what a scene shows."""

from __future__ import annotations

from gengauge.datasets.world.scenes import Scene

_MIX = 0x9E3779B97F4A7C15
_EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "neutral": ("calm", "quiet"),
    "smiling": ("smiling", "happy"),
    "laughing": ("laughing", "cheerful"),
    "sad": ("sad", "unhappy"),
    "surprised": ("surprised", "astonished"),
    "sleepy": ("sleepy", "drowsy"),
    "angry": ("angry", "cross"),
}
_BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "plain": ("in front of a plain {colour} wall", "on a plain {colour} background"),
    "gradient": ("on a {colour} gradient background", "in front of a {colour} gradient"),
    "meadow": ("in a green meadow", "on a meadow with flowers"),
    "night": ("under the night sky", "at night under the stars"),
    "bricks": ("in front of a {colour} wall of bricks", "by a wall of {colour} bricks"),
}
_WEARING: dict[str, tuple[str, ...]] = {
    "collar": ("wearing a {colour} collar", "with a {colour} collar"),
    "hat": ("wearing a {colour} hat", "in a {colour} hat"),
    "glasses": ("wearing {colour} glasses", "with {colour} glasses"),
}
_TEMPLATES: tuple[str, ...] = (
    "a {mood} {coat} {species} with {eyes} eyes{wearing} {place}",
    "a photo of a {coat} {species}{wearing} {place}, looking {mood}",
    "a {coat} {species}{wearing} with {eyes} eyes, {place}",
    "a portrait of a {mood} {coat} {species}{wearing}, with {eyes} eyes, {place}",
    "{place}, a {mood} {coat} {species} with {eyes} eyes{wearing}",
    "a picture of a {coat} {species}{wearing} that looks {mood}, {place}",
)


def caption(scene: Scene) -> str:
    """One sentence that names species, coat, accessory and background, and often eyes and expression.

    The wording depends only on the scene's seed and index, so a scene that was edited keeps its sentence and changes
    only the words for what was edited.
    """
    state = ((scene.seed * 1_000_003 + scene.index + 1) * _MIX) % (1 << 64)
    choices = iter([(state >> shift) % 60 for shift in (58, 50, 42, 34, 26)])

    def pick(options: tuple[str, ...]) -> str:
        return options[next(choices) % len(options)]

    template = pick(_TEMPLATES)
    mood = pick(_EXPRESSIONS[scene.expression])
    place = pick(_BACKGROUNDS[scene.background]).format(colour=scene.background_colour)
    wearing = pick(_WEARING[scene.accessory]) if scene.accessory != "none" else ""
    coat = scene.fur_colour if scene.pattern == "plain" else f"{scene.pattern} {scene.fur_colour}"
    if wearing:
        # After "with ... eyes" a second "with" would read as a list without its "and".
        wearing = " " + wearing.format(colour=scene.accessory_colour).replace("with ", "wearing ", 1)
    text = template.format(
        mood=mood, coat=coat, species=scene.species, eyes=scene.eye_colour, wearing=wearing, place=place
    )
    return _with_articles(text)


def _with_articles(text: str) -> str:
    """``text`` with "an" for "a" before a vowel."""
    words = text.split(" ")
    for k in range(len(words) - 1):
        if words[k] == "a" and words[k + 1][0] in "aeiou":
            words[k] = "an"
    return " ".join(words)
