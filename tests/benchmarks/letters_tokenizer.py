"""A tokenizer of CLIP's kind that knows single letters, and the word "ab", made without a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LETTERS = [chr(i) for i in range(ord("a"), ord("z") + 1)]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>", "ab</w>"]
BOS, EOS = 52, 53


def letters_tokenizer(folder: Path) -> Any:
    """A CLIPTokenizer whose files lie in a folder, cutting at 77 tokens."""
    from transformers import CLIPTokenizer

    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
