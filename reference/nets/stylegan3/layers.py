"""StyleGAN3's layers: Fourier features, the modulated convolution with a filtered leaky ReLU, the mapping network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.kernels.filtered_lrelu import filtered_lrelu
from gengauge.reference.nets.stylegan2 import layers as stylegan2
from gengauge.reference.nets.stylegan2.layers import FullyConnectedLayer
from gengauge.reference.nets.stylegan3.filters import Band, lowpass, resampling_padding


class MappingNetwork(stylegan2.MappingNetwork):
    """StyleGAN2's with two layers; the running mean `w_avg` moves on demand only."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
    ) -> None:
        super().__init__(z_dim, c_dim, w_dim, num_ws, num_layers, lr_multiplier=lr_multiplier, w_avg_beta=w_avg_beta)

    def forward(
        self,
        z: Tensor | None,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """(N, num_ws, w_dim); truncation as StyleGAN2's. `update_emas` moves `w_avg`, in training mode."""
        return super().forward(z, c, truncation_psi, truncation_cutoff, skip_w_avg_update=not update_emas)


class SynthesisInput(nn.Module):
    """w (N, w_dim) to Fourier features (N, C, size, size), turned and shifted by w and by `transform` (appendix F).

    `transform` (3, 3) is the user's: a rotation, and a translation in picture sides, of the sampled plane.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, w_dim: int, band: Band) -> None:
        super().__init__()
        self.band = band
        freqs = torch.randn(band.channels, 2)
        radii = freqs.square().sum(1, keepdim=True).sqrt()
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * band.cutoff
        self.weight = nn.Parameter(torch.randn(band.channels, band.channels))
        self.affine = FullyConnectedLayer(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias[0] = 1.0  # the rotation by no angle
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(band.channels) - 0.5)

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cos, sin, right, down = t.unbind(1)
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        rotation = _matrices([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])
        translation = _matrices([[one, zero, -right], [zero, one, -down], [zero, zero, one]])
        transform = rotation @ translation @ self.transform
        phases = self.phases + (self.freqs @ transform[:, :2, 2:]).squeeze(2)  # (N, C)
        freqs = self.freqs @ transform[:, :2, :2]  # (N, C, 2)
        # What a transform lifts above the band is faded out, to leave nothing above the Nyquist rate.
        excess = (freqs.norm(dim=2) - self.band.cutoff) / (self.band.rate / 2 - self.band.cutoff)
        amplitudes = (1 - excess).clamp(0, 1)
        size = self.band.size
        theta = (0.5 * size / self.band.rate) * torch.eye(2, 3, dtype=w.dtype, device=w.device)
        grid = F.affine_grid(theta[None], [1, 1, size, size], align_corners=False).view(1, size * size, 2)
        waves = torch.sin((grid @ freqs.transpose(1, 2) + phases[:, None]) * (2 * math.pi)) * amplitudes[:, None]
        x = waves @ (self.weight / math.sqrt(self.band.channels)).T
        return x.transpose(1, 2).reshape(len(w), -1, size, size)


class SynthesisLayer(nn.Module):
    """A modulated convolution, then a leaky ReLU between up- and downsampling: (N, I, h, h) to (N, O, h', h').

    `is_torgb` is the last layer, to pictures: linear and without demodulation and filters.
    """

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(
        self,
        w_dim: int,
        before: Band,
        after: Band,
        is_torgb: bool,
        is_critically_sampled: bool,
        use_fp16: bool,
        conv_kernel: int = 3,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool = False,
        conv_clamp: float | None = 256,
        magnitude_ema_beta: float = 0.999,
    ) -> None:
        super().__init__()
        self.is_torgb, self.use_fp16 = is_torgb, use_fp16
        self.conv_clamp, self.magnitude_ema_beta = conv_clamp, magnitude_ema_beta
        self.affine = FullyConnectedLayer(w_dim, before.channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(after.channels, before.channels, conv_kernel, conv_kernel))
        self.bias = nn.Parameter(torch.zeros(after.channels))
        self.register_buffer("magnitude_ema", torch.ones([]))

        middle_rate = max(before.rate, after.rate) * (1 if is_torgb else lrelu_upsampling)
        self.up, self.down = middle_rate // before.rate, middle_rate // after.rate
        up_taps = 1 if is_torgb or self.up == 1 else filter_size * self.up
        down_taps = 1 if is_torgb or self.down == 1 else filter_size * self.down
        radial = use_radial_filters and not is_critically_sampled
        self.register_buffer("up_filter", lowpass(up_taps, before.cutoff, 2 * before.half_width, middle_rate))
        self.register_buffer("down_filter", lowpass(down_taps, after.cutoff, 2 * after.half_width, middle_rate, radial))
        sizes = before.size, after.size
        self.padding = resampling_padding(*sizes, conv_kernel, self.up, self.down, up_taps, down_taps)

    def forward(self, x: Tensor, w: Tensor, update_emas: bool = False) -> Tensor:
        """`update_emas` moves the mean square of what comes in, in training mode."""
        if update_emas and self.training:
            magnitude = x.detach().float().square().mean()
            self.magnitude_ema.copy_(magnitude.lerp(self.magnitude_ema, self.magnitude_ema_beta))
        half = self.use_fp16 and x.device.type == "cuda"
        x = x.to(torch.float16 if half else torch.float32)
        styles = self.affine(w)
        if self.is_torgb:
            styles = styles / math.sqrt(self.weight[0].numel())
        x = modulated_conv2d(x, self.weight, styles, self.magnitude_ema.rsqrt(), demodulate=not self.is_torgb)
        return filtered_lrelu(
            x,
            self.up_filter,
            self.down_filter,
            self.bias.to(x.dtype),
            up=self.up,
            down=self.down,
            padding=self.padding,
            gain=1.0 if self.is_torgb else math.sqrt(2),
            slope=1.0 if self.is_torgb else 0.2,
            clamp=self.conv_clamp,
        )


def modulated_conv2d(
    x: Tensor, weight: Tensor, styles: Tensor, input_gain: Tensor | None = None, demodulate: bool = True
) -> Tensor:
    """A convolution whose kernel each picture scales by its style, then normalises; pads by k - 1 (appendix F).

    x (N, I, H, W), weight (O, I, k, k), styles (N, I), input_gain a number. Kernels are brought to unit mean square
    first, and so are the batch's styles, so that the length of a kernel has no effect.
    """
    if demodulate:
        weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
    gain = styles.new_ones(()) if input_gain is None else input_gain
    if weight.shape[2:] == (1, 1):
        # A matrix for each picture costs less than passes over the maps.
        kernels = weight[:, :, 0, 0] * styles[:, None]
        if demodulate:
            kernels = kernels * (kernels.square().sum(2, keepdim=True) + 1e-8).rsqrt()
        return torch.bmm((kernels * gain).to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:])
    # Scaling the input and the output instead of the kernel shares one kernel among the pictures.
    out = F.conv2d(x * (styles * gain).to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=weight.shape[-1] - 1)
    if not demodulate:
        return out
    # The squared norm of each modulated kernel, without forming the kernels.
    scale = (styles.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
    return out * scale.to(x.dtype)[:, :, None, None]


def _matrices(rows: list[list[Tensor]]) -> Tensor:
    """Entries (N,) to matrices (N, rows, columns)."""
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
