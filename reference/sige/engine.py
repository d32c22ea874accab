"""Runs a network once on an original, keeping maps and statistics, then on edits, where they touch.

Every convolution that the policy names is computed on the tiles that the edit's mask touches; everything else runs on
whole maps, of which the untouched pixels are the original's (Li et al. 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gengauge.kernels.tile_conv import ConvWay, Touched
from gengauge.reference.sige.count import Macs, sparse_macs
from gengauge.reference.sige.policy import Policy
from gengauge.reference.sige.prepared import Marks, Prepared, Size, kinds_of, weights_of
from gengauge.reference.sige.program import ConvStep, Program
from gengauge.reference.sige.run import Cache, Run
from gengauge.reference.sige.tape import tensors_in
from gengauge.reference.sige.tiling import Tiling


class Engine:
    """A network whose edits are computed on tiles.

    `full` runs the original and keeps what edits need, under an id; `set_masks` says what an edit touches; `sparse`
    runs the edit. Networks are recorded for the shapes of the first `full`. The network must be in evaluation mode; it
    is not changed; where its weights change, or arguments of another kind come, all caches are dropped.
    """

    def __init__(self, network: nn.Module, policy: Policy, way: ConvWay = "fast") -> None:
        self.network, self.policy, self.way = network, policy, way
        self.prepared: Prepared | None = None
        self.caches: dict[int, Cache] = {}
        self.marks: Marks | None = None

    # -- the three modes -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def full(self, picture: Tensor, *inputs: Any, cache_id: int = 0, **kwargs: Any) -> Tensor:
        """The network's output for the original; its maps and statistics are kept under `cache_id`.

        `inputs` and `kwargs` are the network's other arguments; an edit has the same.
        """
        self.prepare(picture, *inputs, **kwargs)
        prepared = self._ready()
        tape = prepared.program.tape
        given = dict(zip(tape.inputs[1:], tensors_in(inputs, kwargs), strict=True))
        before = self.caches.pop(cache_id, None)  # its maps are written anew
        cache = Cache(unchanging={**prepared.parameters, **given})
        spare = None if before is None else before.maps
        out = Run(prepared, self.way, cache, picture, cache_id=cache_id, spare=spare).all()
        self.caches[cache_id] = cache
        return out

    @torch.no_grad()
    def sparse(self, picture: Tensor, cache_id: int = 0, update: bool = False) -> Tensor:
        """The output for an edited picture, computed where the masks lie and else taken from the cache.

        With `update` the new maps take the place of the kept ones, for an edit of the edit; statistics stay those of
        the original. Raises ValueError without a cache or masks, and for a picture of another shape.
        """
        cache = self._kept(picture, cache_id)
        if self.marks is None:
            raise ValueError("no masks are set; call set_masks with the edit's masks first")
        run = Run(self._ready(), self.way, cache, picture, marks=self.marks, cache_id=cache_id)
        out = run.all()
        if update:
            run.keep()
        return out

    @torch.no_grad()
    def whole(self, picture: Tensor, cache_id: int = 0, update: bool = False) -> Tensor:
        """The output for a picture, computed everywhere and with its own statistics: what the network would give.

        It has the original's other arguments; with `update` it takes the original's place. Raises ValueError as
        `sparse` does.
        """
        cache = Cache(unchanging=self._kept(picture, cache_id).unchanging)
        out = Run(self._ready(), self.way, cache, picture, cache_id=cache_id).all()
        if update:
            self.caches[cache_id] = cache
        return out

    # -- preparations --------------------------------------------------------------------------------------------------

    def prepare(self, picture: Tensor, *inputs: Any, **kwargs: Any) -> Program:
        """Records the network for these shapes (and other values than tensors), once; others start anew."""
        if not self.is_prepared_for(picture, *inputs, **kwargs):
            self.prepared = Prepared(self.network, self.policy, picture, *inputs, **kwargs)
            self.caches = {}
            self.marks = None if self.prepared.has_tiles else Marks()
        return self._ready().program

    def is_prepared_for(self, picture: Tensor, *inputs: Any, **kwargs: Any) -> bool:
        """Whether the recording is of such arguments, and the network's weights are those of then."""
        prepared = self.prepared
        same = prepared is not None and prepared.weights == weights_of(self.network)
        return same and prepared is not None and prepared.kinds == kinds_of(picture, *inputs, **kwargs)

    def set_masks(self, masks: Mapping[Size, Tensor]) -> Marks:
        """What an edit touches: bool (h, w) by size, for every size at which the policy computes tiles.

        The result can be set again as `marks`. Raises ValueError before the first `full` (sizes are known then), and
        where a size is missing.
        """
        if self.prepared is None:
            raise ValueError("the sizes of the network's maps are known after the first full run; call full first")
        self.marks = self.prepared.marks(masks)
        return self.marks

    def clear(self) -> None:
        """Forgets all caches."""
        self.caches = {}

    # -- accounts ------------------------------------------------------------------------------------------------------

    @property
    def program(self) -> Program | None:
        """The recorded network; None before the first `prepare` or `full`."""
        return None if self.prepared is None else self.prepared.program

    @property
    def touched(self) -> dict[str, Touched]:
        """What is computed of each sparse convolution's output, by name; empty before `set_masks`."""
        return {} if self.marks is None else self.marks.touched

    def tiling(self, step: ConvStep) -> Tiling | None:
        """The tiles of a convolution; None where it is computed everywhere."""
        return self._ready().tilings[step.name]

    def macs(self, swish_is_product: bool = True) -> Macs:
        """Operations of a sparse pass with the masks that are set, counted as the paper does."""
        if self.marks is None:
            raise ValueError("no masks are set; call set_masks with the edit's masks first")
        return sparse_macs(self.network, self._ready(), self.marks, swish_is_product)

    def products(self, sparse: bool = True) -> int:
        """Multiplications that the convolutions of a pass really take in this way: Winograd's are fewer than direct."""
        return self._ready().products(self.way, self.marks if sparse else None)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights as they are laid out for the native ways, beside the network's own."""
        return 0 if self.prepared is None else self.prepared.weight_bytes

    @property
    def cache_bytes(self) -> int:
        """Memory of all caches."""
        return sum(cache.bytes for cache in self.caches.values())

    def _ready(self) -> Prepared:
        if self.prepared is None:
            raise ValueError("the network is not recorded yet; call prepare or full first")
        return self.prepared

    def _kept(self, picture: Tensor, cache_id: int) -> Cache:
        """The cache of an id, for a picture of the right shape."""
        if self.prepared is None or cache_id not in self.caches:
            known = ", ".join(map(str, self.caches)) or "none"
            raise ValueError(f"nothing is kept under cache id {cache_id} (kept: {known}); call full first")
        if self.prepared.weights != weights_of(self.network):
            raise ValueError("the network's weights were changed after the original was run; run it again")
        tape = self.prepared.program.tape
        shape = tape.shapes[tape.inputs[0]]
        if picture.shape != shape:
            raise ValueError(
                f"the edit has the shape {tuple(picture.shape)}, the original {tuple(shape)}; they must agree"
            )
        return self.caches[cache_id]
