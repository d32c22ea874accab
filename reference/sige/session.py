"""Edits of a picture through a network that a user has, as quickly as this machine can: `SparseSession`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gengauge.kernels.tile_conv import ConvWay
from gengauge.reference.sige.engine import Engine
from gengauge.reference.sige.masks import EditMasks, MaskRecipe
from gengauge.reference.sige.policy import Policy, by_size
from gengauge.reference.sige.prepared import Marks
from gengauge.reference.sige.tape import replace_tensors, returned_tensors

# The engine's output must be the network's to this share of the largest value; otherwise the network runs instead.
AGREEMENT = 1e-3
# Where more than this share of the pixels is edited, the original's statistics say too little of the edit.
MOST = 0.5
# An estimate from the number of products misses this much of a pass.
OVERHEAD = 1.15


@dataclass(frozen=True)
class Choice:
    """How an edit was computed, and why; seconds are measured or, before the first edit of its kind, estimated."""

    way: Literal["sparse", "dense", "cached"]
    why: str
    edit_ratio: float
    sparse_seconds: float | None = None
    dense_seconds: float | None = None  # of the quickest pass over the whole picture


class SparseSession:
    """Caches what a network makes of a picture and computes edits of it where they touch.

    >>> sparse = SparseSession(unet)
    >>> sparse.cache(original, t)
    >>> out = sparse.edit(edited)

    `network` is any module in evaluation mode whose first argument is a picture or latent (N, C, H, W), such as
    diffusers' UNet2DModel and UNet2DConditionModel; it is not changed. What the engine knows nothing of runs on whole
    maps and is listed in `whole_map_functions`. `policy` says which convolutions are computed on tiles, by default all
    from a quarter of the picture's size up. Where the whole network is quicker, or most of the picture is edited, it
    is run: `choice` tells. On tiles, norms keep the statistics of the original, as the paper has it: the result is near
    the network's own, not equal to it.

    `recipe` makes the mask of an edit; its smallest size follows from the network. `max_cache_bytes` limits the memory
    of all cached steps.
    """

    def __init__(
        self,
        network: nn.Module,
        policy: Policy | None = None,
        *,
        way: ConvWay = "fast",
        recipe: MaskRecipe | None = None,
        max_cache_bytes: int | None = None,
        always_sparse: bool = False,
    ) -> None:
        self.network, self.way = network, way
        self.max_cache_bytes, self.always_sparse = max_cache_bytes, always_sparse
        self.choice: Choice | None = None
        self.refusal: str | None = None  # why the engine cannot run this network, if so
        self._policy, self._recipe = policy, recipe
        self._engine: Engine | None = None
        self._steps: dict[int, _Step] = {}
        self._dense_seconds: float | None = None
        self._full_seconds: float | None = None
        self._measured: dict[int, float] = {}  # products of a sparse pass -> seconds
        self._marked: tuple[Tensor, Marks] | None = None  # the mask of the last edit, and what it marks

    @property
    def engine(self) -> Engine:
        """The engine behind the session. Raises ValueError before the first `cache`."""
        if self._engine is None:
            raise ValueError("nothing is cached yet; call cache(original, ...) first")
        return self._engine

    @property
    def whole_map_functions(self) -> dict[str, int]:
        """Functions that run on whole maps in every edit, and how often."""
        program = self.engine.program
        prepared = self.engine.prepared
        return {} if program is None or prepared is None else program.listing(prepared.tokens.row_calls())

    @property
    def cache_bytes(self) -> int:
        """Memory of the maps and statistics of all cached steps."""
        return 0 if self._engine is None else self._engine.cache_bytes

    @torch.no_grad()
    def cache(self, original: Tensor, *inputs: Any, step: int = 0, **kwargs: Any) -> Tensor:
        """Runs the network on the original, keeps what edits need under `step`, and returns the network's output.

        `inputs` and `kwargs` are the network's further arguments (time, text, ...); an edit has the same. Several steps
        of a sampler can be cached under different numbers, as long as the arguments are of the same kind (shapes and
        types) and the weights the same; else the steps before are dropped. Raises ValueError for values that are not
        finite, for a network in training mode, and where `max_cache_bytes` would be exceeded (the step is not kept).
        """
        if any(module.training for module in self.network.modules()):
            raise ValueError("the network is in training mode; call network.eval() first")
        if original.ndim != 4:
            raise ValueError(f"the original must be (N, C, H, W), not {tuple(original.shape)}")
        _check_finite(original, "original")
        inputs, kwargs = _as_tensors(inputs, original), _as_tensors(kwargs, original)
        if self._engine is None:
            size = (original.shape[2], original.shape[3])
            self._engine = Engine(self.network, self._policy or by_size(max(min(size) // 4, 1)), self.way)
        if self.refusal is not None or not self._engine.is_prepared_for(original, *inputs, **kwargs):
            out = self._first(original, inputs, kwargs, step)
        else:
            out = self._full(original, inputs, kwargs, step)
        self._steps[step] = _Step(original.clone(), inputs, kwargs, out)
        if self.max_cache_bytes is not None and self.cache_bytes > self.max_cache_bytes:
            needed = self.cache_bytes
            self.forget(step)
            raise ValueError(
                f"caching step {step} would take {needed / 2**20:.0f} MiB in all, above max_cache_bytes = "
                f"{self.max_cache_bytes / 2**20:.0f} MiB; forget other steps or raise the limit"
            )
        return out.clone()

    @torch.no_grad()
    def edit(self, edited: Tensor, mask: Tensor | None = None, *, step: int = 0, update: bool = False) -> Tensor:
        """The network's output for an edited picture, (N, C', H', W').

        `mask` bool (H, W) is True where the edit may differ; by default it is where it does differ from the original.
        With `update` the edit takes the original's place, for an edit of the edit. Raises ValueError for another shape
        or type than the original's, values that are not finite, a mask without a pixel, and a step that is not cached.
        """
        kept = self._steps.get(step)
        if kept is None:
            known = ", ".join(map(str, self._steps)) or "none"
            raise ValueError(
                f"step {step} is not cached (cached: {known}); call cache(original, ..., step={step}) first"
            )
        if edited.shape != kept.original.shape or edited.dtype != kept.original.dtype:
            raise ValueError(
                f"the edit is {edited.dtype} {tuple(edited.shape)}, the original "
                f"{kept.original.dtype} {tuple(kept.original.shape)}; they must agree"
            )
        _check_finite(edited, "edit")
        masks = self._masks(kept.original, edited, mask)
        if masks is None:
            self.choice = Choice("cached", "the edit equals the original", 0.0)
            return kept.output.clone()
        out = self._run(edited, masks, kept, step, update)
        if update:
            # Outside a mask the engine has kept the original, whatever the edit has there.
            now = edited.clone() if mask is None else torch.where(mask, edited, kept.original)
            self._steps[step] = _Step(now, kept.inputs, kept.kwargs, out.clone())
        return out

    def forget(self, step: int | None = None) -> None:
        """Drops a cached step, or all of them."""
        for number in [step] if step is not None else list(self._steps):
            self._steps.pop(number, None)
            if self._engine is not None:
                self._engine.caches.pop(number, None)

    # -- behind the scenes ---------------------------------------------------------------------------------------------

    def _first(self, original: Tensor, inputs: Any, kwargs: Any, step: int) -> Tensor:
        """The network's own output, which the engine's must equal before it is trusted."""
        self._dense_seconds = self._full_seconds = self._marked = None
        self._dense(original, inputs, kwargs)  # the first pass of a process is slower than others
        dense = self._dense(original, inputs, kwargs)
        assert self._engine is not None
        self._measured.clear()
        try:
            self._engine.prepare(original, *inputs, **kwargs)
        except ValueError as error:  # CannotRecord, or a layer that has no statistics of its own
            if self.refusal is None:
                self._steps.clear()  # they are of a recording that is gone
            self.refusal = str(error)
            return dense
        self._steps.clear()
        out = self._full(original, inputs, kwargs, step)
        self._full_seconds = None  # laying out the weights was in it
        self.refusal = None
        coarse = 30 if out.dtype in (torch.float16, torch.bfloat16) else 1
        allowed = AGREEMENT * max(dense.abs().max().item(), 1e-3) * coarse
        difference = (out - dense).abs().max().item()
        if not difference <= allowed:
            self.refusal = f"the engine's output differs from the network's by {difference:.3g}"
            self._engine.caches.pop(step, None)
            return dense
        return out

    def _dense(self, picture: Tensor, inputs: Any, kwargs: Any) -> Tensor:
        """The network itself, timed."""
        started = _now(picture)
        found = returned_tensors(self.network(picture, *inputs, **kwargs))
        if not found:
            raise ValueError(f"{type(self.network).__name__} returns no tensor, nor a tuple or dictionary of them")
        out = found[0]
        took = _now(picture) - started
        self._dense_seconds = took if self._dense_seconds is None else min(took, self._dense_seconds)
        return out

    def _full(self, original: Tensor, inputs: Any, kwargs: Any, step: int) -> Tensor:
        assert self._engine is not None
        started = _now(original)
        out = self._engine.full(original, *inputs, cache_id=step, **kwargs)
        took = _now(original) - started
        self._full_seconds = took if self._full_seconds is None else min(took, self._full_seconds)
        return out

    def _masks(self, original: Tensor, edited: Tensor, mask: Tensor | None) -> EditMasks | None:
        recipe = self._recipe or MaskRecipe(eps=0.0, dilation_before=0, dilation=1, min_size=self._smallest(original))
        if mask is None:
            different = (original != edited).flatten(0, 1).any(0)
            if self._recipe is not None:
                different = (original - edited).abs().flatten(0, 1).amax(0) > recipe.eps
            return recipe.from_mask(different) if different.any() else None
        size = tuple(original.shape[2:])
        if mask.dtype != torch.bool or tuple(mask.shape) != size:
            raise ValueError(f"a mask is bool {size}, as the picture, not {mask.dtype} {tuple(mask.shape)}")
        if not mask.any():
            raise ValueError("the mask has no pixel: nothing is edited; without a mask the edit is compared instead")
        return recipe.from_mask(mask)

    def _smallest(self, original: Tensor) -> tuple[int, int]:
        """The smallest size at which tiles are computed."""
        assert self._engine is not None
        sizes = [(original.shape[2], original.shape[3])]
        if self._engine.program is not None:
            sizes += [step.size_in for step in self._engine.program.steps if self._engine.tiling(step) is not None]
        return min(height for height, _ in sizes), min(width for _, width in sizes)

    def _run(self, edited: Tensor, masks: EditMasks, kept: _Step, step: int, update: bool) -> Tensor:
        if self.refusal is not None:
            return self._everywhere(edited, masks, kept, step, update, self.refusal)
        if masks.raw.all() or (masks.ratio > MOST and not self.always_sparse):
            why = f"{masks.ratio:.0%} of the pixels are edited: a picture with statistics of its own"
            return self._everywhere(edited, masks, kept, step, update, why)
        self._mark(masks)
        products = self.engine.products()
        expected, dense = self._expected(products), self._quickest()
        if not self.always_sparse and expected is not None and dense is not None and expected > dense:
            why = f"{expected:.3g} s are expected on tiles, {dense:.3g} s were measured for the whole network"
            return self._everywhere(edited, masks, kept, step, update, why)
        laid_out, started = self.engine.weight_bytes, _now(edited)
        out = self.engine.sparse(edited, cache_id=step, update=update)
        took = _now(edited) - started
        if self.engine.weight_bytes == laid_out:  # else laying out weights, which is done once, is in the time
            self._measured[products] = min(took, self._measured.get(products, took))
        why = "tiles are expected to be quicker"
        if self.always_sparse:
            why = "tiles were asked for"
        elif expected is None or dense is None:
            why = "nothing was timed yet"
        self.choice = Choice("sparse", why, masks.ratio, took, dense)
        return out

    def _mark(self, masks: EditMasks) -> None:
        """Sets an edit's masks; in a sampling loop they are those of the step before."""
        if self._marked is not None and torch.equal(self._marked[0], masks.raw):
            self.engine.marks = self._marked[1]
        else:
            self._marked = masks.raw, self.engine.set_masks(masks.levels)

    def _everywhere(self, edited: Tensor, masks: EditMasks, kept: _Step, step: int, update: bool, why: str) -> Tensor:
        """The whole network, by the engine or by itself, whichever was quicker."""
        started = _now(edited)
        if self.refusal is None and (update or (self._full_seconds or 0.0) <= (self._dense_seconds or 0.0)):
            out = self.engine.whole(edited, cache_id=step, update=update)
            took = _now(edited) - started
            self._full_seconds = took if self._full_seconds is None else min(took, self._full_seconds)
        else:
            out = self._dense(edited, kept.inputs, kept.kwargs)
        self.choice = Choice("dense", why, masks.ratio, None, _now(edited) - started)
        return out

    def _quickest(self) -> float | None:
        """Seconds of the quickest pass over the whole picture so far."""
        known = [seconds for seconds in (self._dense_seconds, self._full_seconds) if seconds is not None]
        return min(known) if known else None

    def _expected(self, products: int) -> float | None:
        """Seconds of a sparse pass: measured, else from passes with other masks or from the full one, by products."""
        if products in self._measured:
            return self._measured[products]
        known = [seconds * products / other for other, seconds in self._measured.items() if other >= products]
        if self._full_seconds is not None:
            known.append(self._full_seconds * products / max(self.engine.products(sparse=False), 1))
        return OVERHEAD * min(known) if known else None


@dataclass(frozen=True)
class _Step:
    """What is kept of an original beside the engine's cache."""

    original: Tensor
    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor


def _now(picture: Tensor) -> float:
    """The time at which all work given to the picture's device is done."""
    if picture.device.type == "cuda":
        torch.cuda.synchronize(picture.device)
    return time.perf_counter()


def _as_tensors(items: Any, like: Tensor) -> Any:
    """Numbers as tensors: a time is a value of the run, not a part of the network."""
    if isinstance(items, dict):
        return {key: _as_tensors(value, like) for key, value in items.items()}
    if isinstance(items, tuple):
        return tuple(_as_tensors(value, like) for value in items)
    if isinstance(items, (int, float)) and not isinstance(items, bool):
        return torch.tensor(items, device=like.device)
    return replace_tensors(lambda value: value, items)


def _check_finite(picture: Tensor, name: str) -> None:
    if picture.is_floating_point() and not torch.isfinite(picture).all():
        raise ValueError(f"the {name} has {int((~torch.isfinite(picture)).sum())} values that are not finite")
