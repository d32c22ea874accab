"""What GANgealing's training starts from: the mean and the directions of W, and for clusters the first codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gengauge.reference.gangealing.latents import DirectionInterpolator, kmeans_plus_plus
from gengauge.reference.gangealing.pca import SAMPLES, incremental_pca
from gengauge.reference.gangealing.training import smaller
from gengauge.reference.nets.perceptual import PerceptualLoss
from gengauge.reference.nets.stylegan2.rosinality import Generator

CLUSTER_SAMPLES = 50_000  # of W, among which the clusters' codes are chosen


@torch.no_grad()
def sample_w(g: Generator, count: int, generator: torch.Generator | None = None, chunk: int = 10_000) -> Tensor:
    """Latents w (count, D) of normal z, from a generator on the network's device."""
    device = next(g.parameters()).device
    sizes = [min(chunk, count - start) for start in range(0, count, chunk)]
    return torch.cat([g.style(torch.randn(size, g.z_dim, generator=generator, device=device)) for size in sizes])


def learner(
    g: Generator,
    ndirs: int,
    inject_index: int,
    num_heads: int = 1,
    loss: PerceptualLoss | None = None,
    size: int | None = None,
    generator: torch.Generator | None = None,
    samples: int = SAMPLES,
    cluster_samples: int = CLUSTER_SAMPLES,
) -> DirectionInterpolator:
    """A learner of `num_heads` codes: one starts at the mean of W, several where K-means++ puts them.

    For several, `loss` measures pictures brought to `size` px. Raises ValueError where it is missing.
    """
    found = incremental_pca(sample_w(g, samples, generator), ndirs)
    device = next(g.parameters()).device
    mean = found.mean.float().to(device)
    out = DirectionInterpolator(found.components.float().to(device), mean, g.n_latent, inject_index, num_heads)
    if num_heads > 1:
        if loss is None:
            raise ValueError("several codes are put where pictures differ, which needs a perceptual loss")
        w = sample_w(g, cluster_samples, generator)
        distances = picture_distances(g, loss, w, mean, inject_index, size or g.size)
        cpu = None if generator is None else torch.Generator().manual_seed(_seed(generator))
        out.assign(w[list(kmeans_plus_plus(num_heads, len(w), distances, cpu).indices)], found)
    return out


def picture_distances(
    g: Generator, loss: PerceptualLoss, w: Tensor, mean: Tensor, inject_index: int, size: int, chunk: int = 25
) -> Callable[[int], Tensor]:
    """A function of a sample: the distances (N,) of all samples' pictures to its own, for `kmeans_plus_plus`.

    A picture has the sample w in the first `inject_index` layers and `mean` (1, D) in the others, and the generator's
    stored noise. Pictures are made anew each time, for all of them would fill the memory.
    """

    def features(rows: Tensor) -> list[Tensor]:
        styles = g.latents([rows, mean.expand_as(rows)], inject_index)
        return loss.features(smaller(g.synthesis(styles, randomize_noise=False), size))

    def chunks() -> Iterator[Tensor]:
        yield from w.split(chunk)

    @torch.no_grad()
    def distances(centre: int) -> Tensor:
        own = features(w[centre : centre + 1])
        return torch.cat([loss.total(loss.between(features(rows), own)) for rows in chunks()])

    return distances


def _seed(generator: torch.Generator) -> int:
    """A seed for another device's generator, drawn from one."""
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
