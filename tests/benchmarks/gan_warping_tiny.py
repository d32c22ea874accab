"""A miniature of GAN Warping's three published archives, and its paper with trainings of seconds."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gengauge.benchmarks.core.experiments import Experiment
from gengauge.benchmarks.papers import gan_warping
from gengauge.benchmarks.papers.gan_warping import released
from gengauge.datasets.edited_weights import CONTEXT, LAMBDA, Factors, LowRankEdit, fingerprint, write_edited_weights
from gengauge.datasets.warp_folders import WarpedPicture, write_warp_folder
from gengauge.reference.gan_warping.low_rank import Update, layers
from gengauge.reference.gan_warping.warps import preview
from gengauge.reference.nets.stylegan3.generator import CONFIG_R, Generator

SIZE = 32  # px; LPIPS takes no smaller pictures
RANK = 2
EDIT = "cat_alien_eye"
TASKS = {
    EDIT: "cat/alien_eye cat weights/cat/alien_eye.pth",
    "house_heaved_ground": "house/heaved_ground house weights/house/heaved_ground.pth",
}
FILE = "stylegan3-r-afhqv2cat-512x512.pkl"
SYNTHESIS: dict[str, Any] = {**CONFIG_R, "channel_base": 256, "channel_max": 6, "magnitude_ema_beta": 0.999}
OWN: dict[str, Any] = {
    **{"z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": SIZE, "img_channels": 3},
    "mapping_kwargs": {"num_layers": 2},
}


def base(seed: int = 0) -> Generator:
    """A StyleGAN3-R whose untrained pictures have contrast."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        g = Generator(**OWN, synthesis_kwargs=SYNTHESIS).eval().requires_grad_(False)
    g.get_parameter(f"{layers(g)[-1]}.weight").mul_(60)
    return g


def update_of(g: Generator, layer: int = 8, seed: int = 1) -> Update:
    """Factors that change a layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        update = Update(g, [layers(g)[layer]], RANK).requires_grad_(False)
        for name, value in update.named_parameters():
            if name.endswith(LAMBDA):
                value.normal_(0, 0.5)
    return update


def factors_of(g: Generator, layer: int = 8, seed: int = 1) -> LowRankEdit:
    """The same as a compact file holds them."""
    name, found = layers(g)[layer], update_of(g, layer, seed).factors()
    return LowRankEdit(
        FILE,
        {name: Factors(found[name + LAMBDA], found[name + CONTEXT])},
        {name: fingerprint(g.get_parameter(f"{name}.weight"))},
    )


@torch.no_grad()
def rendered(g: Generator, ws: Tensor, changed: Mapping[str, Tensor] | None = None) -> np.ndarray[Any, Any]:
    """Pictures (N, SIZE, SIZE, 3) uint8 of ws, grey levels cut."""
    other = copy.deepcopy(g)
    other.load_state_dict(dict(changed or {}), strict=False)
    x = other.synthesis(ws, noise_mode="const").clamp(-1, 1)
    return ((x + 1) / 2 * 255).numpy().astype(np.uint8).transpose(0, 2, 3, 1)


@torch.no_grad()
def split(g: Generator, count: int, seed: int, masks: bool = True) -> list[WarpedPicture]:
    """Pictures of a generator whose middle is pushed to the right, with soft masks."""
    random = np.random.RandomState(seed)
    ws = g.mapping(torch.from_numpy(random.randn(count, OWN["z_dim"])).float(), None)
    found = []
    for latent, pixels in zip(ws, rendered(g, ws), strict=True):
        x, y = random.randint(10, 16, 2)
        points = np.array([[x, y, x + 4, y], [4, 4, 4, 4], [27, 5, 27, 5], [5, 26, 5, 26], [26, 27, 26, 27]], float)
        mask = np.zeros((SIZE, SIZE), np.float32)
        mask[y - 8 : y + 10, x - 8 : x + 12] = 1
        mask[y - 9, x - 8 : x + 12] = 0.4
        found.append(WarpedPicture(latent, points, preview(pixels, points), mask if masks else None, pixels))
    return found


def write_tree(root: Path, train: int = 3, test: int = 3, masks: bool = True) -> Path:
    """The archives `data`, `weights` and `pretrained` under `root`, as the published scripts unpack them."""
    parts = root / "gan_warping"
    g = base()
    write_pickle(parts / "pretrained" / FILE, g)
    write_warp_folder(parts / "data/cat/alien_eye/train", split(g, train, 1, masks=False))
    write_warp_folder(parts / "data/cat/alien_eye/test", split(g, test, 2, masks))
    weights = parts / "weights"
    (weights / "cat").mkdir(parents=True)
    write_tasks(root, "".join(f"{name} {rest}\n" for name, rest in TASKS.items()))
    write_edited_weights(weights / "cat/alien_eye.pth", update_of(g).tensors())
    return root


def write_tasks(root: Path, text: str) -> None:
    (root / "gan_warping/weights/eval_task").write_text(text)


def write_pickle(path: Path, g: nn.Module, arguments: Mapping[str, Any] = {**OWN, **SYNTHESIS}) -> Path:
    """A network file of NVIDIA's PyTorch code, which takes the arguments of the synthesis among the generator's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"G": None, "G_ema": _persistent("Generator", {**_state(g), "_init_kwargs": dict(arguments)})}
    with _code_base():
        path.write_bytes(pickle.dumps(content))
    return path


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    """Where the published code executes `module_src`."""
    raise AssertionError("a class was rebuilt")


class _Rebuilt:
    def __init__(self, meta: dict[str, Any]) -> None:
        self.meta = meta

    def __reduce__(self) -> Any:
        return _reconstruct_persistent_obj, (self.meta,)


def _persistent(class_name: str, state: dict[str, Any]) -> _Rebuilt:
    source = "raise AssertionError('the source was executed')"
    return _Rebuilt({"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state})


def _state(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module, whose own parts are persistent like itself."""
    state = {name: value for name, value in vars(module).items() if name != "band"}
    parts = {name: _persistent(type(part).__name__, _state(part)) for name, part in module._modules.items() if part}
    return {**state, "_modules": parts, "_init_args": (), "_init_kwargs": {}}


@contextmanager
def _code_base() -> Iterator[None]:
    """The module that files name, for as long as one is pickled."""
    before, home = _reconstruct_persistent_obj.__module__, "torch_utils.persistence"
    names = ["torch_utils", home]
    sys.modules.update({name: types.ModuleType(name) for name in names})
    sys.modules[home]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    _reconstruct_persistent_obj.__module__ = home
    try:
        yield
    finally:
        _reconstruct_persistent_obj.__module__ = before
        for name in names:
            del sys.modules[name]


def tiny(experiment: Experiment) -> Experiment:
    """The experiment with a training of few steps."""
    at = experiment.scales["paper"]
    recipe = replace(at.settings.recipe, iterations=2, batch=2, rank=RANK)
    return replace(experiment, scales={"paper": replace(at, settings=replace(at.settings, recipe=recipe))})


PAPER = replace(gan_warping.PAPER, experiments=tuple(map(tiny, released.experiments(gan_warping.PAPER.tables))))
