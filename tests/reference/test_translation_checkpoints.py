"""Published checkpoints of translation: the configuration off names and shapes, prefixes, old statistics, refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gengauge.reference.cut.recipes import SINCUT
from gengauge.reference.nets.drn import DRN, DRN_D_22, DRN_D_105, DRNConfig
from gengauge.reference.nets.stylegan2.translation import StyleTranslator
from gengauge.reference.nets.translation_checkpoints import (
    GeneratorConfig,
    bare_state,
    from_published,
    published_config,
    published_drn,
)
from gengauge.reference.nets.translation_resnet import ResnetGenerator

PLAIN: dict[str, Any] = {
    "n_blocks": 9, "ngf": 4, "input_nc": 3, "output_nc": 3, "norm": "instance", "dropout": False, "antialias": True,
    "antialias_up": True,
}  # fmt: skip


def prefixed(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"n_blocks": 6, "ngf": 3, "input_nc": 1, "output_nc": 2},
        {"n_blocks": 1, "antialias": False, "antialias_up": False},
        {"n_blocks": 2, "antialias": False},
        {"n_blocks": 2, "antialias_up": False},
        {"n_blocks": 2, "dropout": True},
        {"n_blocks": 2, "norm": "batch"},
        {"n_blocks": 2, "norm": "batch", "dropout": True, "antialias": False, "antialias_up": False},
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_residual_generators_are_told_from_names_and_shapes(changed: dict[str, Any], prefix: str) -> None:
    arguments = {**PLAIN, **changed}
    state = ResnetGenerator(**arguments).state_dict()
    found = published_config(prefixed(state, prefix))
    assert found == GeneratorConfig("resnet", arguments)
    mapped = from_published(prefixed(state, prefix), found.build())
    assert list(mapped) == list(state)
    assert all(mapped[name] is value for name, value in state.items())


def test_the_published_generator_is_the_default() -> None:
    with torch.device("meta"):
        found = published_config(ResnetGenerator().state_dict())
        assert found.arguments == {**PLAIN, "ngf": 64}
        assert len(found.build().state_dict()) == 52


@pytest.mark.parametrize(
    "arguments",
    [
        dict(SINCUT.generator),
        {"ngf": 10, "crop_size": 64, "n_blocks": 2, "inject_noise": False},
        {"ngf": 4, "crop_size": 32, "num_downsampling": 2, "n_blocks": 4},
        {"ngf": 32, "crop_size": 64, "num_downsampling": 2, "n_blocks": 0},
        {"ngf": 3, "crop_size": 256, "input_nc": 1, "output_nc": 4},
    ],
)
def test_style_generators_are_told_from_names_and_shapes(arguments: dict[str, Any]) -> None:
    network = StyleTranslator(**arguments)
    state = network.state_dict()
    found = published_config(prefixed(state))
    assert found.networks == "stylegan2"
    made = found.build()
    assert isinstance(made, StyleTranslator)
    assert made.widths == network.widths
    made.load_state_dict(from_published(prefixed(state), made))
    x = torch.randn(1, network.input_nc, 16, 16)
    assert torch.equal(
        made(x, generator=torch.Generator().manual_seed(0)), network(x, generator=torch.Generator().manual_seed(0))
    )
    if arguments == dict(SINCUT.generator):
        assert {name: found.arguments[name] for name in arguments} == arguments


def norms(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.InstanceNorm2d)]


def test_statistics_of_old_instance_norms_are_dropped_and_others_are_not() -> None:
    network = ResnetGenerator(n_blocks=2, ngf=4, antialias=False, antialias_up=False)
    state = network.state_dict()
    old = dict(state)
    for name in norms(network):
        old[f"{name}.running_mean"] = torch.zeros(4)
        old[f"{name}.running_var"] = torch.full((4,), torch.nan)
        old[f"{name}.num_batches_tracked"] = torch.tensor(7)
    assert published_config(old).arguments == {
        **PLAIN, "n_blocks": 2, "antialias": False, "antialias_up": False,
    }  # fmt: skip
    assert from_published(old, network).keys() == state.keys()
    old["model.3.running_mean"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"in excess: model\.3\.running_mean"):
        from_published(old, network)


def test_batch_norms_keep_their_statistics_and_may_lack_the_counter() -> None:
    network = ResnetGenerator(n_blocks=1, ngf=4, norm="batch")
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert from_published(state, network).keys() == network.state_dict().keys()
    del state["model.2.running_var"]
    with pytest.raises(ValueError, match=r"missing: model\.2\.running_var"):
        from_published(state, network)


def test_a_state_dict_that_does_not_fit_names_what_is_the_matter() -> None:
    network = ResnetGenerator(n_blocks=1, ngf=4)
    state = network.state_dict()

    def refused(changed: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            from_published({**state, **changed}, network)

    refused(
        {"model.99.weight": torch.zeros(1), "x": torch.zeros(1)}, r"ResnetGenerator.*in excess: model\.99\.weight, x"
    )
    refused({"model.4.bias": torch.zeros(3)}, r"model\.4\.bias has the shape \(3,\), the network needs \(8,\)")
    refused({"model.4.bias": torch.full((8,), torch.inf)}, r"model\.4\.bias has values that are not finite")
    refused({"model.4.bias": torch.zeros(8).to_sparse()}, r"model\.4\.bias is no plain tensor")
    with pytest.raises(ValueError, match=r"missing: model\.1\.weight, model\.1\.bias.*; in excess: encoder"):
        from_published({"encoder": torch.zeros(1)}, network)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, r"no generator: neither.*missing: model\.1\.weight, model\.12\.conv_block"),
        ({"model.model.0.weight": torch.zeros(1, 1, 4, 4)}, "neither the residual one"),
        ({"model.1.weight": torch.zeros(3), "model.2.conv_block.1.weight": torch.zeros(1)}, "no generator"),
        ({"encoder.convs.1.0.weight": torch.zeros(8, 3, 1, 1)}, "encoder or decoder is not whole"),
        (
            {
                "encoder.convs.1.0.weight": torch.zeros(9, 3, 1, 1),
                "encoder.convs.2.conv1.0.weight": torch.zeros(9, 9, 3, 3),
                "encoder.convs.2.conv2.0.kernel": torch.zeros(4, 4),
                "encoder.convs.2.conv2.1.weight": torch.zeros(7, 9, 3, 3),
                "decoder.convs.1.0.weight": torch.zeros(3, 9, 1, 1),
            },
            r"none has layers of \[9, 7\] channels",
        ),
    ],
)
def test_what_is_no_generator_is_refused(state: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        published_config(state)


def test_a_discriminator_is_no_generator() -> None:
    with pytest.raises(ValueError, match="no generator"):
        published_config(SINCUT.build()[1].state_dict())


@pytest.mark.parametrize("config", [DRN_D_22, DRN_D_105, DRNConfig("basic", (1, 2, 1, 1), (2, 3, 4, 5, 6, 7, 8, 9))])
@pytest.mark.parametrize("prefix", ["", "module.", "state_dict.module."])
def test_drns_are_told_from_names_and_shapes(config: DRNConfig, prefix: str) -> None:
    with torch.device("meta"):
        state = prefixed(DRN(config, 19).state_dict(), prefix)
        state |= {"best_prec1": torch.zeros(())} if prefix.startswith("state") else {}
        found = published_drn(state)
        assert {k: v.shape for k, v in found.state_dict().items()} == {k: v.shape for k, v in bare_state(state).items()}
        assert found.state_dict().keys() == DRN(config, 19).state_dict().keys()


def test_other_networks_are_no_drn() -> None:
    with torch.device("meta"):
        state = DRN(DRN_D_22, 19).state_dict()
    with pytest.raises(ValueError, match=r"no checkpoint of a DRN-D for segmentation: missing: base\.0\.0\.weight"):
        published_drn(ResnetGenerator(1, 4).state_dict())
    with pytest.raises(ValueError, match=r"missing: base\.5\.0\.conv1\.weight"):
        published_drn({k: v for k, v in state.items() if not k.startswith("base.5.")})
    with pytest.raises(ValueError, match=r"missing: seg\.weight"):  # the trunk as it comes from ImageNet
        published_drn({k: v for k, v in state.items() if not k.startswith("seg.")})


def test_what_would_compute_something_else_is_refused() -> None:
    state = dict(ResnetGenerator(2, 4).state_dict())
    name = next(key for key in state if key.endswith("filt"))
    with pytest.raises(ValueError, match=f"{name} is another filter"):
        from_published({**state, name: torch.zeros_like(state[name])}, ResnetGenerator(2, 4))
    with pytest.raises(ValueError, match="is empty"):
        published_config({**state, "model.1.weight": torch.zeros(0, 3, 7, 7)})
