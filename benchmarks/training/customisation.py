"""Training of Custom Diffusion: pictures of concepts and of their classes in, new weights and tokens out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gengauge.benchmarks.training.concept_batches import Concept, ConceptBatches, Intake, check_composition
from gengauge.benchmarks.training.concept_captions import tokenizers_of
from gengauge.benchmarks.training.eight_bit import eight_bit_adam
from gengauge.benchmarks.training.loop import Schedule, Snapshot, Tell, Trainable, Trained, train
from gengauge.benchmarks.training.processes import Processes
from gengauge.datasets.deltas import Delta, check_token, samples
from gengauge.reference.custom_diffusion.attention import trained_names
from gengauge.reference.custom_diffusion.models import Models
from gengauge.reference.custom_diffusion.tokens import RARE_WORDS, add_modifier_tokens, table
from gengauge.reference.custom_diffusion.training import Recipe, Training


def train_concepts(
    recipe: Recipe,
    models: Models,
    tokenizer: Any,
    concepts: Sequence[Concept],
    work: Path,
    config: Mapping[str, Any],
    *,
    seed: int,
    device: str,
    intake: Intake | None = None,
    begin_as: Sequence[str] = RARE_WORDS,
    checkpointing: bool = False,
    eight_bit: bool = False,
    every: int = 50,
    snapshot: Callable[[Trainable], Snapshot] | None = None,
    processes: Processes | None = None,
    tell: Tell = lambda done, total, doing: None,
    code: str = "",
) -> tuple[Delta, Trained]:
    """Trains concepts, one or several together, to the end of the recipe's iterations, with states in `work`.

    `models` and `tokenizer`, of SDXL a list of both, are changed in place. New tokens begin as the words `begin_as`.
    `checkpointing` computes the U-Net's activations twice instead of keeping them; `eight_bit` is bitsandbytes' AdamW.
    What was learnt, on the CPU, and what `train` tells. Raises what `train`, `ConceptBatches` and
    `add_modifier_tokens` raise, and ValueError for tokens that are no names or come twice, before anything is changed.
    """
    group, intake = processes or Processes(), intake or Intake()
    tokens = [concept.token for concept in concepts if concept.token is not None]
    for token in tokens:
        check_token(token)
        if tokens.count(token) > 1:
            raise ValueError(f"two concepts have the token {token}: give each its own")
    if recipe.trained == "tokens" and not tokens:
        raise ValueError("no concept has a token, and the recipe trains nothing else: give one, or train weights")
    check_composition(concepts, intake, recipe, group.count)
    cell = 2 ** (len(models.vae.config.block_out_channels) - 1)
    if cell != intake.cell:
        raise ValueError(f"this model's autoencoder has cells of {cell} px, and masks were asked for {intake.cell} px")
    ids: list[int] = []
    if tokens:
        encoders = list(models.text_encoders.values())
        ids = add_modifier_tokens(tokenizers_of(tokenizer), encoders, tokens, begin_as, intake.composition)
    batches = ConceptBatches(
        *(concepts, intake, recipe, models, tokenizer, dict(zip(tokens, ids, strict=True)), seed, device),
        process=group.index,
        processes=group.count,
    )
    state = {name: parameter.detach() for name, parameter in models.unet.named_parameters()}
    # Without a trained weight, samples of keys and values tell which model a token is for.
    base = samples(state, trained_names(state, "kv" if recipe.trained == "tokens" else recipe.trained))
    trained = replace(models, vae=None)
    if not ids and models.text_encoder_2 is None:
        trained = replace(trained, text_encoder=None)  # its features are kept
    if checkpointing:
        models.unet.enable_gradient_checkpointing()
    made: list[Training] = []

    def build() -> Training:
        training = Training(recipe, trained, ids, device)
        if eight_bit:
            training.optimisers["delta"] = eight_bit_adam(training.optimisers["delta"])  # type: ignore[assignment]
        made.append(training)
        return training

    found = train(
        build,
        batches,
        work,
        Schedule(recipe.iterations, every, every, max(1, every // 20)),
        {
            **config,
            "recipe": repr(recipe),
            "intake": repr(intake),
            "tokens": dict(zip(tokens, begin_as, strict=False)),
            "concepts": [_fingerprint(concept) for concept in concepts],
            "base": hashlib.sha256(b"".join(map(_bytes, base.values()))).hexdigest(),
            "eight_bit": eight_bit,
        },
        seed=seed,
        device=device,
        snapshot=snapshot,
        keep="delta",
        processes=group,
        tell=tell,
        code=code,
    )
    unet, rows = made[0].delta()
    vectors = {}
    if rows is not None:
        widths = [len(table(encoder).weight[0]) for encoder in models.text_encoders.values()]
        vectors = {token: row.cpu().split(widths) for token, row in zip(tokens, rows, strict=True)}
    return Delta({name: weight.cpu() for name, weight in unet.items()}, vectors, base=base), found


def _fingerprint(concept: Concept) -> str:
    hasher = hashlib.sha256(repr(concept.token).encode())
    for each in (*concept.pictures, *concept.class_pictures):
        hasher.update(each.caption.encode() + b"\0" + each.path.read_bytes())
    return hasher.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.float().cpu().contiguous().numpy().tobytes()
