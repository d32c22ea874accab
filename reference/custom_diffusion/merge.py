"""Two or more concepts in one model without training (Kumari et al. 2023, section 3.2 and appendix A).

Each key and value matrix W of the cross-attentions is to give a concept's own words the values that the model tuned for
that concept gives them, and otherwise to stay near the pretrained W0 on common captions: min ||(W - W0) C_reg^T|| such
that C W^T = V. Features of text are rows (n, d) of the text encoder's last hidden state, after its final norm.

`text_features` makes such rows of prompts, `prepare` solves what all matrices share, and `merge` merges them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

Variant = Literal["diffusers", "compvis"]
# Token ids (B, L) to the last hidden state (B, L, d).
Encoder = Callable[[Tensor], Tensor]
T = TypeVar("T")
PREFIX = "photo of a"
PREFIX_WITHIN = 15  # characters of a caption
EQUAL = 1e-5  # how far apart, as a share of its length, two encodings of one row may be


# -- prompts and features ----------------------------------------------------------------------------------------------


def target_prompts(
    category: str, token: str, variant: Variant = "diffusers", style: bool | None = None
) -> tuple[str, str]:
    """The two prompts whose rows are a concept's targets, such as "<new1> cat" and "photo of a <new1> cat".

    The published codes take a category with the letters "art" in it for a style; `style` overrides that. `variant`
    `compvis` says "a photo of <new1> cat", whose first words `feature_rows` keeps. Raises ValueError for no category or
    token, and another variant.
    """
    if not category.strip() or not token.strip():
        raise ValueError("a concept has a category and a token")
    if variant not in ("diffusers", "compvis"):
        raise ValueError(f"there is no variant {variant!r}; there are diffusers and compvis")
    what = f"{token} {category}"
    if "art" in category if style is None else style:
        return what, f"painting in the style of {what}"
    return what, f"{PREFIX} {what}" if variant == "diffusers" else f"a photo of {what}"


def has_prefix(caption: str) -> bool:
    """Whether a caption counts as beginning with "photo of a": its first 15 characters hold that, as published."""
    return PREFIX in caption[:PREFIX_WITHIN]


def feature_rows(features: Tensor, ids: Sequence[int], eos: int, prefix: bool = False) -> Tensor:
    """The rows of a caption's features (L, d) that count: after the first, to the end-of-text one, which stays.

    `ids` are the L token ids, padded or not. With `prefix` the three rows after the first go too. Raises ValueError for
    ids without an end, or of another number.
    """
    if features.ndim != 2 or len(features) != len(ids):
        raise ValueError(f"features {tuple(features.shape)} are no rows of {len(ids)} tokens")
    if eos not in ids[1:]:
        raise ValueError(f"the caption has no end-of-text token {eos}; give ids as the tokenizer makes them")
    end = list(ids).index(eos, 1) + 1
    return features[4 if prefix else 1 : end]


@torch.no_grad()
def text_features(
    encode: Encoder, ids: Sequence[Sequence[int]], captions: Sequence[str], eos: int, batch: int = 64
) -> Tensor:
    """The rows (n, d) of all captions, one caption after the other, by the rule of `feature_rows` and `has_prefix`.

    `ids` are unpadded, with begin and end of text. Captions of one length go through the encoder together: nothing has
    to be padded, so the rows are those of each caption alone. Raises ValueError for no captions, or differing numbers.
    """
    if not captions or len(ids) != len(captions):
        raise ValueError(f"{len(ids)} rows of token ids for {len(captions)} captions; at least one is needed")
    by_length: dict[int, list[int]] = {}
    for number, each in enumerate(ids):
        by_length.setdefault(len(each), []).append(number)
    rows: dict[int, Tensor] = {}
    for numbers in by_length.values():
        for start in range(0, len(numbers), batch):
            chosen = numbers[start : start + batch]
            encoded = encode(torch.tensor([list(ids[number]) for number in chosen]))
            for number, features in zip(chosen, encoded, strict=True):
                rows[number] = feature_rows(features, ids[number], eos, has_prefix(captions[number]))
    return torch.cat([rows[number] for number in range(len(captions))])


def distinct(features: Sequence[Tensor]) -> list[Tensor]:
    """Each concept's target rows without those that an earlier row, of any concept, equals up to rounding.

    Prompts of two concepts that begin alike ("a photo of", "painting in the style of") have equal rows, and targets
    that are equal and have two values have no solution. The first concept's value is kept, as in the `compvis` code;
    the `diffusers` one keeps all rows, which with its prompts differ unless both concepts are styles.
    """
    seen = torch.cat(list(features)).double()
    lengths = seen.norm(dim=1)
    alike = torch.cdist(seen, seen) <= EQUAL * lengths
    new = ~alike.tril(-1).any(1)
    return [rows[kept] for rows, kept in zip(features, new.split([len(each) for each in features]), strict=True)]


def in_order(tokens: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """The first token of each concept, called <new1>, <new2>, ... in the order of the concepts, as published.

    Raises ValueError for a concept without a token.
    """
    for number, each in enumerate(tokens, 1):
        if not each:
            raise ValueError(f"concept {number} has no token, so no prompt could name it; merge those trained with one")
    return {f"<new{number}>": next(iter(each.values())) for number, each in enumerate(tokens, 1)}


# -- the solution ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Constraint:
    """What all matrices share: `targets` C (s, d) and `gain` (C A^-1 C^T)^-1 C A^-1 (s, d), A = C_reg^T C_reg; float64.

    `condition` is that of A with the ridge, `target_condition` that of C A^-1 C^T: the digits that are lost are about
    the logarithm of their roots' product.
    """

    targets: Tensor
    gain: Tensor
    condition: float
    target_condition: float

    def missing(self, w0: Tensor, values: Tensor) -> Tensor:
        """What w0 (o, d) lacks to give the targets their values (s, o): as those, float64.

        Raises ValueError for other shapes and for values that are not finite.
        """
        s, d = self.targets.shape
        if w0.ndim != 2 or w0.shape[1] != d or values.shape != (s, len(w0)):
            raise ValueError(f"W0 {tuple(w0.shape)} and values {tuple(values.shape)} do not go with targets {(s, d)}")
        _check_finite("W0", w0)
        _check_finite("the values", values)
        return values.to(self.targets) - self.targets @ w0.to(self.targets).T

    def solve(self, w0: Tensor, values: Tensor) -> Tensor:
        """The matrix (o, d) nearest to w0 that gives the targets their values (s, o): float64. Raises as `missing`."""
        return w0.to(self.targets) + self.missing(w0, values).T @ self.gain


@dataclass(frozen=True)
class MergeReport:
    """How well a merge went: conditions as of `Constraint`, and the mean norm of the residuals over rows and matrices.

    `target_residual` is that of the constraint, about 0; `drift` that of common captions' rows, which is as large as
    the concepts need.
    """

    condition: float
    target_condition: float
    target_residual: float
    drift: float


def prepare(c_reg: Tensor, c_target: Tensor, ridge: float = 0.0) -> Constraint:
    """Solves what does not depend on a matrix, of common captions' rows (m, d) and targets' rows (s, d).

    `ridge` adds that share of A's mean diagonal to it, which makes it regular where captions are few; constraints hold
    still. QR decompositions take the place of the published inverse, whose error grows with the square of theirs.

    Raises ValueError where A is singular as far as the features' type can tell, where there are more targets than
    dimensions or some depend on others, and for features of the wrong kind.
    """
    for name, features in (("regularisation", c_reg), ("target", c_target)):
        if features.ndim != 2 or not features.numel() or not features.is_floating_point():
            raise ValueError(f"{name} features are (n, d) floats, not {features.dtype} {tuple(features.shape)}")
        _check_finite(f"the {name} features", features)
    (s, d), m = c_target.shape, len(c_reg)
    if c_reg.shape[1] != d:
        raise ValueError(f"regularisation features are of {c_reg.shape[1]} dimensions, targets of {d}")
    if s > d:
        raise ValueError(f"{s} targets cannot all hold in {d} dimensions; merge fewer concepts or shorter categories")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"the ridge is {ridge}; it is 0 or above")
    # Values that the features' own rounding makes are no values; half precision counts as the published code's single.
    noise = max(torch.finfo(torch.promote_types(c_reg.dtype, torch.float32)).eps, torch.finfo(torch.float64).eps)
    c, a = c_target.detach().double(), c_reg.detach().double().to(c_target.device)
    if ridge:
        scale = math.sqrt(ridge * float(a.square().sum()) / d)
        a = torch.cat([a, scale * torch.eye(d, dtype=a.dtype, device=a.device)])
        noise = torch.finfo(torch.float64).eps
    if len(a) < d:
        raise ValueError(f"{m} rows of captions cannot hold {d} dimensions; give more captions, or a ridge of 1e-6")
    r = torch.linalg.qr(a, mode="r").R
    condition = _condition(r)
    if condition * noise * 4 > 1:
        raise ValueError(
            f"the captions' features do not span all {d} dimensions (condition {condition**2:.1e}); "
            "give more and other captions, or a ridge of 1e-6"
        )
    g = torch.linalg.solve_triangular(r, c, upper=True, left=False)  # C A^-1 C^T is g g^T
    q, t = torch.linalg.qr(g.T)
    target_condition = _condition(t)
    if target_condition * noise * 4 > 1:
        raise ValueError(
            f"the {s} targets are not independent (condition {target_condition**2:.1e}): "
            "are two concepts of the same words? remove rows that others equal (distinct)"
        )
    gain = torch.linalg.solve_triangular(t, q.T, upper=True)
    gain = torch.linalg.solve_triangular(r.T, gain, upper=False, left=False)
    return Constraint(c, gain, condition**2, target_condition**2)


def merge(
    base: Mapping[str, Tensor],
    tuned: Sequence[Mapping[str, Tensor]],
    c_reg: Tensor,
    c_targets: Sequence[Tensor],
    ridge: float = 0.0,
) -> tuple[dict[str, Tensor], MergeReport]:
    """The merged key and value weights by name, float64, and how well it went.

    `base` holds the pretrained weights, `tuned` those of each concept, with the same names, and `c_targets` each
    concept's own rows (s_n, d), encoded with its own token. Raises ValueError as `prepare` does, for differing names,
    and for weights that text does not go through.
    """
    if len(tuned) != len(c_targets) or not tuned:
        raise ValueError(f"{len(tuned)} concepts with targets of {len(c_targets)}; at least one is needed")
    names = list(tuned[0])
    if not any(tuned):
        raise ValueError("no concept has weights of its own to merge; tokens alone can be used together as they are")
    for number, each in enumerate(tuned, 1):
        if other := each.keys() ^ set(names):
            raise ValueError(f"concept {number} differs from the first in which weights it has: {min(other)}")
    for name in names:
        if not name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            raise ValueError(f"{name} is no key or value of a cross-attention; only these can be merged")
        if name not in base:
            raise ValueError(f"the base has no {name}: it is another model's")
    constraint = prepare(c_reg, torch.cat(list(c_targets)), ridge)
    moved = c_reg.detach().to(constraint.targets) @ constraint.gain.T  # the change of W has rank s
    merged, residuals = {}, []
    for name in names:
        tuned_values = [
            c.double() @ each[name].detach().to(c.device).double().T for c, each in zip(c_targets, tuned, strict=True)
        ]
        values, w0 = torch.cat(tuned_values), base[name].detach()
        missing = constraint.missing(w0, values)
        merged[name] = w0.to(missing) + missing.T @ constraint.gain
        missed = constraint.targets @ merged[name].T - values
        residuals.append((missed.norm(dim=1).mean().item(), (moved @ missing).norm(dim=1).mean().item()))
    target, drift = (sum(each) / len(each) for each in zip(*residuals, strict=True))
    return merged, MergeReport(constraint.condition, constraint.target_condition, target, drift)


def _condition(triangle: Tensor) -> float:
    values = torch.linalg.svdvals(triangle)
    return math.inf if values[-1] == 0 else float(values[0] / values[-1])


def _check_finite(name: str, tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} hold values that are no finite numbers")
