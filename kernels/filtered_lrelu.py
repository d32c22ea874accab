"""The leaky ReLU between up- and downsampling that keeps StyleGAN3 free of aliasing (Karras et al. 2021, section 3.2).

`way`: "torch" is the definition, "native" C++ on the CPU; "auto" takes the fastest that can serve the tensors given.
Both agree to rounding, in values and in gradients.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gengauge.kernels import native
from gengauge.kernels.ways import Way, choose

Padding = tuple[int, int, int, int]  # left, right, top, bottom; negative to crop


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int | Padding = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    way: Way = "auto",
) -> Tensor:
    """Adds a bias, upsamples, applies a leaky ReLU, multiplies by `gain`, clamps to +-clamp, downsamples.

    x (N, C, H, W), b (C,); filters `fu` and `fd` are (t,), separable, or (t, t), and convolved; None for no filter.
    Upsampling puts up - 1 zeros after each pixel, pads with zeros, and filters with a gain of up^2; downsampling
    filters and keeps every `down`-th pixel. Both filter where the whole filter fits. "native" takes a separable `fu`;
    it can be differentiated once, by x and b.

    Raises ValueError for other shapes and for several types or devices, RuntimeError where the named way cannot serve.
    """
    edges: Padding = (padding,) * 4 if isinstance(padding, int) else padding
    _check(x, fu, fd, b, up, down, edges)
    call = (up, down, edges, gain, slope, clamp)
    if (fu is None and fd is None and up == down == 1 and way == "auto") or not x.numel():
        return _definition(x, fu, fd, b, *call)  # nothing is filtered
    chosen = choose(way, x.detach(), None if b is None else b.detach(), fu, fd)
    obstacle = _obstacle(x, fu, chosen)
    if obstacle:
        if way != "auto":
            raise RuntimeError(f"way={way!r} cannot serve: {obstacle}; way='auto' takes one that can")
        chosen = "torch"
    if chosen == "torch":
        return _definition(x, fu, fd, b, *call)
    bias = x.new_zeros(x.shape[1]) if b is None else b
    return cast(Tensor, _FilteredLrelu.apply(x, bias, fu, fd, *call))


def _check(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, up: int, down: int, padding: Padding
) -> None:
    if x.ndim != 4 or (b is not None and b.shape != x.shape[1:2]):
        found = None if b is None else tuple(b.shape)
        raise ValueError(f"maps are (N, C, H, W) and biases (C,), not {tuple(x.shape)} and {found}")
    if b is not None and (b.dtype != x.dtype or b.device != x.device):
        raise ValueError(f"maps and biases are alike, not {x.dtype} on {x.device} and {b.dtype} on {b.device}")
    if up < 1 or down < 1:
        raise ValueError(f"up and down are at least 1, not {up} and {down}")
    for name, f in (("fu", fu), ("fd", fd)):
        if f is not None and (f.ndim not in (1, 2) or not f.numel() or f.shape[0] != f.shape[-1]):
            raise ValueError(f"{name} is (t,) or (t, t), not {tuple(f.shape)}")
        if f is not None and f.device != x.device:
            raise ValueError(f"{name} is on {f.device} and the maps on {x.device}")
    left, right, top, bottom = (max(0, -edge) for edge in padding)
    cropped = left + right > x.shape[3] * up or top + bottom > x.shape[2] * up
    if cropped or min(*_middle(x, fu, up, padding)) < (1 if fd is None else len(fd)):
        raise ValueError(f"maps of {tuple(x.shape[2:])} px are too small for their filters and padding {padding}")


def _middle(x: Tensor, fu: Tensor | None, up: int, padding: Padding) -> tuple[int, int]:
    """Height and width of the upsampled map."""
    left, right, top, bottom = padding
    lost = 0 if fu is None else len(fu) - 1
    return x.shape[2] * up + top + bottom - lost, x.shape[3] * up + left + right - lost


def _obstacle(x: Tensor, fu: Tensor | None, chosen: str) -> str | None:
    """Why a way other than the definition cannot serve, beyond what `choose` knows."""
    if chosen == "torch":
        return None
    if chosen == "triton":
        return "there is no such kernel of this function"
    if x.dtype != torch.float32:
        return f"it takes float32, not {x.dtype}"
    return "its fu is separable, (t,)" if fu is not None and fu.ndim == 2 else None


def _definition(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: int,
    down: int,
    padding: Padding,
    gain: float,
    slope: float,
    clamp: float | None,
) -> Tensor:
    if b is not None:
        x = x + b[:, None, None]
    n, channels, height, width = x.shape
    if up > 1:
        x = F.pad(x.reshape(n, channels, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(n, channels, height * up, width * up)
    # A separable filter is applied along both axes, and so is its gain.
    x = _filtered(F.pad(x, padding), None if fu is None else fu * up**fu.ndim)
    x = x if fu is not None else x * up**2
    x = F.leaky_relu(x, slope) * gain
    x = x if clamp is None else x.clamp(-clamp, clamp)
    return _filtered(x, fd, down)


def _filtered(x: Tensor, f: Tensor | None, stride: int = 1) -> Tensor:
    """Convolved with a separable or a full filter where it fits; every `stride`-th pixel of that."""
    if f is None:
        return x[:, :, ::stride, ::stride]
    channels = x.shape[1]
    flipped = f.flip([*range(f.ndim)]).to(x.dtype)
    if f.ndim == 2:
        kernel = flipped.expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=stride, groups=channels)
    kernel = flipped.expand(channels, 1, 1, -1)
    x = F.conv2d(x, kernel, stride=(1, stride), groups=channels)
    return F.conv2d(x, kernel.transpose(2, 3), stride=(stride, 1), groups=channels)


class _Call(ctypes.Structure):
    """`FilteredLrelu` of native/filtered_lrelu.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("planes", "channels", "height", "width")),
        *((name, ctypes.c_int64) for name in ("middle_height", "middle_width", "out_height", "out_width")),
        *((name, ctypes.c_int64) for name in ("up", "down", "up_taps", "down_taps", "down_full", "left", "top")),
        *((name, ctypes.c_float) for name in ("gain", "slope", "clamp")),
        ("threads", ctypes.c_int32),
    )


class _FilteredLrelu(torch.autograd.Function):
    """The native way. The backward pass upsamples again instead of keeping the map in the middle."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        b: Tensor,
        fu: Tensor | None,
        fd: Tensor | None,
        up: int,
        down: int,
        padding: Padding,
        gain: float,
        slope: float,
        clamp: float | None,
    ) -> Tensor:
        n, channels, height, width = x.shape
        middle = _middle(x, fu, up, padding)
        # As correlated; both passes of the separable filter have the gain of one axis.
        one = torch.ones(1)
        up_filter = (one if fu is None else fu.float().flip(0)).mul(up).contiguous()
        down_filter = one if fd is None else fd.float().flip([*range(fd.ndim)]).contiguous()
        out_height, out_width = ((side - len(down_filter)) // down + 1 for side in middle)
        ctx.call = _Call(
            n * channels, channels, height, width, *middle, out_height, out_width,
            up, down, len(up_filter), len(down_filter), int(down_filter.ndim == 2), padding[0], padding[2],
            gain, slope, math.inf if clamp is None else clamp, torch.get_num_threads(),
        )  # fmt: skip
        x, b = x.contiguous(), b.contiguous()
        ctx.save_for_backward(x, b, up_filter, down_filter)
        out = x.new_empty(n, channels, out_height, out_width)
        _run("gengauge_filtered_lrelu", ctx.call, x, b, up_filter, down_filter, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        ctx.call.threads = torch.get_num_threads()
        out = torch.empty_like(saved[0])
        _run("gengauge_filtered_lrelu_gradient", ctx.call, *saved, gradients[0].contiguous(), out)
        # The bias is not in the padding, so that its gradient is the sum of that by the map.
        by_bias = out.sum((0, 2, 3)) if ctx.needs_input_grad[1] else None
        return out, by_bias, *[None] * 8


def _run(name: str, call: _Call, *tensors: Tensor) -> None:
    _function(name, len(tensors))(ctypes.byref(call), *(tensor.data_ptr() for tensor in tensors))


@cache
def _function(name: str, tensors: int) -> Any:
    library = native.library()
    assert library is not None  # the way was chosen because it is there
    found = getattr(library, name)
    found.argtypes = [ctypes.POINTER(_Call), *[ctypes.c_void_p] * tensors]
    found.restype = None
    return found
