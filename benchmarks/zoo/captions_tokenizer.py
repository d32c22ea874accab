"""The tokenizer of the captioned animals: CLIP's own byte-pair encoding, small, with one token for each known word.

Its two files are what `CLIPTokenizer.from_pretrained` reads, so that a folder with them works as Stable Diffusion's
does. Three words that no caption holds are there too: "ktn", "pll" and "ucd", from which modifier tokens start.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RARE = ("ktn", "pll", "ucd")
LENGTH = 77
END = "</w>"
# All words of the captions. Written down, for the order of tokens is part of the trained weights.
_WORDS = (
    "a amber an and astonished at away background bear beige black blue brick bricks brown by calm cat cheerful "
    "chocolate close collar cream dog eyes far flowers fox front ginger glasses golden gradient green grey happy "
    "hat in laughing lavender looking looks meadow mint navy night of on orange patched photo picture pink plain "
    "portrait purple quiet rabbit red rose sepia sky small spotted stars striped surprised teal that the under up "
    "very wall wearing white with yellow zoomed"
)
WORDS = tuple(_WORDS.split())


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens with their ids, and the merges in their order, of byte-pair encoding trained on the words, each once.

    Every byte is a token, so that any text has one; the two ends are last, as in CLIP.
    """
    spelt = {word: [*word[:-1], word[-1] + END] for word in (*WORDS, *RARE)}
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for parts in spelt.values() for pair in pairwise(parts)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, parts in spelt.items():
            spelt[word] = _merged(parts, best)
    letters = [*_bytes(), *(letter + END for letter in _bytes())]
    tokens = [*letters, *dict.fromkeys(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def write(folder: Path) -> None:
    """Writes `vocab.json`, `merges.txt` and the settings. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def tokenizer() -> Any:
    """A CLIPTokenizer of transformers that pads to, and cuts at, 77 tokens."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def ids(made_by: Any, texts: Sequence[str], length: int = LENGTH) -> Tensor:
    """Token ids (N, length) int64 of texts, padded with the end of text as Stable Diffusion does."""
    found = made_by(list(texts), padding="max_length", truncation=True, max_length=length).input_ids
    return torch.tensor(found, dtype=torch.int64)


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part
        else:
            out.append(part)
    return out


def _bytes() -> list[str]:
    """The 256 bytes as GPT-2 and CLIP write them: those that print as they are, the others from 256 on."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return [chr(byte) for byte in printed] + [chr(256 + i) for i in range(len(others))]
