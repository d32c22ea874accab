"""Names of Stable Diffusion's files: small and full-size networks through both layouts, and files that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from latent_diffusion_files import State, published, small_autoencoder, small_unet
from torch import nn

from gengauge.reference.nets.latent_diffusion import (
    AUTOENCODER,
    UNET,
    diffusers_state,
    latent_diffusion_state,
    stable_diffusion_autoencoder,
    stable_diffusion_unet,
    with_memory,
)


@pytest.fixture(scope="module", params=[small_unet, small_autoencoder], ids=["unet", "autoencoder"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = request.param().eval()
    return made


def assert_loaded(network: nn.Module, state: State) -> None:
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_every_tensor_comes_to_its_place(network: nn.Module) -> None:
    others = {"cond_stage_model.w": torch.ones(1), "model_ema.decay": torch.ones(1), "betas": torch.ones(2)}
    tensors = published(network)
    assert len(tensors) == len(network.state_dict())
    assert_loaded(network, latent_diffusion_state(tensors | others, network))
    nested = {f"state_dict.{name}": tensor for name, tensor in tensors.items()}
    assert_loaded(network, latent_diffusion_state(nested, network))
    assert_loaded(network, diffusers_state(network.state_dict(), network))


def test_a_network_made_of_a_file_computes_the_same() -> None:
    torch.manual_seed(1)
    network = small_unet().eval()
    with torch.device("meta"):
        empty = small_unet()
    made = with_memory(empty, latent_diffusion_state({n: t.half() for n, t in published(network).items()}, empty))
    given = torch.randn(1, 4, 16, 16), torch.tensor([3]), torch.randn(1, 5, 24)
    with torch.no_grad():
        expected = network.half().float()(*given).sample
        assert torch.equal(made(*given).sample, expected)
    assert not made.training
    assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_autoencoders_of_before_release_0_13_of_diffusers() -> None:
    network = small_autoencoder()
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in new.items():
            name = name.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        old[name] = tensor[..., None, None] if name.endswith("query.weight") else tensor
    assert_loaded(network, diffusers_state(old, network))


@pytest.mark.parametrize(
    ("make", "prefix", "number"),
    [(stable_diffusion_unet, UNET, 686), (stable_diffusion_autoencoder, AUTOENCODER, 248)],
    ids=["unet", "autoencoder"],
)
def test_version_1_in_full_size_by_names_and_shapes(make: Callable[[], nn.Module], prefix: str, number: int) -> None:
    with torch.device("meta"):
        network = make()
    tensors = published(network)
    assert len(tensors) == number
    known = {
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        f"{UNET}input_blocks.3.0.op.weight": (320, 320, 3, 3),
        f"{UNET}middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        f"{UNET}output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        f"{UNET}output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        f"{UNET}output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        f"{UNET}out.2.weight": (4, 320, 3, 3),
        f"{AUTOENCODER}encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
        f"{AUTOENCODER}decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        f"{AUTOENCODER}decoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        f"{AUTOENCODER}quant_conv.weight": (8, 8, 1, 1),
    }
    assert all(tensors[name].shape == shape for name, shape in known.items() if name.startswith(prefix))
    state = latent_diffusion_state(tensors, network)
    assert [tensor.shape for tensor in state.values()] == [t.shape for t in network.state_dict().values()]


def test_what_does_not_fit_is_named(network: nn.Module) -> None:
    tensors = published(network)
    with pytest.raises(ValueError, match=r"no file of latent diffusion: it has no tensor .*\(it has w, \.\.\.\)"):
        latent_diffusion_state({"w": torch.ones(1)}, network)
    with pytest.raises(ValueError, match="it has none"):
        latent_diffusion_state({}, network)
    first, *_, last = tensors
    for name in (first, last, next(n for n in tensors if n.endswith("conv.bias"))):
        with pytest.raises(ValueError, match="missing"):
            latent_diffusion_state({n: t for n, t in tensors.items() if n != name}, network)
    with pytest.raises(ValueError, match=r"of another shape: \S+ \(7, 9\), not \("):
        latent_diffusion_state(tensors | {first: torch.ones(7, 9)}, network)
    with pytest.raises(ValueError, match=f"not of real numbers: {next(iter(network.state_dict()))}"):
        latent_diffusion_state(tensors | {first: tensors[first].long()}, network)
    with pytest.raises(ValueError, match=r"no weights of \w+ as configured: not of this network: stranger"):
        diffusers_state(network.state_dict() | {"stranger": torch.ones(1)}, network)
    with pytest.raises(ValueError, match=r"missing: .* and \d+ more"):
        diffusers_state({}, network)
