"""Training a concept: keys and values of cross-attention and the embeddings of new tokens, all else frozen.

What it is compared with is trained here too: Textual Inversion, which learns the tokens alone, and DreamBooth, which
learns the whole U-Net and no token. Source: Kumari et al. 2023, section 3, and the released code in its two forms.
`diffusers`: a batch is pictures of the concept and behind them as many of its class, whose loss is weighed by
`prior_weight`. `compvis`: both kinds are mixed by chance and all have the concept's loss, so `prior_weight` is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gengauge.reference.custom_diffusion.attention import Which, quick_self_attention, stop_first_token, trained_names
from gengauge.reference.custom_diffusion.conditioning import conditions
from gengauge.reference.custom_diffusion.losses import Weighting, masked_errors, noised, prior_loss, target
from gengauge.reference.custom_diffusion.models import Models, latents_of, moments_of
from gengauge.reference.custom_diffusion.tokens import TABLE, Gradients, keep_rows, table, trained_ids

Average = Callable[[Iterable[nn.Parameter]], None]
Code = Literal["diffusers", "compvis"]
Trained = Literal[Which, "tokens"]
Decay = Literal["all", "trained"]
UNET = "unet"


@dataclass(frozen=True)
class Recipe:
    """How a concept is trained; the defaults are those of the paper and of the released diffusers script.

    `trained` tells which of the U-Net's weights learn beside the new tokens; with `tokens` none of them do.
    `batch` counts the concept's pictures of a step, in all processes; with a `prior_weight` as many class pictures come
    on top. `clip` is the largest norm of the gradient, or None. `concepts` is for `compvis`: a batch holds so many
    equal parts, whose losses are added. `warmup` counts steps in which the rate rises evenly from 0. `decay` tells
    which rows of the token table AdamW's weight decay shrinks: all, as published, or those alone that learn. With
    `bfloat16` the networks work in that type under autocast; weights and losses stay in float32.
    Raises ValueError where the numbers do not go together.
    """

    trained: Trained = "kv"
    iterations: int = 250
    batch: int = 4
    lr: float = 8e-5
    warmup: int = 0
    prior_weight: float | None = 1.0
    weighting: Weighting = "official_x4"
    concepts: int = 1
    clip: float | None = 1.0
    stop_first_token: bool = True
    gradients: Gradients = "all"
    decay: Decay = "all"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if min(self.batch, self.iterations, self.concepts) < 1 or not self.lr > 0 or self.warmup < 0:
            raise ValueError("batch, iterations and concepts are 1 or more, the rate is above 0, the warm-up 0 or more")
        for word, known in (
            (self.trained, Trained),
            (self.weighting, Weighting),
            (self.gradients, Gradients),
            (self.decay, Decay),
        ):
            if word not in get_args(known):
                raise ValueError(f"a recipe says {' or '.join(get_args(known))}, not {word!r}")
        if (self.prior_weight or 0) < 0 or self.weight_decay < 0 or (self.clip is not None and not self.clip > 0):
            raise ValueError("no weight is negative, and gradients are cut at a norm above 0, or None")
        if self.concepts > 1 and self.prior_weight is not None:
            raise ValueError(
                "parts of a batch are added by the compvis code, which has no prior weight: set it to None"
            )
        if self.batch % self.concepts:
            raise ValueError(f"a batch of {self.batch} has no {self.concepts} equal parts")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.lr * min(1.0, step / self.warmup) if self.warmup else self.lr


def scaled_rate(
    base: float = 1e-5,
    batch: int = 2,
    processes: int = 1,
    accumulate: int = 1,
    prior: bool = True,
    code: Code = "diffusers",
) -> float:
    """The rate as published code scales it; `batch` is that of a process.

    `diffusers` counts a batch of concept pictures twice where there is a prior; in `compvis` it holds both kinds.
    Raises ValueError for another code.
    """
    if code not in get_args(Code):
        raise ValueError(f"codes are {' or '.join(get_args(Code))}, not {code!r}")
    return base * accumulate * batch * processes * (2 if prior and code == "diffusers" else 1)


# Steps, rates and batches of the README and of the configurations; eight pictures a step in all.
SINGLE = Recipe()
JOINT = Recipe(iterations=500)
FACES = Recipe(trained="crossattn", iterations=750, lr=4e-5)
COMPVIS_SINGLE = Recipe(iterations=300, batch=8, prior_weight=None, clip=None)
COMPVIS_JOINT = Recipe(iterations=550, batch=8, prior_weight=None, clip=None, concepts=2)
# The paper's baselines, for pictures that are not resized at random; it takes the first's settings and 5000 steps.
# Gal et al. 2022, section 4: a rate of 5e-3 for each picture of a step, 8 of them on two GPUs (their configuration for
# Stable Diffusion has 2 a GPU, and the same rate a picture). A token begins as a word for the object.
TEXTUAL_INVERSION = Recipe(
    trained="tokens",
    iterations=5000,
    batch=8,
    lr=0.04,
    prior_weight=None,
    weighting="mean",
    clip=None,
    stop_first_token=False,
    decay="trained",
)
# Ruiz et al. 2023: rate, steps and prior's weight for Stable Diffusion; the batch is that of `SINGLE`. Captions hold a
# rare word of the vocabulary, class pictures are the model's own, and the text encoder is frozen, as the paper has it.
DREAMBOOTH = Recipe(trained="all", iterations=1000, lr=5e-6, weighting="mean", stop_first_token=False)
RARE_WORD = "sks"


@dataclass(frozen=True)
class Draws:
    """What is random in a step of N pictures; what is None comes from the generator that the step is given.

    `vae_noise` and `noise` (N, C, h, w), `times` (N,) int64 from 0.
    """

    vae_noise: Tensor | None = None
    noise: Tensor | None = None
    times: Tensor | None = None


@dataclass(frozen=True)
class Predicted:
    """The network's output and what it should be (N, C, h, w), and the masks (N, 1, h, w)."""

    output: Tensor
    wanted: Tensor
    mask: Tensor


NOTHING = Draws()


def joined(pictures: Tensor, masks: Tensor) -> Tensor:
    """A batch as `Training.step` takes it: the masks as one more channel, enlarged to the pictures' size.

    `pictures` are (N, 3, H, W) in [-1, 1], or posteriors (N, 2 C, h, w) that were cached; `masks` (N, 1, h, w) of 0 and
    1 at the latents' size. Raises ValueError for sizes that do not go together and for an empty mask.
    """
    sizes = tuple(pictures.shape[2:]), tuple(masks.shape[2:])
    if masks.shape[:2] != (len(pictures), 1) or any(
        p % m or p // m != sizes[0][0] // sizes[1][0] for p, m in zip(*sizes, strict=True)
    ):
        raise ValueError(
            f"masks are (N, 1, h, w) with whole numbers of pixels to a cell, not {tuple(masks.shape)} for "
            f"{tuple(pictures.shape)}"
        )
    if not bool(masks.flatten(1).any(1).all()):
        raise ValueError("a mask is empty, so its picture has no loss: draw again, or train at 72 px or more")
    return torch.cat([pictures, F.interpolate(masks.to(pictures), sizes[0], mode="nearest")], 1)


class Training:
    """The training of one concept, or of several together: their pictures in one batch, a token for each.

    The networks are changed in place: cross-attention gets its processor and the trained parameters learn; all others
    are frozen. `networks` holds what is trained, by its names in the models, so that states on disk are small.
    """

    def __init__(
        self, recipe: Recipe, models: Models, tokens: Sequence[int] = (), device: str | torch.device = "cpu"
    ) -> None:
        """`tokens` are the ids of new tokens in the text encoder's table (`tokens.add_rows`), none for no new token.

        In SDXL they are the same in the tables of both encoders.

        Raises ValueError for ids that the table does not have, tokens without a text encoder, no tokens where they
        alone learn, and trained weights in another type than float32.
        """
        if recipe.trained == "tokens" and not tokens:
            raise ValueError("nothing to train by 'tokens': there is no new token")
        self.recipe, self.models, self.device, self.iteration = recipe, models, torch.device(device), 0
        for network in models.parts().values():
            network.to(self.device).requires_grad_(False)
        if recipe.stop_first_token:
            stop_first_token(models.unet)
        if recipe.bfloat16 and self.device.type == "cpu":
            quick_self_attention(models.unet)
        self.abar = models.abar.to(self.device)
        own = dict(models.unet.named_parameters())
        names = [] if recipe.trained == "tokens" else trained_names(own, recipe.trained)
        self.unet_parameters = {name: own[name] for name in names}
        self.tokens, self.tables = list(tokens), self._tables(tokens)
        named = {f"{UNET}.{name}": parameter for name, parameter in self.unet_parameters.items()}
        named |= {f"{encoder}.{TABLE}.weight": rows for encoder, rows in self.tables.items()}
        if bad := [name for name, parameter in named.items() if parameter.dtype != torch.float32]:
            raise ValueError(f"{bad[0]} is {named[bad[0]].dtype}: weights are trained in float32, load the model in it")
        for parameter in named.values():
            parameter.requires_grad_(True)
        self.parameters = list(named.values())
        self.networks = {"delta": _holder(named)}
        whole = {"params": list(self.unet_parameters.values()), "weight_decay": recipe.weight_decay}
        groups = [whole] if names else []
        if self.tables:
            decay = recipe.weight_decay if recipe.decay == "all" else 0.0
            groups.append({"params": list(self.tables.values()), "weight_decay": decay})
        self.optimisers = {"delta": torch.optim.AdamW(groups, recipe.rate(0), recipe.betas, recipe.adam_eps)}

    @property
    def table(self) -> nn.Parameter | None:
        """The text encoder's table of tokens where some learn, of SDXL the first encoder's."""
        return next(iter(self.tables.values()), None)

    def _tables(self, tokens: Sequence[int]) -> dict[str, nn.Parameter]:
        """The tables of all text encoders by their names, none without new tokens."""
        if not tokens:
            return {}
        if self.models.text_encoder is None:
            raise ValueError("new tokens are learnt through the text encoder, which the models lack")
        found = {name: table(encoder).get_parameter("weight") for name, encoder in self.models.text_encoders.items()}
        for rows in found.values():
            if len(set(tokens)) < len(tokens) or not all(0 <= index < len(rows) for index in tokens):
                raise ValueError(
                    f"the table has {len(rows)} rows; new tokens are different ones of them, not {list(tokens)}"
                )
        return found

    def scalars(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold: nothing."""
        return {}

    def delta(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """What was learnt: the U-Net's tensors by name, in its order, and the tokens' rows (n, D), None without.

        Rows of two encoders stand side by side, the first one's first.
        """
        unet = {name: parameter.detach().clone() for name, parameter in self.unet_parameters.items()}
        rows = [table.detach()[self.tokens] for table in self.tables.values()]
        return unet, torch.cat(rows, 1) if rows else None

    def step(
        self,
        reals: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
        *,
        average: Average = lambda parameters: None,
        draws: Draws = NOTHING,
    ) -> dict[str, Tensor]:
        """One iteration: the losses and the gradient's norm before it is cut.

        `reals` are pictures or their cached posteriors with masks (`joined`); `labels` the captions' ids (N, L) int64,
        or, where the text encoder is frozen, its features (N, L, D); for SDXL ids with pictures' sizes (N, 3, L) as of
        `conditioning.with_sizes`. With a prior the second half is the class's.
        """
        losses = self.gradients(reals, labels, generator, draws=draws)
        average(self.parameters)
        return {**losses, "gradient_norm": self.update()}

    def gradients(
        self, reals: Tensor, labels: Tensor, generator: torch.Generator | None = None, draws: Draws = NOTHING
    ) -> dict[str, Tensor]:
        """Puts the gradients of a batch into the trained parameters, none in other tokens' rows; the losses."""
        self.optimisers["delta"].zero_grad()
        losses = self.losses(self.predict(reals, labels, generator, draws))
        losses["loss"].backward()
        for rows in self.tables.values():
            assert rows.grad is not None
            keep_rows(rows.grad, trained_ids(self.tokens, self.recipe.gradients))
        return {name: loss.detach() for name, loss in losses.items()}

    def update(self) -> Tensor:
        """Cuts the gradients and takes the optimiser's step; their norm before."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or float("inf"))
        rate = self.recipe.rate(self.iteration)
        for group in self.optimisers["delta"].param_groups:
            group["lr"] = rate
        if self.recipe.decay == "trained":
            with torch.no_grad():
                for rows in self.tables.values():
                    rows[trained_ids(self.tokens, self.recipe.gradients)] *= 1 - rate * self.recipe.weight_decay
        self.optimisers["delta"].step()
        self.iteration += 1
        return norm

    def predict(
        self, reals: Tensor, labels: Tensor, generator: torch.Generator | None = None, draws: Draws = NOTHING
    ) -> Predicted:
        """What the U-Net makes of a batch. Raises ValueError for batches of another form."""
        moments, mask = self._moments(reals)
        shape = (len(moments), moments.shape[1] // 2, *moments.shape[2:])
        vae_noise, noise = (self._normal(x, shape, generator) for x in (draws.vae_noise, draws.noise))
        t = draws.times
        if t is None:
            t = torch.randint(0, len(self.abar), shape[:1], generator=generator, device=self.device)
        x0 = latents_of(moments, vae_noise, self.models.scaling_factor)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            output = self.models.unet(noised(x0, noise, t, self.abar), t, **self._text(labels)).sample
        return Predicted(output, target(x0, noise, t, self.abar, self.models.prediction), mask)

    def losses(self, predicted: Predicted) -> dict[str, Tensor]:
        """`loss` and its parts: `instance`, and with a prior `prior`, unweighted.

        Raises ValueError for a batch without equal parts.
        """
        r, output, wanted, mask = self.recipe, predicted.output, predicted.wanted, predicted.mask
        parts = r.concepts if r.prior_weight is None else 2
        if len(output) % parts:
            raise ValueError(f"a batch of {len(output)} has no {parts} equal parts, which this recipe asks for")
        if r.prior_weight is None:
            # Means of equal parts, added.
            loss = r.concepts * masked_errors(output, wanted, mask, r.weighting).mean()
            return {"loss": loss, "instance": loss}
        half = len(output) // 2
        instance = masked_errors(output[:half], wanted[:half], mask[:half], r.weighting).mean()
        prior = prior_loss(output[half:], wanted[half:])
        return {"loss": instance + r.prior_weight * prior, "instance": instance, "prior": prior}

    def _moments(self, reals: Tensor) -> tuple[Tensor, Tensor]:
        """Posteriors and masks of a batch as `joined` made it."""
        pictures, mask = reals[:, :-1], reals[:, -1:]
        if pictures.shape[1] == 2 * self.models.unet.config.in_channels:
            return pictures, mask
        if pictures.shape[1] != 3:
            raise ValueError(
                f"a batch is pictures of 3 channels or posteriors of {2 * self.models.unet.config.in_channels}, and a "
                f"mask (see `joined`), not {tuple(reals.shape)}"
            )
        if self.models.vae is None:
            raise ValueError("pictures need the autoencoder, which the models lack: give it, or cached posteriors")
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            moments = moments_of(self.models.vae, pictures).float()
        cell = pictures.shape[-1] // moments.shape[-1]
        return moments, mask[:, :, ::cell, ::cell]

    def _text(self, labels: Tensor) -> dict[str, Any]:
        """What the U-Net is told of ids, or of features (N, L, D) that were handed over."""
        if labels.is_floating_point():
            if self.tables:
                raise ValueError("tokens learn through the text encoder: give the captions' ids, not cached features")
            if self.models.text_encoder_2 is not None:
                raise ValueError("SDXL is told more than features of text: give the captions' ids, with sizes")
            return {"encoder_hidden_states": labels}
        if self.models.text_encoder is None:
            raise ValueError("captions' ids need the text encoder, which the models lack: give it, or cached features")
        return conditions(list(self.models.text_encoders.values()), labels)

    def _normal(self, given: Tensor | None, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.randn(shape, generator=generator, device=self.device) if given is None else given


def _holder(named: dict[str, nn.Parameter]) -> nn.Module:
    """A module whose parameters are these, by these names; they are shared with the networks that they are of."""
    root = nn.Module()
    for name, parameter in named.items():
        *path, last = name.split(".")
        here = root
        for part in path:
            if part not in here._modules:
                here.add_module(part, nn.Module())
            here = here.get_submodule(part)
        here.register_parameter(last, parameter)
    return root
