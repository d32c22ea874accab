"""What a method of one's own must offer, a protocol a paper: the text of each is the template of a method.

Bodies here do the least that has the right shape, so that a template runs as it is printed. Nothing need be inherited:
any object with these members, or a plain function under the name of one, is a method. Tensors are on the CPU where
nothing else is said, and may be returned on any device. A method is made anew in every job, which is one seed of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import Progress
from gengauge.benchmarks.core.openings import Contract


@dataclass(frozen=True)
class Work:
    """What a method is given beside its inputs.

    All that is random follows from `seed`. `device` is "cpu" or "cuda". `folder` is the method's own for this row and
    seed and outlives the job: a training that is killed can go on from what it left there.
    `progress(done, total, doing)` is shown to the user.
    """

    seed: int
    device: str
    folder: Path
    progress: Progress


# -- DiffAugment -------------------------------------------------------------------------------------------------------


class DiffAugment(Protocol):
    """An augmentation, with which the paper's GAN is trained, or a training of any GAN: delete the one you do not need.

    With both, `train` is what is measured. Only of an augmentation can it be told what the discriminator memorises.
    """

    name: str = "my-method"

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1], reals and fakes alike, to the same shape, differentiable in x.

        It takes the place of T in D's and G's steps. Draw from `generator` only, which is on the device of x.
        """
        return x

    def train(self, pictures: Tensor, labels: Tensor | None, work: Work) -> Callable[[int, torch.Generator], Tensor]:
        """Trains on pictures (N, 3, H, W) uint8, with labels (N,) int64 where the set has them.

        Returns what samples: a count and a generator (on the CPU) to pictures (count, 3, H, W) uint8.
        """
        return lambda count, generator: pictures[torch.randint(len(pictures), (count,), generator=generator)]


# -- SIGE --------------------------------------------------------------------------------------------------------------


class SIGE(Protocol):
    """A way to compute a network's output for an edited picture, knowing that of the original."""

    name: str = "my-method"

    def prepare(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[tuple[Tensor, ...], Tensor], Tensor]:
        """The pass on the original: `network(*inputs)`, the picture (1, C, H, W) first, on the device of the run.

        It is not timed, and the network is a copy of the method's own. Returns the pass on an edit: inputs with the
        edited picture, and bool (H, W), True where it differs, to what the network gives for them. That one is timed
        with all that it makes of the mask, and must agree with the dense network on an unchanged picture. Of a sampling
        each step is prepared by itself.
        """
        return lambda edited, mask: network(*edited)


# -- Custom Diffusion --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Concept:
    """What teaches a concept: its few pictures (N, 3, H, W) uint8, and its class by a word, with pictures and captions.

    `class_pictures` (M, 3, H, W) uint8 are of other members of the class.
    """

    pictures: Tensor
    category: str
    class_pictures: Tensor
    class_captions: tuple[str, ...]


class CustomDiffusion(Protocol):
    """A customisation of a text-to-image model by a few pictures of one concept."""

    name: str = "my-method"

    def customise(self, pipeline: Any, concept: Concept, work: Work) -> tuple[Any, str]:
        """Teaches a StableDiffusionPipeline of diffusers, the method's to change and on `work.device`, one concept.

        Returns the pipeline and the phrase that names the concept in prompts ("photo of a PHRASE"), for instance
        "<new1> cat" with a token that was added to its tokenizer.
        """
        return pipeline, concept.category


# -- GANgealing --------------------------------------------------------------------------------------------------------


class GANgealing(Protocol):
    """A way to find the same points in another picture. `fit`, which may be left out, learns from pictures before."""

    name: str = "my-method"

    def fit(self, pictures: Tensor, work: Work) -> None:
        """Called once, ahead of all transfers, with pictures (N, 3, S, S) in [-1, 1]; no test picture is among them."""

    def transfer(self, source: Tensor, target: Tensor, points: Tensor) -> Tensor:
        """Points (n, P, 2) of the source pictures (n, 3, S, S) in [-1, 1] to where they are in the target pictures.

        All are on the device of the run. A point is x, y in px, 0 being the middle of the first pixel; returned ones
        are (n, P, 2) float. Points that lie outside or are hidden are among them; they are not scored.
        """
        return points.clone()


# -- GAN Warping -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edits:
    """A few pictures of a generator and what they are to be like, on its device.

    Latents `ws` (n, num_ws, w_dim), pictures `before` and `after` (n, 3, R, R) in [-1, 1], and `grids` (n, 2, R, R):
    x and y in px from where each pixel of `after` was taken.
    """

    ws: Tensor
    before: Tensor
    after: Tensor
    grids: Tensor


class GANWarping(Protocol):
    """A way to teach a generator a warp, shown on a few of its pictures."""

    name: str = "my-method"

    def warp(self, generator: nn.Module, edits: Edits, work: Work) -> nn.Module:
        """A StyleGAN2, which is the method's to change and on `work.device`, to one that makes all its pictures so.

        `generator.synthesis(ws, noise_mode="const")` makes pictures (n, 3, R, R) about in [-1, 1] of latents; what is
        returned is asked in the same way.
        """
        return generator


# -- SDEdit ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prior:
    """The diffusion model that the table's rows edit with, for a method to use or not; it takes tensors of any device.

    `noise(x, t)` tells the noise (N, 3, R, R) in x, pictures in [-1, 1] that are noised to step t (N,) of 0, 1, ...;
    `abar` (steps,) is the share of the picture in the variance of x at each step.
    """

    noise: Callable[[Tensor, Tensor], Tensor]
    abar: Tensor


class SDEdit(Protocol):
    """An edit of guides, as paintings of strokes or composites are, to pictures that look real and stay like them."""

    name: str = "my-method"

    def edit(self, guides: Tensor, editable: Tensor | None, prior: Prior, work: Work) -> Tensor:
        """Guides (N, 3, R, R) uint8 to pictures (N, 3, R, R) uint8.

        `editable` (N, 1, R, R) bool is True where a composite was pasted and may change; None: all may.
        """
        return guides.clone()


# -- CUT ---------------------------------------------------------------------------------------------------------------


class CUT(Protocol):
    """A translator of pictures, taught by two sets of which none belong together."""

    name: str = "my-method"

    def train(self, sources: Tensor, targets: Tensor, work: Work) -> Callable[[Tensor], Tensor]:
        """Trains on sources (N, 3, S, S) and targets (M, 3, S, S), both uint8.

        Returns what translates: sources (n, 3, S, S) uint8 to pictures of the target's kind, (n, 3, S, S) uint8.
        """
        return lambda pictures: pictures


# ----------------------------------------------------------------------------------------------------------------------

CONTRACTS = {
    "diffaugment": Contract(DiffAugment, one_of=("augment", "train")),
    "sige": Contract(SIGE, required=("prepare",)),
    "custom_diffusion": Contract(CustomDiffusion, required=("customise",)),
    "gangealing": Contract(GANgealing, required=("transfer",)),
    "gan_warping": Contract(GANWarping, required=("warp",)),
    "sdedit": Contract(SDEdit, required=("edit",)),
    "cut": Contract(CUT, required=("train",)),
}
