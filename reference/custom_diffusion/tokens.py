"""Modifier tokens (`<new1>`, ...): new words at the end of the vocabulary, of whose embeddings alone the rows learn.

Source: Kumari et al. 2023, section 3.1, and the released code. A new row begins as that of a rare word, so nothing is
drawn at random. Works for every text encoder of transformers that keeps its table as `token_embedding`, with the level
`text_model.` (before release 5) or without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

RARE_WORDS = ("ktn", "pll", "ucd")
RARE_IDS = (42170, 47629, 43514)  # of those words in the vocabulary of CLIP
Order = Literal["diffusers", "compvis"]
Gradients = Literal["all", "official_bug"]
TABLE, LEVEL = "token_embedding", "text_model."
END_OF_WORD = "</w>"  # as CLIP's vocabularies mark it
OLD_END = 2


def initial_words(count: int, order: Order = "diffusers", words: Sequence[str] = RARE_WORDS) -> list[str]:
    """The rare words whose rows the new tokens begin as, in the tokens' order.

    `diffusers` takes the words as they come, `compvis` backwards: its last token begins as the first word. (With three
    tokens the published `compvis` code leaves the middle one to chance; here it has its word.) Raises ValueError for
    another order, and where there are fewer words than tokens.
    """
    if order not in get_args(Order):
        raise ValueError(f"orders are {' or '.join(get_args(Order))}, not {order!r}")
    if not 1 <= count <= len(words):
        raise ValueError(f"{count} new tokens need as many rare words, of which there are {len(words)}: name others")
    return list(words[:count]) if order == "diffusers" else list(words[:count])[::-1]


def add_words(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Adds modifier tokens to a tokenizer of transformers and returns their ids, the last of the vocabulary.

    Raises ValueError, before anything is added, for a word that the vocabulary has or that comes twice.
    """
    known = tokenizer.get_vocab()
    for index, word in enumerate(words):
        if word in known or word in words[:index]:
            raise ValueError(f"the vocabulary already has {word!r}: a modifier token needs a name of its own")
    tokenizer.add_tokens(list(words))
    return [int(tokenizer.convert_tokens_to_ids(word)) for word in words]


def add_modifier_tokens(
    tokenizer: Any,
    text_encoder: Any,
    words: Sequence[str],
    initial: Sequence[str] | None = None,
    order: Order = "diffusers",
) -> list[int]:
    """Adds modifier tokens to a tokenizer and to its text encoder, beginning as rare words; returns their ids.

    `initial` are the rare words, the published ones unless given. SDXL has two tokenizers and encoders, in lists; a
    token has the same id in both. Raises ValueError, before anything is changed, where vocabularies are not of one
    length, for a token that is the name of a word, and what the steps raise.
    """
    pairs = [(tokenizer, text_encoder)]
    if isinstance(tokenizer, list | tuple):
        pairs = list(zip(tokenizer, text_encoder, strict=True))
    for each, encoder in pairs:
        count = len(table(encoder).weight)
        if count != len(each):
            raise ValueError(
                f"the tokenizer knows {len(each)} tokens and the text encoder {count}: they are not of one model, or "
                "tokens were added to one of them alone"
            )
        if len(each) != len(pairs[0][0]):
            raise ValueError(f"two tokenizers know {len(pairs[0][0])} and {len(each)} tokens: they are of two models")
        known = each.get_vocab()
        if taken := [word for word in words if word in known or f"{word}{END_OF_WORD}" in known]:
            raise ValueError(f"the vocabulary already has {taken[0]!r}: a modifier token needs a name of its own")
    chosen = initial_words(len(words), order, RARE_WORDS if initial is None else initial)
    begin = [single_ids(each, chosen) for each, _ in pairs]
    for (each, encoder), rows in zip(pairs, begin, strict=True):
        pool_at_end(encoder, each.eos_token_id)
        ids = add_words(each, words)
        add_rows(encoder, rows)
    return ids


def pool_at_end(text_encoder: nn.Module, eos: int) -> list[nn.Module]:
    """Makes an encoder with a projection, SDXL's second, pool where text ends; returns the modules that are changed.

    One whose configuration calls 2 the end of text, as published ones do, pools at the largest id of a caption, which
    is the end's until there are new tokens. Raises ValueError for a vocabulary in which 2 is the end of text, which
    transformers cannot tell from that.
    """
    if not hasattr(text_encoder, "text_projection"):
        return []
    found = [module for module in text_encoder.modules() if getattr(module, "eos_token_id", None) == OLD_END]
    if found and eos == OLD_END:
        raise ValueError("this text encoder pools at the largest id, which would be a new token's: it can have none")
    for module in found:
        module.eos_token_id = eos  # type: ignore[assignment]
    return found


def single_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The ids of rare words. Raises ValueError for one that is no single token, which has no row to begin as."""
    out = []
    for word in words:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens in this vocabulary, not one: begin as another word")
        out.append(int(ids[0]))
    return out


def table(text_encoder: nn.Module) -> nn.Embedding:
    """The module of a text encoder's token embeddings. Raises ValueError where there is not exactly one."""
    found = [module for name, module in text_encoder.named_modules() if name.rpartition(".")[2] == TABLE]
    if len(found) != 1 or not isinstance(found[0], nn.Embedding):
        raise ValueError(
            f"{type(text_encoder).__name__} has {len(found)} tables named {TABLE}: it is no CLIP text encoder"
        )
    return found[0]


@torch.no_grad()
def add_rows(text_encoder: nn.Module, initial: Sequence[int]) -> list[int]:
    """Grows a text encoder's table by copies of the rows `initial`; returns the ids of the new rows.

    An encoder that pools must be told where (`pool_at_end`). Raises ValueError for a row that the table does not have.
    """
    embedding = table(text_encoder)
    rows = embedding.weight
    if not initial:
        raise ValueError("no new token was named")
    if bad := [index for index in initial if not 0 <= index < len(rows)]:
        raise ValueError(f"the table has {len(rows)} rows; {bad[0]} is none of them, so no token can begin as it")
    ids = list(range(len(rows), len(rows) + len(initial)))
    grown = torch.cat([rows, rows[torch.tensor(initial, device=rows.device)]])
    embedding.weight = nn.Parameter(grown, rows.requires_grad)
    embedding.num_embeddings = len(grown)
    if config := getattr(text_encoder, "config", None):
        config.vocab_size = len(grown)
    return ids


def trained_ids(ids: Sequence[int], gradients: Gradients = "all") -> list[int]:
    """The new tokens that learn: all, or with `official_bug` the first alone, as in the published diffusers script.

    Raises ValueError for another word.
    """
    if gradients not in get_args(Gradients):
        raise ValueError(f"tokens learn by {' or '.join(get_args(Gradients))}, not {gradients!r}")
    return list(ids) if gradients == "all" else list(ids)[:1]


@torch.no_grad()
def keep_rows(gradient: Tensor, ids: Sequence[int]) -> None:
    """Sets all rows of a table's gradient (V, D) to 0 but those of `ids`, in place."""
    index = torch.tensor(list(ids), device=gradient.device)
    kept = gradient[index]
    gradient.zero_()
    gradient[index] = kept


def renamed_for(text_encoder: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors under the names that this one has: with the level `text_model.` or without.

    Tables of positions, which old files hold and new modules do not, are left out.
    """
    level = LEVEL if any(name.startswith(LEVEL) for name in text_encoder.state_dict()) else ""
    bare = {name.removeprefix(LEVEL): value for name, value in state.items() if not name.endswith("position_ids")}
    # The projection, where there is one, stands beside that level.
    return {name if name.startswith("text_projection.") else level + name: value for name, value in bare.items()}
