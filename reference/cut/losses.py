"""What CUT and CycleGAN share in training: adversarial losses, the linear schedule, the pool of earlier fakes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GANMode = Literal["lsgan", "vanilla", "wgangp", "nonsaturating"]


def gan_loss(scores: Tensor, real: bool, mode: GANMode = "lsgan") -> Tensor:
    """How far scores (N, ...) are from those of reals or of fakes, a number; nonsaturating: one a picture (N,).

    Raises ValueError for another mode.
    """
    if mode == "lsgan":
        return (scores - float(real)).square().mean()
    sign = -1.0 if real else 1.0
    if mode == "vanilla":
        return F.softplus(sign * scores).mean()  # binary cross entropy of a sigmoid
    if mode == "wgangp":
        return sign * scores.mean()
    if mode == "nonsaturating":
        return F.softplus(sign * scores).flatten(1).mean(1)
    raise ValueError(f"a GAN loss is lsgan, vanilla, wgangp or nonsaturating, not {mode!r}")


@dataclass(frozen=True)
class LinearSchedule:
    """A learning rate that stays for `n_epochs` and then falls evenly; `epoch_count` is the number of the first epoch.

    After the last epoch it would be 0 one epoch later, hence the + 1 below.
    """

    n_epochs: int = 200
    n_epochs_decay: int = 200
    epoch_count: int = 1

    def factor(self, completed: int) -> float:
        """What the rate is multiplied by when `completed` epochs are over; never negative, unlike the published one."""
        late = max(0, completed + self.epoch_count - self.n_epochs)
        return max(0.0, 1.0 - late / (self.n_epochs_decay + 1))

    @property
    def epochs(self) -> int:
        """All epochs of a training that starts with the first."""
        return self.n_epochs + self.n_epochs_decay


LINEAR_400 = LinearSchedule()  # CUT's


def set_rate(
    optimisers: Iterable[torch.optim.Optimizer],
    lr: float,
    schedule: LinearSchedule,
    iteration: int,
    iterations_per_epoch: int | None,
) -> None:
    """Sets the learning rate of an iteration, counted from 0; without a length of epochs it is `lr` throughout."""
    rate = lr if iterations_per_epoch is None else lr * schedule.factor(iteration // iterations_per_epoch)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate


def fastest_format(device: str, networks: str = "resnet") -> torch.memory_format:
    """The layout in which networks train fastest: on a CPU norms and paddings of residual ones copy channels_last."""
    copied = torch.device(device).type == "cpu" and networks == "resnet"
    return torch.contiguous_format if copied else torch.channels_last


def place(network: nn.Module, device: str, memory_format: torch.memory_format) -> None:
    """Moves a network to a device in training mode; what has four dimensions gets the memory format."""
    network.to(device).train()
    for value in (*network.parameters(), *network.buffers()):
        if value.ndim == 4:  # SinCUT's weights of five dimensions can have no other format
            value.data = value.data.contiguous(memory_format=memory_format)


def adam(parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], device: str) -> torch.optim.Adam:
    """Adam as published; on a GPU in one kernel.

    On a CPU that kernel rounds otherwise, and what it does to biases that a norm takes out again, whose gradients are
    noise, moves the other weights by 1e-5 in three steps.
    """
    return torch.optim.Adam(list(parameters), lr, betas, fused=torch.device(device).type == "cuda")


def halves(reals: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """The pictures of A and of B from one batch (2 `batch`, C, H, W). Raises ValueError for another number."""
    if len(reals) != 2 * batch:
        raise ValueError(f"an iteration takes {batch} reals of A and as many of B after them, not {len(reals)} in all")
    return reals[:batch], reals[batch:]


@dataclass(frozen=True)
class PoolDraws:
    """What is random in one visit to a full pool: `uniform` decides whether a place, `index`, is exchanged."""

    uniform: float
    index: int


class ImagePool(nn.Module):
    """`size` earlier fakes of a side, of which D is shown one by chance (Shrivastava et al. 2017); 0: no pool.

    Its pictures are a buffer, so that they are saved with a training, which the published code does not do.
    """

    pictures: Tensor
    held: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("pictures", torch.zeros(size))
        self.register_buffer("held", torch.zeros((), dtype=torch.long))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(f"{prefix}pictures")
        if saved is not None and len(saved) == self.size:  # the pictures' own shape is known from the first batch on
            self.pictures = torch.zeros_like(saved, device=self.pictures.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @torch.no_grad()
    def query(
        self, fakes: Tensor, generator: torch.Generator | None = None, draws: Iterable[PoolDraws] | None = None
    ) -> Tensor:
        """Fakes (N, C, H, W), each of them or, with probability a half once the pool is full, an earlier one for it.

        Every picture of a batch takes the next of `draws` once the pool is full; without them they come from the
        generator. Raises ValueError where the draws do not suffice.
        """
        if not self.size:
            return fakes.detach()
        if self.pictures.shape[1:] != fakes.shape[1:]:
            if self.held:
                raise ValueError(
                    f"the pool holds pictures {tuple(self.pictures.shape[1:])}, not {tuple(fakes.shape[1:])}"
                )
            self.pictures = fakes.new_zeros(self.size, *fakes.shape[1:])
        given = None if draws is None else iter(draws)
        out = []
        for fake in fakes.detach():
            held = int(self.held)
            if held < self.size:
                self.pictures[held] = fake
                self.held += 1
                out.append(fake)
                continue
            draw = _drawn(self.size, generator) if given is None else next(given, None)
            if draw is None:
                raise ValueError("the pool is full and there is no draw left for a fake")
            if draw.uniform > 0.5:
                out.append(self.pictures[draw.index].clone())
                self.pictures[draw.index] = fake
            else:
                out.append(fake)
        return torch.stack(out)


def _drawn(size: int, generator: torch.Generator | None) -> PoolDraws:
    device = "cpu" if generator is None else generator.device
    uniform = torch.rand((), generator=generator, device=device)
    return PoolDraws(uniform.item(), int(torch.randint(size, (), generator=generator, device=device)))
