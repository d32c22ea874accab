"""The commands `gengauge concept ...`: Custom Diffusion on a folder of diffusers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gengauge.benchmarks.concept_options import (
    CodeName,
    Device,
    EmptyName,
    LayoutOption,
    MethodName,
    Model,
    Overwrite,
    TrainedName,
    TypeName,
    WeightingName,
    concepts_of,
    type_of,
    with_rare_words,
)
from gengauge.benchmarks.terminal import DeviceName, bars, device_of

# Commands import what they need when they are called: help and errors of use come at once, not after torch.
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Teach a text-to-image model new concepts (Custom Diffusion): train, merge, compress, convert, sample, score."
    "\n\nA model is a folder of diffusers with safetensors, of Stable Diffusion 1, 2 or XL.",
)


@app.command(
    "train",
    epilog='Example: `gengauge concept train sd-v1-4 --pictures photos/milo --category cat --class-pictures "reg/cat" '
    "--out out/milo`\n\nTwo concepts in one training: `gengauge concept train sd-v1-4 --pictures photos/milo "
    '--category cat --pictures photos/pot --category "wooden pot" --out out/both`\n\nOn two GPUs: `accelerate launch '
    "--multi_gpu -m gengauge.benchmarks concept train ...`\n\nBaselines: `... --method textual_inversion --begin-as "
    "cat`, `... --method dreambooth --class-pictures generated/cat`",
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
    method: Annotated[
        MethodName | None,
        typer.Option(
            help="Whose settings are taken. textual_inversion: new tokens alone, 5000 steps, best with `--begin-as` a "
            "word for the object; dreambooth: the whole U-Net, with --rare-word in the place of a new token. By "
            "default custom_diffusion, and textual_inversion with `--trained tokens`."
        ),
    ] = None,
    rare_word: Annotated[
        list[str] | None,
        typer.Option(help="With dreambooth: the known word that stands for a concept, once a concept; sks by default."),
    ] = None,
    trained: Annotated[
        TrainedName | None,
        typer.Option(
            help="Beside new tokens. kv: keys and values; crossattn: all of cross-attention; all: the U-Net; tokens: "
            "nothing. By default the method's."
        ),
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Steps; by default as published.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures of concepts a step, in all processes; by default as published.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Learning rate, for the whole batch; the method's by default.")
    ] = None,
    composition: Annotated[
        CodeName,
        typer.Option(help="diffusers: as many class pictures behind a batch; compvis: both kinds mixed by chance."),
    ] = CodeName.diffusers,
    weighting: Annotated[
        WeightingName | None,
        typer.Option(help="official_x4: a sum over channels, as published, by default; mean: a mean, as baselines."),
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Pictures' side in px; by default the model's.")] = None,
    augment: Annotated[
        bool | None, typer.Option(help="Resize the concept's pictures at random; by default Custom Diffusion alone.")
    ] = None,
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
    from gengauge.benchmarks.concept_models import open_model
    from gengauge.benchmarks.concepts import DELTA, recipe_for, train
    from gengauge.benchmarks.training.concept_batches import Intake
    from gengauge.benchmarks.training.processes import join
    from gengauge.reference.custom_diffusion.tokens import RARE_WORDS

    check_writable(out)
    found = concepts_of(
        pictures or [], category or [], token, no_token, class_pictures or [], class_prompt or [], style, concepts, only
    )
    if method is None:
        method = MethodName.textual_inversion if trained is TrainedName.tokens else MethodName.custom_diffusion
    if method is MethodName.dreambooth:
        found = with_rare_words(found, rare_word or ())
    elif rare_word:
        raise ValueError("--rare-word is for --method dreambooth; others have new tokens")
    pipeline = open_model(model)
    side = size or int(pipeline.unet.config.sample_size) * int(pipeline.vae_scale_factor)
    resized = method is MethodName.custom_diffusion if augment is None else augment
    intake = Intake(
        side, composition.value, resized, flip, centre_crop, empty_masks.value, int(pipeline.vae_scale_factor)
    )
    asked: dict[str, Any] = {"iterations": iterations, "batch": batch, "lr": rate}
    asked |= {"trained": trained and trained.value, "weighting": weighting and weighting.value}
    recipe = replace(
        recipe_for(found, intake, method.value),
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
    from gengauge.benchmarks.concept_files import check_new
    from gengauge.benchmarks.concepts import merge
    from gengauge.datasets.concept_sets_files import read_captions

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
        dtype=type_of(dtype),
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
        dtype=type_of(dtype),
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
    from gengauge.benchmarks.concept_files import check_writable, read_prompts
    from gengauge.benchmarks.concept_models import open_model
    from gengauge.benchmarks.concept_samples import Sampling, sample
    from gengauge.datasets.concept_sets_files import filled
    from gengauge.datasets.delta_files import read_delta

    if (prompt is None) == (prompts is None):
        raise ValueError("give prompts by --prompt, or a file of them by --prompts")
    check_writable(out)
    texts = read_prompts(prompts, fill or ()) if prompts else [filled(each, fill or ()) for each in prompt or ()]
    how = Sampling(steps, guidance, eta, seed, size)
    change = None if delta is None else read_delta(delta)
    pipeline = open_model(model, type_of(dtype))
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


def _say(text: str) -> None:
    Console().print(text, highlight=False, soft_wrap=True, markup=False)
