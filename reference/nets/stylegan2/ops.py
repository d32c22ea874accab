"""StyleGAN2's operations: FIR resampling, resampling convolutions, modulation, activations.

Source: Karras et al., CVPR 2020, sections 2.2 and 4; padding rules as in the PyTorch port. All can be differentiated
twice, which R1 and path-length regularisation need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# The activation and the gain that keeps the variance of its output.
ACTIVATIONS = {
    "linear": (lambda x: x, 1.0),
    "relu": (F.relu, math.sqrt(2)),
    "lrelu": (lambda x: F.leaky_relu(x, 0.2), math.sqrt(2)),
    "tanh": (torch.tanh, 1.0),
    "sigmoid": (torch.sigmoid, 1.0),
    "elu": (F.elu, 1.0),
    "selu": (F.selu, 1.0),
    "softplus": (F.softplus, 1.0),
    "swish": (F.silu, math.sqrt(2)),
}


def setup_filter(taps: Sequence[float]) -> Tensor:
    """The outer product of FIR taps with sum 1: (len, len) float32."""
    f = torch.tensor(taps, dtype=torch.float32)
    f = f.outer(f)
    return f / f.sum()


def normalise_2nd_moment(x: Tensor) -> Tensor:
    """x / sqrt(mean x^2 + 1e-8) along dimension 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def bias_act(
    x: Tensor, bias: Tensor | None = None, act: str = "linear", gain: float | None = None, clamp: float | None = None
) -> Tensor:
    """Adds a bias along dimension 1, applies an activation, multiplies by its gain (or `gain`), clamps to +-clamp."""
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *([1] * (x.ndim - 2)))
    function, usual = ACTIVATIONS[act]
    gain = usual if gain is None else gain
    x = function(x)
    if gain != 1:
        # The gradient of a leaky ReLU looks at what came in, so that what comes out may be overwritten.
        x = x.mul_(gain) if act == "lrelu" else x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsamples by inserting zeros, pads or crops, filters, keeps every `down`-th pixel.

    x (N, C, H, W), f (h, w). `up` and `down` are one number or (x, y); `padding` one number or (left, right, top,
    bottom), negative to crop. The filter is convolved, or correlated with `flip_filter`.
    """
    (up_x, up_y), (down_x, down_y) = _pair(up), _pair(down)
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    n, channels, height, width = x.shape
    if up_x > 1 or up_y > 1:
        x = F.pad(x.reshape(n, channels, height, 1, width, 1), (0, up_x - 1, 0, 0, 0, up_y - 1))
        x = x.reshape(n, channels, height * up_y, width * up_x)
    edges = (0, 0)
    if left == right >= 0 and top == bottom >= 0:
        edges = (top, left)  # the convolution pads without a copy
    elif left or right or top or bottom:
        x = F.pad(x, (left, right, top, bottom))
    f = (f if flip_filter else f.flip(0, 1)).to(x.dtype) * gain
    kernels = f.expand(channels, 1, *f.shape).contiguous()
    return F.conv2d(x, kernels, stride=(down_y, down_x), padding=edges, groups=channels)


def filter2d(x: Tensor, f: Tensor) -> Tensor:
    """Convolves with f at the same size."""
    h, w = f.shape
    return upfirdn2d(x, f, padding=(w // 2, (w - 1) // 2, h // 2, (h - 1) // 2))


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Doubles (or more) a picture, filtered."""
    h, w = f.shape
    padding = ((w + up - 1) // 2, (w - up) // 2, (h + up - 1) // 2, (h - up) // 2)
    return upfirdn2d(x, f, up=up, padding=padding, gain=up**2)


def downsample2d(x: Tensor, f: Tensor, down: int = 2) -> Tensor:
    """Halves (or more) a picture, filtered; a side that `down` does not divide is first filled up with zeros."""
    h, w = f.shape
    more_h, more_w = (-side % down for side in x.shape[2:])
    padding = ((w - down + 1) // 2, (w - down) // 2 + more_w, (h - down + 1) // 2, (h - down) // 2 + more_h)
    return upfirdn2d(x, f, down=down, padding=padding)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    groups: int = 1,
    flip_weight: bool = True,
) -> Tensor:
    """A convolution with filtered up- or downsampling: as upsample, pad, convolve, downsample, in a cheaper order.

    x (N, I, H, W), w (O, I / groups, k, k). `flip_weight` correlates, as torch's conv2d does; without it the kernel is
    flipped, a convolution in the mathematical sense.
    """
    if up > 1 and down > 1:
        raise ValueError("a convolution resamples one way only: up or down")
    size, taps = w.shape[-1], f.shape[-1]
    correlated = w if flip_weight else w.flip(2, 3)
    if up == 1 and down == 1:
        return F.conv2d(x, correlated, padding=padding, groups=groups)
    if down > 1:
        before, after = padding + (taps - down + 1) // 2, padding + (taps - down) // 2
        edges = (before, after, before, after)
        if size == 1:
            return F.conv2d(upfirdn2d(x, f, down=down, padding=edges), correlated, groups=groups)
        return F.conv2d(upfirdn2d(x, f, padding=edges), correlated, stride=down, groups=groups)
    before, after = padding + (taps + up - 1) // 2, padding + (taps - up) // 2
    if size == 1:
        x = F.conv2d(x, correlated, groups=groups)
        return upfirdn2d(x, f, up=up, padding=(before, after, before, after), gain=up**2)
    # A transposed convolution spreads each pixel by the kernel, so it takes the flipped one.
    spread = w.flip(2, 3) if flip_weight else w
    spread = spread.view(groups, -1, *w.shape[1:]).transpose(1, 2).flatten(0, 1)
    before, after = before - (size - 1), after - (size - up)
    cropped = max(min(-before, -after), 0)
    x = F.conv_transpose2d(x, spread, stride=up, padding=cropped, groups=groups)
    edges = (before + cropped, after + cropped) * 2
    return upfirdn2d(x, f, padding=edges, gain=up**2)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    f: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    padding: int = 0,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused: bool = False,
) -> Tensor:
    """A convolution whose kernel each picture scales by its style, then normalises (equations 1 and 3).

    x (N, I, H, W), weight (O, I, k, k), styles (N, I), noise broadcast to the output. Scaling the input and the output
    instead of the kernel gives the same and shares one kernel among the pictures; `fused` makes a kernel a picture, as
    the port does outside of training, with its rounding.
    """
    if x.dtype == torch.float16 and demodulate:
        # Keeps half precision from overflowing; demodulation cancels both factors.
        weight = weight * (
            1 / math.sqrt(weight[0].numel()) / weight.flatten(1).norm(math.inf, dim=1)[:, None, None, None]
        )
        styles = styles / styles.norm(math.inf, dim=1, keepdim=True)
    if fused:
        kernels = weight * styles[:, None, :, None, None]
        if demodulate:
            kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        n, size = len(x), x.shape[2:]
        x = conv2d_resample(
            x.reshape(1, -1, *size),
            kernels.flatten(0, 1).to(x.dtype),
            f,
            up=up,
            padding=padding,
            groups=n,
            flip_weight=flip_weight,
        )
        x = x.view(n, -1, *x.shape[2:])
        return x if noise is None else x + noise.to(x.dtype)
    scale = None
    if demodulate:
        # The squared norm of each modulated kernel, without forming the kernels.
        scale = (styles.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
    x = x * styles.to(x.dtype)[:, :, None, None]
    x = conv2d_resample(x, weight.to(x.dtype), f, up=up, padding=padding, flip_weight=flip_weight)
    # Nobody else has the convolution's output: it is overwritten, for a new map costs more than the arithmetic.
    if scale is not None:
        x = x.mul_(scale.to(x.dtype)[:, :, None, None])
    return x if noise is None else x.add_(noise.to(x.dtype))


def minibatch_stddev(x: Tensor, group_size: int | None = 4, features: int = 1) -> Tensor:
    """Appends the deviation within groups of a batch as `features` constant maps: (N, C, H, W) to (N, C + F, H, W).

    Picture i belongs to group i mod (N / G), with G = min(group_size, N), or all N where it is None.
    """
    n, channels, height, width = x.shape
    group = n if group_size is None else min(group_size, n)
    if n % group or channels % features:
        raise ValueError(f"a batch of {n} cannot be cut into groups of {group}; choose a multiple of it")
    y = x.view(group, -1, features, channels // features, height, width)
    y = (y - y.mean(0)).square().mean(0)
    y = (y + 1e-8).sqrt().mean((2, 3, 4))
    return torch.cat([x, y[:, :, None, None].repeat(group, 1, height, width)], 1)


def _pair(x: int | Sequence[int]) -> tuple[int, int]:
    return (x, x) if isinstance(x, int) else (x[0], x[1])
