"""What a person sets of a training, and how it becomes the method's recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gengauge.reference.gan_warping.low_rank import RANK
from gengauge.reference.gan_warping.training import Recipe

_WHOLE = {"layer": (0, 1000), "rank": (1, 512), "batch": (1, 64), "iterations": (1, 100_000)}


@dataclass(frozen=True)
class Settings:
    """How an edit is trained. Raises ValueError for what cannot be."""

    layer: int
    rank: int
    batch: int
    iterations: int
    learning_rate: float
    style_mixing: bool

    def __post_init__(self) -> None:
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ValueError(f"the learning rate must be a number above 0 and up to 1, not {rate!r}")
        if not isinstance(self.style_mixing, bool):
            raise ValueError(f"style_mixing must be true or false, not {self.style_mixing!r}")

    @classmethod
    def of(cls, recipe: Recipe) -> Settings:
        """What a recipe of one layer sets; of a whole weight the published rank. Raises ValueError for more layers."""
        if not recipe.layers.isdecimal():
            raise ValueError(f"the page changes one layer, not {recipe.layers}")
        mixing = recipe.stylemix is not None
        rank = RANK if recipe.rank is None else recipe.rank
        return cls(int(recipe.layers), rank, recipe.batch, recipe.iterations, recipe.lr, mixing)

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with these settings; everything else stays."""
        return replace(
            recipe,
            layers=str(self.layer),
            rank=self.rank,
            batch=self.batch,
            iterations=self.iterations,
            lr=self.learning_rate,
            stylemix=recipe.stylemix if self.style_mixing else None,
        )
