"""The commands `gengauge concept ...`: Custom Diffusion on a folder of diffusers."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gengauge.benchmarks.terminal import DeviceName, bars, device_of

# Commands import what they need when they are called: help and errors of use come at once, not after torch.
if TYPE_CHECKING:
    import torch

    from gengauge.benchmarks.training.concept_batches import Concept

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Teach a text-to-image model new concepts (Custom Diffusion): train, merge, compress, convert, sample, score."
    "\n\nA model is a folder of diffusers with safetensors, of Stable Diffusion 1 or 2.",
)


class TrainedName(str, Enum):
    """What is trained."""

    kv = "kv"
    crossattn = "crossattn"
    all = "all"


class CodeName(str, Enum):
    """The published code whose way is taken."""

    diffusers = "diffusers"
    compvis = "compvis"


class WeightingName(str, Enum):
    """The weight of a concept's loss."""

    official_x4 = "official_x4"
    mean = "mean"


class EmptyName(str, Enum):
    """What becomes of a mask without a cell."""

    error = "error"
    covered = "covered"


class LayoutName(str, Enum):
    """The layout of a delta's file."""

    delta = "delta"
    compvis = "compvis"
    diffusers = "diffusers"
    gengauge = "gengauge"


class TypeName(str, Enum):
    """The type of numbers."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


Model = Annotated[Path, typer.Argument(help="Folder of diffusers, that of Stable Diffusion 1.4 for one.")]
Device = Annotated[DeviceName, typer.Option(help="auto takes a GPU where there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")]
LayoutOption = Annotated[
    LayoutName | None,
    typer.Option(
        help="delta: the published delta.bin; compvis: delta*.ckpt; diffusers: pytorch_custom_diffusion_weights; "
        "gengauge: safetensors. By default the file's name tells."
    ),
]


@app.command(
    "train",
    epilog='Example: `gengauge concept train sd-v1-4 --pictures photos/milo --category cat --class-pictures "reg/cat" '
    "--out out/milo`\n\nTwo concepts in one training: `gengauge concept train sd-v1-4 --pictures photos/milo "
    '--category cat --pictures photos/pot --category "wooden pot" --out out/both`\n\nOn two GPUs: `accelerate launch '
    "--multi_gpu -m gengauge.benchmarks concept train ...`",
)
def train_command(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for delta.safetensors and the training's states.")],
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a concept's pictures; once a concept. With images.txt and caption.txt, a picture and its "
            "caption a line, pictures have captions of their own."
        ),
    ] = None,
    category: Annotated[list[str] | None, typer.Option(help="What the concept is; once a concept.")] = None,
    token: Annotated[
        list[str] | None, typer.Option(help="The concept's new token; by default <new1>, <new2>, and so on.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Teach the category itself, with no new token.")] = False,
    class_pictures: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of other pictures of the category, once a concept: retrieved ones (images.txt, caption.txt) "
            "or those that `concept sample` made. Without them the model forgets more."
        ),
    ] = None,
    class_prompt: Annotated[
        list[str] | None, typer.Option(help='The caption of class pictures without; by default "photo of a CATEGORY".')
    ] = None,
    style: Annotated[bool, typer.Option("--style", help='Captions are "painting in the style of ...".')] = False,
    concepts: Annotated[
        Path | None,
        typer.Option(help="Instead: a published list of concepts, CustomConcept101's dataset.json for one."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="With --concepts: the name of a picture folder in it; may be repeated.")
    ] = None,
    trained: Annotated[
        TrainedName, typer.Option(help="kv: keys and values; crossattn: all of cross-attention; all: the U-Net.")
    ] = TrainedName.kv,
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps; by default as published.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures of concepts a step, in all processes; by default as published.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate, for the whole batch; 8e-5 by default.")] = None,
    composition: Annotated[
        CodeName,
        typer.Option(help="diffusers: as many class pictures behind a batch; compvis: both kinds mixed by chance."),
    ] = CodeName.diffusers,
    weighting: Annotated[
        WeightingName, typer.Option(help="official_x4: a sum over channels, as published; mean: a mean.")
    ] = WeightingName.official_x4,
    size: Annotated[int | None, typer.Option(min=8, help="Pictures' side in px; by default the model's.")] = None,
    augment: Annotated[bool, typer.Option(help="Resize the concept's pictures at random.")] = True,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the pictures.")] = False,
    centre_crop: Annotated[
        bool, typer.Option("--centre-crop", help="Take the middle of class pictures; each is then encoded once.")
    ] = False,
    empty_masks: Annotated[
        EmptyName, typer.Option(help="covered: below 72 px a mask may hold the cells that the picture covers.")
    ] = EmptyName.error,
    begin_as: Annotated[
        list[str] | None, typer.Option(help="Rare word whose embedding a token begins as; once a token.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Networks work in bfloat16; weights stay in float32.")] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Less memory: activations are computed twice.")
    ] = False,
    eight_bit: Annotated[
        bool, typer.Option("--eight-bit", help="Less memory: AdamW of bitsandbytes, where it is installed.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the training.")] = 42,
    device: Device = DeviceName.auto,
) -> None:
    """Teach a model one concept, or several together, from a few pictures each.

    Settings are the paper's. Stopped at any moment, the same command goes on from the last state.
    """
    from dataclasses import replace

    from gengauge.benchmarks.concept_files import check_writable
    from gengauge.benchmarks.concepts import DELTA, open_model, recipe_for, train
    from gengauge.benchmarks.training.concept_batches import Intake
    from gengauge.benchmarks.training.processes import join
    from gengauge.reference.custom_diffusion.tokens import RARE_WORDS

    check_writable(out)
    found = _concepts(
        pictures or [], category or [], token, no_token, class_pictures or [], class_prompt or [], style, concepts, only
    )
    pipeline = open_model(model)
    side = size or int(pipeline.unet.config.sample_size) * int(pipeline.vae_scale_factor)
    intake = Intake(side, composition.value, augment, flip, centre_crop, empty_masks.value)
    asked: dict[str, Any] = {"iterations": iterations, "batch": batch, "lr": rate}
    recipe = replace(
        recipe_for(found, intake),
        trained=trained.value,
        weighting=weighting.value,
        bfloat16=bf16,
        **{key: value for key, value in asked.items() if value is not None},
    )
    group, where = join(device_of(device))
    with bars() as tell:
        delta = train(
            pipeline,
            found,
            out,
            recipe,
            intake,
            begin_as=begin_as or RARE_WORDS,
            checkpointing=checkpointing,
            eight_bit=eight_bit,
            seed=seed,
            device=where,
            processes=group,
            tell=(lambda done, total, doing: tell("training", done, total)) if group.main else lambda *_: None,
        )
    if group.main:
        _say(f"{out / DELTA}: {len(delta.weights)} weights, tokens {', '.join(delta.tokens) or 'none'}")


@app.command(
    "merge",
    epilog="Example: `gengauge concept merge sd-v1-4 out/milo out/pot --category cat --category 'wooden pot' "
    "--captions captions.txt --out out/both.safetensors`",
)
def merge_command(
    model: Model,
    deltas: Annotated[list[Path], typer.Argument(help="Files of deltas, or folders with one each; two or more.")],
    category: Annotated[list[str], typer.Option(help="What the concepts are, in the deltas' order.")],
    captions: Annotated[Path, typer.Option(help="Common captions, one a line, which are to change least.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    first: Annotated[
        int | None, typer.Option(min=1, help="How many of the captions; 200 in published code, all by default.")
    ] = None,
    variant: Annotated[CodeName, typer.Option(help="The published code whose prompts are taken.")] = CodeName.diffusers,
    ridge: Annotated[
        float, typer.Option(min=0, help="Share of their mean that is added where captions are few, 1e-6 for one.")
    ] = 0.0,
    layout: LayoutOption = None,
    overwrite: Overwrite = False,
    device: Device = DeviceName.auto,
) -> None:
    """Put concepts that were learnt one by one into one model, without training."""
    from gengauge.benchmarks.concept_files import check_new, read_captions
    from gengauge.benchmarks.concepts import merge

    check_new(out, overwrite)
    report = merge(
        model,
        deltas,
        category,
        read_captions(captions, first),
        out,
        variant=variant.value,
        ridge=ridge,
        device=device_of(device),
        layout=None if layout is None else layout.value,
    )
    _say(
        f"{out}: tokens {', '.join(f'<new{i + 1}>' for i in range(len(deltas)))}; residual of the concepts' words "
        f"{report.target_residual:.3g}, of the captions {report.drift:.3g}; condition {report.condition:.3g}"
    )


@app.command(
    "compress", epilog="Example: `gengauge concept compress sd-v1-4 out/milo --rank 5 --out out/milo5.safetensors`"
)
def compress_command(
    model: Model,
    delta: Annotated[Path, typer.Argument(help="File of a delta, or a folder with one.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    ratio: Annotated[
        float | None, typer.Option(help="Share of the singular values' sum that is kept; 0.6 by default.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Instead: the rank of each matrix.")] = None,
    layout: LayoutOption = None,
    dtype: Annotated[TypeName, typer.Option(help="Type of the stored numbers.")] = TypeName.float32,
    overwrite: Overwrite = False,
) -> None:
    """Keep of a delta the leading singular vectors of its changes. Any U-Net of diffusers, SDXL's too."""
    from gengauge.benchmarks.concept_files import check_new
    from gengauge.benchmarks.concepts import compress

    check_new(out, overwrite)
    before, after = compress(
        model,
        delta,
        out,
        ratio=ratio,
        rank=rank,
        layout=None if layout is None else layout.value,
        dtype=_type(dtype),
    )
    _say(f"{out}: {after:,} numbers of {before:,}, {out.stat().st_size:,} bytes")


@app.command(
    "convert",
    epilog="Example: `gengauge concept convert out/milo milo/pytorch_custom_diffusion_weights.safetensors`\n\nFactors "
    "become whole weights: `gengauge concept convert compressed_delta.bin delta.bin --whole --model sd-v1-4`",
)
def convert_command(
    delta: Annotated[Path, typer.Argument(help="File of a delta of any layout, or a folder with one.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .safetensors, .bin or .ckpt.")],
    layout: LayoutOption = None,
    model: Annotated[Path | None, typer.Option(help="Where factors become whole: the model that they change.")] = None,
    dense: Annotated[bool, typer.Option("--whole", help="Make whole weights of factors.")] = False,
    token: Annotated[
        list[str] | None, typer.Option(help="Tokens' names, which compvis does not store; in order.")
    ] = None,
    layers: Annotated[int, typer.Option(min=1, help="For compvis: residual blocks a level of the U-Net.")] = 2,
    dtype: Annotated[TypeName, typer.Option(help="Type of the stored numbers.")] = TypeName.float32,
    overwrite: Overwrite = False,
) -> None:
    """Turn a delta of one layout into another: the published codes', diffusers' and our own."""
    from gengauge.benchmarks.concept_files import check_new
    from gengauge.benchmarks.concepts import convert

    check_new(out, overwrite)
    found = convert(
        delta,
        out,
        None if layout is None else layout.value,
        model=model,
        dense=dense,
        tokens=token,
        layers=layers,
        dtype=_type(dtype),
    )
    _say(f"{out}: {len(found.names)} weights, tokens {', '.join(found.tokens) or 'none'}")


@app.command(
    "sample",
    epilog='Example: `gengauge concept sample sd-v1-4 --delta out/milo --prompt "a <new1> cat in the snow" --count 8 '
    '--out out/snow`\n\nClass pictures for a training: `gengauge concept sample sd-v1-4 --prompt "photo of a cat" '
    "--count 200 --steps 50 --out reg`, then `--class-pictures reg/samples`",
)
def sample_command(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for samples/ and prompts.json.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw; may be repeated.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="File of prompts, one a line.")] = None,
    fill: Annotated[
        list[str] | None, typer.Option(help='What stands for {}, or {0} and {1}, in prompts: "<new1> cat".')
    ] = None,
    delta: Annotated[Path | None, typer.Option(help="File of a delta of any layout, or a folder with one.")] = None,
    strength: Annotated[float, typer.Option(help="How much of the delta's change of weights.")] = 1.0,
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Take a delta that was learnt on another model.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="Pictures a prompt; the paper's tables have 50.")] = 1,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Of DDIM.")] = 200,
    guidance: Annotated[float, typer.Option(min=0, help="Scale of classifier-free guidance.")] = 6.0,
    eta: Annotated[float, typer.Option(min=0, max=1, help="1 is DDPM, 0 adds no noise.")] = 1.0,
    size: Annotated[int | None, typer.Option(min=8, help="Side in px; by default the model's.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 4,
    dtype: Annotated[TypeName, typer.Option(help="Type in which networks work.")] = TypeName.float32,
    seed: Annotated[int, typer.Option(min=0, help="Of all pictures.")] = 42,
    device: Device = DeviceName.auto,
) -> None:
    """Sample pictures as for the paper's tables, from a model with or without a delta.

    Stopped at any moment, the same command goes on.
    """
    from gengauge.benchmarks.concept_files import check_writable, filled, read_prompts
    from gengauge.benchmarks.concept_samples import Sampling, sample
    from gengauge.benchmarks.concepts import open_model
    from gengauge.datasets.delta_files import read_delta

    if (prompt is None) == (prompts is None):
        raise ValueError("give prompts by --prompt, or a file of them by --prompts")
    check_writable(out)
    texts = read_prompts(prompts, fill or ()) if prompts else [filled(each, fill or ()) for each in prompt or ()]
    how = Sampling(steps, guidance, eta, seed, size)
    change = None if delta is None else read_delta(delta)
    pipeline = open_model(model, _type(dtype))
    with bars() as tell:
        made = sample(
            pipeline,
            texts,
            out,
            how,
            count=count,
            delta=change,
            strength=strength,
            any_base=any_base,
            batch=batch,
            device=device_of(device),
            tell=tell,
        )
    _say(f"{out}: {made} pictures made, {len(texts) * count} in all")


@app.command(
    "score",
    epilog="Example: `gengauge concept score out/snow --targets photos/milo --clip ViT-B-32.pt --dino "
    "dino_deitsmall16_pretrain.pth`\n\nForgetting: `gengauge concept score out/plain --clip ViT-B-32.pt "
    "--real photos/cats`",
)
def score_command(
    samples: Annotated[Path, typer.Argument(help="Folder that `sample` wrote, or of the published layout.")],
    clip: Annotated[Path, typer.Option(help="CLIP: a checkpoint of OpenAI or open_clip, or a folder of transformers.")],
    targets: Annotated[
        list[Path] | None, typer.Option(help="Folder of a concept's own pictures; once a concept.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="Of a checkpoint: open_clip's name.")] = "ViT-B-32-quickgelu",
    dino: Annotated[Path | None, typer.Option(help="DINO ViT-S/16's checkpoint, for image alignment with it.")] = None,
    real: Annotated[Path | None, typer.Option(help="Folder of the class's pictures, for KID by clean-fid.")] = None,
    weights: Annotated[Path | None, typer.Option(help="With --real: your own file of Inception's weights.")] = None,
    device: Device = DeviceName.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score samples: text alignment (both conventions, 2.5 apart), image alignment, KID."""
    from gengauge.benchmarks.concept_samples import score
    from gengauge.benchmarks.features.clip import load_dino, load_open_clip, load_transformers_clip
    from gengauge.benchmarks.features.networks import load_network

    where = device_of(device)
    network = None if real is None else load_network("inception", weights)
    encoder = load_transformers_clip(clip, where) if clip.is_dir() else load_open_clip(clip, architecture, where)
    with bars() as tell:
        scores = score(
            samples,
            targets or (),
            encoder,
            dino=None if dino is None else load_dino(dino, device=where),
            real=real,
            network=network,
            device=where,
            tell=tell,
        )
    if as_json:
        print(json.dumps([asdict(each) for each in scores], indent=2))
        return
    table = Table("metric", "value", "interval", "", title=f"{samples}")
    for each in scores:
        bounds = f"{each.low:.5g} to {each.high:.5g}, {each.interval}" if each.low is not None else ""
        table.add_row(each.name, "" if each.value is None else f"{each.value:.5g}", bounds, each.note)
    Console().print(table)


def _concepts(
    pictures: list[Path],
    category: list[str],
    token: list[str] | None,
    no_token: bool,
    class_pictures: list[Path],
    class_prompt: list[str],
    style: bool,
    listed: Path | None,
    only: list[str] | None,
) -> list[Concept]:
    from gengauge.benchmarks.concept_files import read_concept, read_concepts_list

    if (listed is None) == (not pictures):
        raise ValueError("give concepts by --pictures and --category, or a list of them by --concepts")
    if listed is not None:
        if category or token or no_token or class_pictures or class_prompt or style:
            raise ValueError("with --concepts the list tells all of the concepts; choose of it by --only")
        return read_concepts_list(listed, only or ())
    count = len(pictures)
    if no_token and token:
        raise ValueError("--token and --no-token do not go together")
    tokens: list[str | None] = [None] * count if no_token else [*(token or [f"<new{i + 1}>" for i in range(count)])]
    for option, given in (("--category", category), ("--token", tokens)):
        if len(given) != count:
            raise ValueError(f"{count} times --pictures and {len(given)} times {option}: give both once a concept")
    for option, some in (("--class-pictures", class_pictures), ("--class-prompt", class_prompt)):
        if len(some) not in (0, count):
            raise ValueError(f"{count} times --pictures and {len(some)} times {option}: give both once a concept")
    return [
        read_concept(
            pictures[i],
            category[i],
            tokens[i],
            style=style,
            class_folder=class_pictures[i] if class_pictures else None,
            class_prompt=class_prompt[i] if class_prompt else None,
        )
        for i in range(count)
    ]


def _type(name: TypeName) -> torch.dtype:
    import torch

    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name.value]


def _say(text: str) -> None:
    Console().print(text, highlight=False, soft_wrap=True, markup=False)
