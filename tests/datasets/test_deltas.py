"""Deltas of customised models: their layouts on disk, one from the other, and files that are something else."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gengauge.datasets.delta_files import LAYOUTS, Layout, read_delta, write_delta
from gengauge.datasets.delta_names import (
    from_latent_diffusion,
    from_processor,
    is_key_or_value,
    to_latent_diffusion,
    to_processor,
)
from gengauge.datasets.deltas import Delta, check_fits, renamed, samples, shapes, whole
from gengauge.datasets.unpickling import DamagedCheckpoint, UnsafeCheckpoint

BLOCKS = ("down_blocks.0.attentions.1", "mid_block.attentions.0", "up_blocks.3.attentions.2")
K, V = "transformer_blocks.0.attn2.to_k.weight", "transformer_blocks.0.attn2.to_v.weight"
OTHERS = ("to_q.weight", "to_out.0.weight", "to_out.0.bias")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def base() -> dict[str, Tensor]:
    names = [f"{block}.{end}" for block in BLOCKS for end in (K, V)]
    return {name: drawn(12, 8, seed=i) for i, name in enumerate(names)} | {"conv_in.weight": drawn(3, 4, 3, 3)}


def delta_of(tokens: tuple[str, ...] = ("<new2>", "<new1>"), crossattn: bool = False) -> Delta:
    weights = {name: w + 0.1 * drawn(12, 8, seed=9) for name, w in base().items() if w.ndim == 2}
    if crossattn:
        ends = [f"{block}.transformer_blocks.0.attn2.{end}" for block in BLOCKS for end in OTHERS]
        weights |= {name: drawn(12) if name.endswith("bias") else drawn(12, 12) for name in ends}
    return Delta(weights, {token: (drawn(8, seed=20 + i),) for i, token in enumerate(tokens)})


def factors_of(rank: int = 2) -> Delta:
    names = [name for name in base() if is_key_or_value(name)]
    pairs = {name: (drawn(12, rank, seed=i), drawn(rank, 8, seed=50 + i)) for i, name in enumerate(names)}
    return Delta({}, {"<new1>": (drawn(8),)}, pairs, base=samples(base(), names))


def same(a: Delta, b: Delta) -> None:
    assert a.weights.keys() == b.weights.keys()
    assert a.factors.keys() == b.factors.keys()
    assert [*a.tokens] == [*b.tokens]
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    for name, pair in a.factors.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, b.factors[name], strict=True))
    for token, vectors in a.tokens.items():
        assert all(torch.equal(x, y) for x, y in zip(vectors, b.tokens[token], strict=True))


def path_of(folder: Path, layout: Layout) -> Path:
    names: dict[Layout, str] = {"delta": "delta.bin", "compvis": "delta_epoch=000004.ckpt", "gengauge": "a.safetensors",
                                "diffusers": "pytorch_custom_diffusion_weights.bin"}  # fmt: skip
    return folder / layout / names[layout]


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("input_blocks.1.1", "down_blocks.0.attentions.0"),
        ("input_blocks.5.1", "down_blocks.1.attentions.1"),
        ("input_blocks.8.1", "down_blocks.2.attentions.1"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("output_blocks.3.1", "up_blocks.1.attentions.0"),
        ("output_blocks.11.1", "up_blocks.3.attentions.2"),
    ],
)
def test_names_of_blocks(theirs: str, ours: str) -> None:
    for end in (K, V, *(f"transformer_blocks.9.attn2.{end}" for end in OTHERS)):
        assert from_latent_diffusion(f"model.diffusion_model.{theirs}.{end}") == f"{ours}.{end}"
        assert from_latent_diffusion(f"{theirs}.{end}") == f"{ours}.{end}"
        assert to_latent_diffusion(f"{ours}.{end}") == f"model.diffusion_model.{theirs}.{end}"


def test_names_of_a_whole_u_net_of_stable_diffusion() -> None:
    """All 32 weights and their shapes, without memory for them; each name there and back."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    chosen = {name: p for name, p in network.named_parameters() if is_key_or_value(name)}
    assert len(chosen) == 32
    assert sum(p.numel() for p in chosen.values()) == 19_169_280
    every = [name for name, _ in network.named_parameters() if ".attn2." in name]
    assert len({to_latent_diffusion(name) for name in every}) == len(every) == 80
    assert [from_latent_diffusion(to_latent_diffusion(name)) for name in every] == every
    assert [from_processor(to_processor(name)) for name in every] == every
    blocks = {to_latent_diffusion(name).split(".1.transformer")[0].partition("model.")[2] for name in chosen}
    down, up = ({f"diffusion_model.{side}_blocks.{i}" for i in numbers}
                for side, numbers in (("input", (1, 2, 4, 5, 7, 8)), ("output", range(3, 12))))  # fmt: skip
    assert blocks == down | up | {"diffusion_model.middle_block"}


def test_names_of_a_u_net_of_one_layer_a_level() -> None:
    assert from_latent_diffusion(f"output_blocks.1.1.{K}", layers=1) == f"up_blocks.0.attentions.1.{K}"
    assert to_latent_diffusion(f"down_blocks.1.attentions.0.{K}", layers=1).startswith(
        "model.diffusion_model.input_blocks.3."
    )


@pytest.mark.parametrize(
    "name",
    [f"input_blocks.0.1.{K}", f"input_blocks.3.1.{K}", f"input_blocks.1.0.{K}", "input_blocks.1.1.proj_in.weight",
     f"middle_block.1.1.{K}", f"cond_stage_model.{K}", ""],
)  # fmt: skip
def test_names_that_are_no_attention_of_latent_diffusion(name: str) -> None:
    with pytest.raises(ValueError, match=r"no attention"):
        from_latent_diffusion(name)


@pytest.mark.parametrize("name", [f"down_blocks.0.attentions.2.{K}", f"mid_block.attentions.1.{K}", "conv_in.weight"])
def test_names_that_are_no_attention_of_diffusers(name: str) -> None:
    with pytest.raises(ValueError, match=r"no attention"):
        to_latent_diffusion(name)


@pytest.mark.parametrize("name", ["a.attn2.to_k.0.weight", "a.attn2.to_out.weight", "a.attn1.to_k.weight"])
def test_names_that_have_no_processor(name: str) -> None:
    with pytest.raises(ValueError, match="is no weight of a cross-attention"):
        to_processor(name)


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crossattn", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_weights_and_tokens(layout: Layout, crossattn: bool, tmp_path: Path) -> None:
    delta, path = delta_of(crossattn=crossattn), path_of(tmp_path, layout)
    write_delta(path, delta)
    names = None if layout in ("delta", "gengauge") else [*delta.tokens]
    same(read_delta(path, names), delta)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("layout", ["delta", "compvis", "gengauge"])
def test_factors(layout: Layout, rank: int, tmp_path: Path) -> None:
    delta, path = factors_of(rank), path_of(tmp_path, layout)
    write_delta(path, delta)
    read = read_delta(path)
    same(read, delta)
    found = whole(read, base())
    for name, (u, v) in delta.factors.items():
        assert torch.allclose(found.weights[name], base()[name] + u @ v)
    assert delta.numbers == 6 * rank * (12 + 8) + 8


def test_any_layout_into_any_other(tmp_path: Path) -> None:
    delta = delta_of(("<new1>", "<new2>"))
    for first in LAYOUTS:
        for second in LAYOUTS:
            places = [path_of(tmp_path / f"{first}-{second}{i}", layout) for i, layout in enumerate((first, second))]
            write_delta(places[0], delta)
            write_delta(places[1], read_delta(places[0]))
            same(read_delta(places[1]), delta)


def test_the_published_layouts_are_these(tmp_path: Path) -> None:
    delta = delta_of(("<new1>", "<new2>"))
    for layout in LAYOUTS:
        write_delta(path_of(tmp_path, layout), delta)
    theirs = torch.load(path_of(tmp_path, "delta"), weights_only=True)
    assert theirs.keys() == {"unet", "modifier_token"}
    assert theirs["modifier_token"]["<new2>"].shape == (8,)
    state = torch.load(path_of(tmp_path, "compvis"), weights_only=True)["state_dict"]
    assert torch.equal(state["embed"], torch.stack([each[0] for each in delta.tokens.values()]))
    assert f"model.diffusion_model.output_blocks.11.1.{K}" in state
    folder = path_of(tmp_path, "diffusers").parent
    assert torch.load(folder / "<new1>.bin", weights_only=True)["<new1>"].shape == (8,)
    processors = torch.load(path_of(tmp_path, "diffusers"), weights_only=True)
    assert f"{BLOCKS[0]}.transformer_blocks.0.attn2.processor.to_k_custom_diffusion.weight" in processors
    assert processors[f"{BLOCKS[0]}.transformer_blocks.0.attn1.processor"] == {}


def test_two_text_encoders_and_weights_of_theirs(tmp_path: Path) -> None:
    state = {"embeddings.token_embedding.weight": drawn(5, 8)}
    delta = Delta(delta_of().weights, {"<a.b>": (drawn(8), drawn(6)), "<c>": (drawn(8), drawn(6, seed=1))},
                  text_encoders={"text_encoder": state, "text_encoder_2": state})  # fmt: skip
    for layout in ("delta", "gengauge"):
        path = path_of(tmp_path, layout)
        write_delta(path, delta)
        read = read_delta(path)
        same(read, delta)
        assert {name: [*each] for name, each in read.text_encoders.items()} == {
            "text_encoder": [*state],
            "text_encoder_2": [*state],
        }
    several = replace(delta, text_encoders={})
    for layout in ("compvis", "diffusers"):
        with pytest.raises(ValueError, match="no place for a text encoder's weights"):
            write_delta(path_of(tmp_path, layout), delta)
        with pytest.raises(ValueError, match="no place for tokens of several text encoders"):
            write_delta(path_of(tmp_path, layout), several)


def test_positions_of_old_text_encoders_are_left_out(tmp_path: Path) -> None:
    state = {"text_model.embeddings.position_ids": torch.arange(77)[None], "a.weight": drawn(2)}
    torch.save({"unet": delta_of().weights, "text_encoder": state}, tmp_path / "delta.bin")
    assert [*read_delta(tmp_path).text_encoders["text_encoder"]] == ["a.weight"]


def test_token_files_of_diffusers(tmp_path: Path) -> None:
    """Their script writes safetensors under the name .bin at times (issue 9320); other names are given."""
    write_delta(tmp_path / "pytorch_custom_diffusion_weights.safetensors", delta_of(()))
    save_file({"<new1>": drawn(8)}, tmp_path / "<new1>.bin")
    torch.save({"sks": drawn(8)}, tmp_path / "sks.bin")
    assert [*read_delta(tmp_path).tokens] == ["<new1>"]
    assert [*read_delta(tmp_path, ["sks", "<new1>"]).tokens] == ["sks", "<new1>"]
    with pytest.raises(DamagedCheckpoint, match="no file of the token <new9> beside it"):
        read_delta(tmp_path, ["<new9>"])
    torch.save({"<new3>": drawn(8)}, tmp_path / "<new1>.bin")
    with pytest.raises(DamagedCheckpoint, match=r"<new1>\.bin beside it holds <new3>"):
        read_delta(tmp_path)


def test_what_diffusers_writes_itself(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

    network = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=6, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    own = dict(network.named_parameters())
    processors: dict[str, Any] = {}
    for name in network.attn_processors:
        layer, cross = name.removesuffix(".processor"), ".attn2." in name
        hidden = own[f"{layer}.to_q.weight"].shape[0]
        processors[name] = CustomDiffusionAttnProcessor(cross, cross, hidden, 6 if cross else None)
    network.set_attn_processor(processors)
    trained = {name: p for name, p in network.named_parameters() if "custom_diffusion" in name}
    for safe in (True, False):
        network.save_attn_procs(tmp_path / str(safe), safe_serialization=safe)
        delta = read_delta(tmp_path / str(safe))
        check_fits(delta, own)
        assert len(delta.weights) == len(trained) > 0
        assert all(torch.equal(delta.weights[from_processor(name)], p) for name, p in trained.items())


def test_halves_are_read_as_single_and_written_on_demand(tmp_path: Path) -> None:
    delta, path = delta_of(), tmp_path / "a.safetensors"
    write_delta(path, delta, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    read = read_delta(path)
    assert all(torch.equal(read.weights[name], w.half().float()) for name, w in delta.weights.items())
    with pytest.raises(ValueError, match=r"in torch\.float16 conv_in\.weight holds NaN or infinity"):
        write_delta(path, Delta({"conv_in.weight": drawn(2) * 1e6}), dtype=torch.float16)
    same(read_delta(path), read)


def test_our_own_file_keeps_the_base_and_the_order_of_tokens(tmp_path: Path) -> None:
    delta = replace(delta_of(("<z>", "<a>")), base=samples(base(), delta_of().names))
    write_delta(tmp_path / "a.safetensors", delta)
    read = read_delta(tmp_path / "a.safetensors")
    assert [*read.tokens] == ["<z>", "<a>"]
    check_fits(read, base())


# -- whose delta it is -------------------------------------------------------------------------------------------------


def test_a_delta_of_another_model_is_told_apart() -> None:
    delta, mine = replace(delta_of(), base=samples(base(), delta_of().names)), base()
    check_fits(delta, mine)
    tuned = {name: w * 1.001 for name, w in mine.items()}
    with pytest.raises(ValueError, match=r"learnt on another .*attn2\.to_._?.*than this U-Net's"):
        check_fits(delta, tuned)
    check_fits(delta, tuned, any_base=True)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        check_fits(delta, {name: w.to(dtype) for name, w in mine.items()})
        check_fits(replace(delta, base={name: w.to(dtype) for name, w in delta.base.items()}), mine)
    name = delta.names[0]
    with pytest.raises(ValueError, match="which this U-Net does not have; load the model it is for"):
        check_fits(delta, {other: w for other, w in mine.items() if other != name}, any_base=True)
    with pytest.raises(ValueError, match=r"as \(12, 8\), this U-Net as \(12, 9\)"):
        check_fits(delta, {**mine, name: drawn(12, 9)})
    with pytest.raises(ValueError, match=r"as \(12, 8\), this U-Net as \(12, 9\)"):
        whole(factors_of(), {**mine, factors_of().names[0]: drawn(12, 9)})
    with pytest.raises(ValueError, match="the base has no"):
        samples({}, delta.names)


def test_renamed_tokens() -> None:
    delta = delta_of(("<a>", "<b>"))
    other = renamed(delta, {"<a>": "<b>", "<b>": "<a>"})
    assert [*other.tokens] == ["<b>", "<a>"]
    assert torch.equal(other.tokens["<b>"][0], delta.tokens["<a>"][0])
    with pytest.raises(ValueError, match="two tokens would have the same name"):
        renamed(delta, {"<a>": "<b>"})
    with pytest.raises(ValueError, match="the delta has no token <z>; it has <a>, <b>"):
        renamed(delta, {"<z>": "<a>"})


def test_shapes_and_numbers() -> None:
    assert {*shapes(factors_of()).values()} == {(12, 8)}
    assert delta_of().numbers == 6 * 12 * 8 + 2 * 8


# -- what is no delta --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({}, "at least one weight or token"),
        ({"weights": {"a": drawn(2, 2)}, "factors": {"a": (drawn(2, 1), drawn(1, 2))}}, "a is there whole and"),
        ({"factors": {"a": (drawn(2, 1), drawn(2, 2))}}, r"the factors of a are \(2, 1\) and \(2, 2\)"),
        ({"weights": {"a": drawn(2) * math.nan}}, "a holds NaN or infinity"),
        ({"weights": {"a": torch.arange(2)}}, "not plain floats"),
        ({"tokens": {"<v>": ()}}, "there is one"),
        ({"tokens": {"<v>": (drawn(2, 2),)}}, "there is one"),
        ({"tokens": {"<v>": (drawn(2),), "<w>": (drawn(3),)}}, r"of <w> are \(\(3,\),\), and others"),
        ({"tokens": {"../x": (drawn(2),)}}, "is no name of a token"),
        ({"tokens": {"a b": (drawn(2),)}}, "is no name of a token"),
        ({"tokens": {"..": (drawn(2),)}}, "is no name of a token"),
        ({"tokens": {"<v>": (drawn(2) / 0,)}}, r"<v> \(0\) holds NaN or infinity"),
        ({"weights": {"a": drawn(2)}, "text_encoders": {"text_encoder": {"b": drawn(1) / 0}}}, "b holds NaN"),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together(parts: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Delta(**parts)


def test_layouts_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds whole weights only"):
        write_delta(path_of(tmp_path, "diffusers"), factors_of())
    with pytest.raises(ValueError, match="a delta's name ends with"):
        write_delta(tmp_path / "a.pt", delta_of())
    with pytest.raises(ValueError, match="there is no layout 'webui'"):
        write_delta(tmp_path / "a.pt", delta_of(), "webui")  # type: ignore[arg-type]
    for layout, match in (("compvis", "no attention weight"), ("diffusers", "no weight of a cross-attention")):
        with pytest.raises(ValueError, match=match):
            write_delta(path_of(tmp_path, layout), Delta({"conv_in.weight": drawn(2)}))  # type: ignore[arg-type]
    assert not [*tmp_path.rglob("*.*")]


class Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("called",)


def test_damaged_and_hostile_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "delta.bin"
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_delta(path)
    with pytest.raises(FileNotFoundError, match="holds no delta"):
        read_delta(tmp_path)
    torch.save({"unet": delta_of().weights, "modifier_token": Call()}, path)
    with pytest.raises(UnsafeCheckpoint, match=r"delta\.bin is refused"):
        read_delta(path)
    assert capsys.readouterr().out == ""
    for layout in LAYOUTS:
        file = path_of(tmp_path, layout)
        write_delta(file, delta_of())
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=file.name.replace("+", "[+]")):
            read_delta(file)
    path.write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(DamagedCheckpoint, match="no checkpoint of a known format"):
        read_delta(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"unet": {"a": {"u": drawn(2, 1)}}}, "one of the two factors of a"),
        ({"unet": {"a": {"u": drawn(2, 1), "v": drawn(2, 2)}}}, r"\(2, 1\) and \(2, 2\)"),
        ({"unet": {"a": drawn(2) / 0}}, "a holds NaN or infinity"),
        ({"unet": {}, "modifier_token": {"<v>": drawn(1, 2)}}, "there is one"),
        ({"conv.weight": drawn(2)}, "it holds conv.weight, which is no part of a delta"),
        (drawn(2), "a tensor without a name"),
        (
            {"state_dict": {"model.diffusion_model.out.0.weight": drawn(2)}},
            "no attention weight of the latent diffusion",
        ),
        ({"state_dict": {"embed": drawn(2)}}, "there is one"),
        ({"unet": {}}, "at least one weight or token"),
        ({"a.attn2.processor.to_x_custom_diffusion.weight": drawn(2)}, "no weight of diffusers' Custom Diffusion"),
        ({"modifier_token": {"<v>": {"0": drawn(2), "2": drawn(2)}}}, "not numbered from 0"),
    ],
)
def test_files_that_hold_something_else(content: Any, match: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "delta.bin")
    with pytest.raises(DamagedCheckpoint, match=match):
        read_delta(tmp_path)


def test_tokens_of_the_latent_diffusion_code_have_as_many_names_as_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    write_delta(path, delta_of())
    assert [*read_delta(path).tokens] == ["<new1>", "<new2>"]
    for names in (["<a>"], ["<a>", "<a>"]):
        with pytest.raises(DamagedCheckpoint, match="it holds 2 tokens, which are to be called <a>"):
            read_delta(path, names)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"version": "2"}, "its version is '2', and this gengauge reads 1"),
        ({"tokens": "[1]"}, "does not tell the order"),
        ({"tokens": "[" * 10_000}, "a.safetensors"),
        ({"tokens": json.dumps(["<new1>"])}, "it says tokens"),
    ],
)
def test_our_own_file_with_other_settings(told: dict[str, str], match: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_delta(path, delta_of())
    right = {"format": "gengauge delta", "version": "1", "tokens": json.dumps([*delta_of().tokens])}
    save_file(load_file(path), path, {**right, **told})
    with pytest.raises(DamagedCheckpoint, match=match):
        read_delta(path)
