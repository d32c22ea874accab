"""LPIPS with its published weights, as a metric and as a loss."""

from __future__ import annotations

from gengauge.datasets import weights
from gengauge.reference.nets.lpips import LPIPS, Trunk, from_carrier_keys
from gengauge.reference.nets.perceptual import PerceptualLoss


def load_lpips(trunk: Trunk, device: str) -> LPIPS:
    """LPIPS in eval mode, frozen. Raises WeightsNotFound."""
    network = LPIPS(trunk)
    network.load_state_dict(from_carrier_keys(weights.load(f"lpips-{trunk}")), strict=False)
    return network.eval().requires_grad_(False).to(device)


def perceptual_loss(trunk: Trunk, device: str) -> PerceptualLoss:
    """LPIPS as a loss of trainings. Raises WeightsNotFound."""
    return PerceptualLoss("lpips", load_lpips(trunk, device))
