"""The losses: of a concept's pictures inside of their masks, of its class's, and as latent diffusion's code logs them.

Errors, predictions and targets are (N, C, h, w), masks (N, 1, h, w) of 0 and 1 at the latents' size, times (N,) int64
from 0, `abar` (T,) the schedule's share of signal. Source: Kumari et al. 2023, section 3 and the released code.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Weighting = Literal["official_x4", "mean"]
Prediction = Literal["epsilon", "v_prediction"]


def scaled_linear_abar(start: float = 0.00085, end: float = 0.012, steps: int = 1000) -> Tensor:
    """The schedule of Stable Diffusion, (steps,) float32: betas whose square roots rise evenly."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


def noised(x0: Tensor, noise: Tensor, t: Tensor, abar: Tensor) -> Tensor:
    """Latents at times t: sqrt(abar) x0 + sqrt(1 - abar) noise."""
    signal, spread = _levels(t, abar)
    return signal * x0 + spread * noise


def target(x0: Tensor, noise: Tensor, t: Tensor, abar: Tensor, prediction: Prediction = "epsilon") -> Tensor:
    """What the network is to tell: the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x0 (Salimans and Ho 2022).

    Raises ValueError for another prediction.
    """
    if prediction not in get_args(Prediction):
        raise ValueError(f"predictions are {' or '.join(get_args(Prediction))}, not {prediction!r}")
    if prediction == "epsilon":
        return noise
    signal, spread = _levels(t, abar)
    return signal * noise - spread * x0


def masked_errors(predicted: Tensor, wanted: Tensor, mask: Tensor, weighting: Weighting = "official_x4") -> Tensor:
    """The squared error inside of each picture's mask, (N,).

    `official_x4` divides the sum over channels by the number of the mask's cells, so it is C times the mean; published
    code weighs it so against the mean of the class's pictures. An empty mask gives NaN. Raises ValueError for another
    weighting and for a mask of another shape.
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"weightings are {' or '.join(get_args(Weighting))}, not {weighting!r}")
    if mask.shape != (len(predicted), 1, *predicted.shape[2:]):
        raise ValueError(f"masks are (N, 1, h, w) like the latents {tuple(predicted.shape)}, not {tuple(mask.shape)}")
    summed = ((predicted.float() - wanted.float()).square() * mask).sum((1, 2, 3))
    cells = mask.sum((1, 2, 3)) * (predicted.shape[1] if weighting == "mean" else 1)
    return summed / cells


def masked_loss(predicted: Tensor, wanted: Tensor, mask: Tensor, weighting: Weighting = "official_x4") -> Tensor:
    """The mean over pictures of `masked_errors`. Raises what that raises."""
    return masked_errors(predicted, wanted, mask, weighting).mean()


def prior_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared error of the class's pictures, which have no mask."""
    return (predicted.float() - wanted.float()).square().mean()


def p_losses(predicted: Tensor, wanted: Tensor, mask: Tensor, t: Tensor, abar: Tensor) -> dict[str, Tensor]:
    """The losses as latent diffusion's code logs them: `loss`, `loss_simple` and `loss_vlb`.

    The second is the first, as logvar is 0, and the third has weight 0 there.
    """
    errors = masked_errors(predicted, wanted, mask)
    weights = vlb_weights(abar).to(errors.device)[t]
    return {"loss": errors.mean(), "loss_simple": errors.mean(), "loss_vlb": (weights * errors).mean()}


def vlb_weights(abar: Tensor) -> Tensor:
    """The weights (T,) float32 of the variational bound for a network of noise (Ho et al. 2020, equation 12).

    The first, which is infinite, is the second.
    """
    full = abar.double()
    before = torch.cat([full.new_ones(1), full[:-1]])
    alpha = full / before
    posterior = (1 - alpha) * (1 - before) / (1 - full)
    weights = (1 - alpha).square() / (2 * posterior * alpha * (1 - full))
    weights[0] = weights[1]
    return weights.float()


def _levels(t: Tensor, abar: Tensor) -> tuple[Tensor, Tensor]:
    kept = abar[t].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()
