"""The target's latent code, which GANgealing learns: a point in a few principal directions of W, one for each cluster.

Source: Peebles et al. 2022, section 3 ("truncated" parametrisation) and 3.3 (clusters).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gengauge.reference.gangealing.pca import PrincipalDirections


class DirectionInterpolator(nn.Module):
    """Codes c_k = lat_mean + coefficients_k @ directions, mixed with a picture's own latent in the first layers.

    Only `coefficients` (K, ndirs) are trained, from 0 on; `directions` (ndirs, D) and `lat_mean` (1, D) are buffers.
    The names are those of published checkpoints.
    """

    lat_mean: Tensor
    directions: Tensor

    def __init__(
        self, directions: Tensor, lat_mean: Tensor, n_latent: int, inject_index: int = 5, num_heads: int = 1
    ) -> None:
        super().__init__()
        if directions.ndim != 2 or lat_mean.shape != (1, directions.shape[1]):
            raise ValueError(
                f"directions are (ndirs, D) and the mean (1, D), not {tuple(directions.shape)}, {tuple(lat_mean.shape)}"
            )
        if not 0 <= inject_index <= n_latent:
            raise ValueError(f"inject_index lies within 0 and {n_latent}, not {inject_index}")
        self.n_latent, self.inject_index = n_latent, inject_index
        self.coefficients = nn.Parameter(torch.zeros(num_heads, len(directions)))
        self.register_buffer("directions", directions.detach().clone())
        self.register_buffer("lat_mean", lat_mean.detach().clone())

    @torch.no_grad()
    def assign(self, codes: Tensor, pca: PrincipalDirections) -> None:
        """Starts from given codes (K, D), for instance the centres of K-means++, as far as the directions hold them."""
        self.coefficients.copy_(pca.encode(codes))

    def codes(self, lat_mean: Tensor | None = None) -> Tensor:
        """The codes (K, D), around the given mean (1, D) instead of the stored one."""
        return (self.lat_mean if lat_mean is None else lat_mean) + self.coefficients @ self.directions

    def forward(self, w: Tensor, psi: float, lat_mean: Tensor | None = None, unfold: bool = False) -> Tensor:
        """Target latents W+ (N K, n_latent, D) of latents w (N, D), a picture's K targets being neighbours.

        The first `inject_index` layers take c + psi (w - c), the others w. `unfold` gives (N, K, n_latent, D). Raises
        ValueError for another shape.
        """
        if w.ndim != 2 or w.shape[1] != self.directions.shape[1]:
            raise ValueError(f"latents are (N, {self.directions.shape[1]}), not {tuple(w.shape)}")
        mixed = self.codes(lat_mean).lerp(w[:, None], psi)  # (N, K, D)
        own = w[:, None].expand_as(mixed)
        layers = [mixed[:, :, None].expand(-1, -1, self.inject_index, -1)]
        layers.append(own[:, :, None].expand(-1, -1, self.n_latent - self.inject_index, -1))
        found = torch.cat(layers, 2)
        return found if unfold else found.flatten(0, 1)


@dataclass(frozen=True)
class Centres:
    """The rows that K-means++ chose, in order, and the probabilities (N,) by which all but the first were drawn."""

    indices: tuple[int, ...]
    probabilities: tuple[Tensor, ...]


def kmeans_plus_plus(
    count: int,
    samples: int,
    distances: Callable[[int], Tensor],
    generator: torch.Generator | None = None,
    picks: Sequence[int] = (),
) -> Centres:
    """Centres among samples by K-means++ (Arthur and Vassilvitskii 2007), without the iterations of K-means after it.

    `distances` gives the perceptual distances (samples,) of all samples' pictures to one of them. The first centre is
    uniform, each next one is drawn in proportion to the squared distance to the nearest centre so far. `picks` are the
    first choices where they are known; the others come from the generator, on the CPU. The learner's pictures are made
    of w in the first layers and the mean w in the others.

    Raises ValueError for more centres than samples, for a pick that is no sample and for distances of another shape.
    """
    if not 1 <= count <= samples:
        raise ValueError(f"{count} centres cannot be chosen among {samples} samples")
    if any(not 0 <= pick < samples for pick in picks):
        raise ValueError(f"the picks {list(picks)} must be samples, 0 to {samples - 1}")
    known = iter(picks)
    first = next(known, None)
    chosen = [int(torch.randint(samples, (), generator=generator)) if first is None else first]
    nearest, probabilities = torch.full((samples,), torch.inf), []
    while len(chosen) < count:
        found = distances(chosen[-1]).detach().flatten().cpu()
        if found.shape != nearest.shape:
            raise ValueError(f"distances are ({samples},), not {tuple(found.shape)}")
        nearest = nearest.minimum(found)
        weights = nearest.double().square()
        if not weights.sum() > 0:
            weights = torch.ones_like(weights)  # all pictures alike: any will do
        probability = weights / weights.sum()
        probabilities.append(probability.float())
        pick = next(known, None)
        chosen.append(int(torch.multinomial(probability, 1, generator=generator)) if pick is None else pick)
    return Centres(tuple(chosen), tuple(probabilities))
