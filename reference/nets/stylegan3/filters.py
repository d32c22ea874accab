"""StyleGAN3's low-pass filters and the plan of bands and sizes that they follow (sections 3.2 and 3.3, appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import signal, special
from torch import Tensor

MOST_TAPS = 2400


@dataclass(frozen=True)
class Band:
    """What one layer puts out. Frequencies in periods, rates in pixels, per side of the picture without its margin."""

    cutoff: float
    half_width: float  # of the transition band
    rate: int
    size: int  # px of a side, with the margin
    channels: int


def bands(
    img_resolution: int,
    img_channels: int,
    channel_base: int = 32768,
    channel_max: int = 512,
    num_layers: int = 14,
    num_critical: int = 2,
    first_cutoff: float = 2.0,
    first_stopband: float = 2**2.1,
    last_stopband_rel: float = 2**0.3,
    margin_size: int = 10,
) -> list[Band]:
    """The bands of the layers 0 to num_layers, the last being that of the picture.

    Cutoff and stopband grow geometrically up to the last `num_critical` layers, which are sampled critically.
    Raises ValueError for a resolution below 16 px or no power of two, and where a layer would have no channels.
    """
    if img_resolution < 16 or img_resolution & (img_resolution - 1):
        raise ValueError(f"StyleGAN3 makes pictures of 16, 32, 64, ... px, not {img_resolution}")
    if not 0 <= num_critical < num_layers:
        raise ValueError(f"of {num_layers} layers fewer are critical, and at least none, not {num_critical}")
    last_cutoff = img_resolution / 2
    growth = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1)
    cutoffs = first_cutoff * (last_cutoff / first_cutoff) ** growth
    stopbands = first_stopband * (last_cutoff * last_stopband_rel / first_stopband) ** growth
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, img_resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + 2 * margin_size
    sizes[-2:] = img_resolution
    channels = np.rint(np.minimum(channel_base / 2 / cutoffs, channel_max))
    channels[-1] = img_channels
    if channels.min() < 1:
        raise ValueError(f"channel_base {channel_base} leaves no channels at {img_resolution} px; give a larger one")
    return [
        Band(float(cutoff), float(half_width), int(rate), int(size), int(count))
        for cutoff, half_width, rate, size, count in zip(cutoffs, half_widths, rates, sizes, channels, strict=True)
    ]


def lowpass(num_taps: int, cutoff: float, width: float, rate: float, radial: bool = False) -> Tensor | None:
    """A Kaiser low-pass filter of sum 1: (num_taps,) float32, or `radial` (num_taps, num_taps); None for one tap.

    `cutoff` and `width`, that of the transition band, are in the unit of the sampling `rate`. Raises ValueError for
    filters longer than any published one's hundredfold, which only a damaged file asks for.
    """
    if not 1 <= num_taps <= MOST_TAPS:
        raise ValueError(f"a filter has 1 to {MOST_TAPS} taps, not {num_taps}")
    if num_taps == 1:
        return None
    if not radial:
        return _float(signal.firwin(num_taps, cutoff, width=width, fs=rate))
    places = (np.arange(num_taps) - (num_taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(places, places))
    centre = radius == 0
    radius[centre] = 1.0
    jinc = np.where(centre, cutoff, special.j1(2 * cutoff * np.pi * radius) / (np.pi * radius))
    beta = signal.kaiser_beta(signal.kaiser_atten(num_taps, width / (rate / 2)))
    window = np.kaiser(num_taps, beta)
    taps = jinc * np.outer(window, window)
    return _float(taps / taps.sum())


def resampling_padding(
    in_size: int, out_size: int, kernel: int, up: int, down: int, up_taps: int, down_taps: int
) -> tuple[int, int, int, int]:
    """Left, right, top and bottom padding of the upsampled map, so that the filtered map has `out_size` px a side.

    The convolution before it pads by kernel - 1. Negative numbers crop.
    """
    total = (out_size - 1) * down + 1 - (in_size + kernel - 1) * up + up_taps + down_taps - 2
    low = (total + up) // 2
    return low, total - low, low, total - low


def layer_names(bands: Sequence[Band]) -> list[str]:
    """The published names of the layers: `L0_36_1024`, `L1_36_1024`, ... with size and channels."""
    return [f"L{i}_{band.size}_{band.channels}" for i, band in enumerate(bands)]


def _float(taps: np.ndarray) -> Tensor:
    return torch.tensor(taps.astype(np.float32))
