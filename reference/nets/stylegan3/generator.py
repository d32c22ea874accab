"""StyleGAN3's generator: mapping and synthesis, configurations T (translation) and R (rotation equivariant)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.reference.nets.stylegan3.filters import bands, layer_names
from gengauge.reference.nets.stylegan3.layers import MappingNetwork, SynthesisInput, SynthesisLayer

# What the published configurations say beside the defaults.
CONFIG_T: Mapping[str, Any] = {
    "channel_base": 32768,
    "channel_max": 512,
    "conv_kernel": 3,
    "use_radial_filters": False,
}
CONFIG_R: Mapping[str, Any] = {
    "channel_base": 65536,
    "channel_max": 1024,
    "conv_kernel": 1,
    "use_radial_filters": True,
}


class SynthesisNetwork(nn.Module):
    """ws (N, num_ws, w_dim) to pictures (N, img_channels, R, R), about [-1, 1].

    Layers are the modules `L{i}_{size}_{channels}`, in `layer_names`; what each returns is its feature, so that a
    forward hook can take it. The `num_fp16_res` highest rates work in half precision, on a GPU only.
    """

    def __init__(
        self,
        w_dim: int,
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
        output_scale: float = 0.25,
        num_fp16_res: int = 4,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.output_scale = output_scale
        self.num_ws = num_layers + 2  # the input, the layers, and the one to pictures
        plan = bands(
            img_resolution,
            img_channels,
            channel_base,
            channel_max,
            num_layers,
            num_critical,
            first_cutoff,
            first_stopband,
            last_stopband_rel,
            margin_size,
        )
        self.layer_names = layer_names(plan)
        self.input = SynthesisInput(w_dim, plan[0])
        for i, (name, band) in enumerate(zip(self.layer_names, plan, strict=True)):
            layer = SynthesisLayer(
                w_dim,
                plan[max(i - 1, 0)],
                band,
                is_torgb=i == num_layers,
                is_critically_sampled=i >= num_layers - num_critical,
                use_fp16=band.rate * 2**num_fp16_res > img_resolution,
                **layer_kwargs,
            )
            setattr(self, name, layer)

    def forward(
        self,
        ws: Tensor,
        noise_mode: str = "random",
        noise: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Pictures of ws (N, num_ws, w_dim).

        `noise_mode`, `noise` and `generator` are StyleGAN2's and are ignored, for StyleGAN3 has no noise: both
        generators can be called alike. `update_emas` moves the layers' `magnitude_ema`, in training mode.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be (N, {self.num_ws}, {self.w_dim}), not {tuple(ws.shape)}")
        first, *others = ws.float().unbind(1)
        x = self.input(first)
        for name, w in zip(self.layer_names, others, strict=True):
            x = getattr(self, name)(x, w, update_emas)
        return (x if self.output_scale == 1 else x * self.output_scale).float()


class Generator(nn.Module):
    """Latents (N, z_dim) and labels (N, c_dim) to pictures (N, img_channels, R, R), about [-1, 1].

    As configured T or R by `synthesis_kwargs`, for instance `CONFIG_R`; both have `mapping_kwargs={"num_layers": 2}`.
    """

    def __init__(
        self,
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_resolution: int = 256,
        img_channels: int = 3,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str = "random",
        noise: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """Mapping, then synthesis; what the arguments mean is told there."""
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas)
        return self.synthesis(ws, noise_mode, noise, generator, update_emas)
