"""The networks of SIGE beyond the goldens: published sizes, the fused layout, checkpoints, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gengauge.reference.nets import ddpm_unet, pd_unet, spade
from gengauge.reference.nets.ddpm_unet import DDPMUNet
from gengauge.reference.nets.pd_unet import PDConfig, PDUNet
from gengauge.reference.nets.published import fit_running_statistics, published_state
from gengauge.reference.nets.spade import SPADEConfig, SPADEGenerator, one_hot_with_edges
from gengauge.reference.nets.unet import UNetConfig, plan

# Attention at the top and in the middle but not at the bottom, widths that grow and shrink, two blocks a level.
TINY = UNetConfig(16, 4, (1, 3, 2), 2, (16, 8), temb_ch=12, in_channels=2, out_ch=5, num_groups=2)
TINY_PD = PDConfig(16, 4, (1, 3, 2), 1, (4, 16), temb_ch=12, out_ch=4, num_groups=2, head_dim=2)
TINY_SPADE = SPADEConfig(128, 2.0, 5, (2,) * 8)
TINY_MOBILE = SPADEConfig(128, 1.0, 5, (2, 3, 1, 2, 4, 1, 2, 3), separable=True)
FUSIBLE = [
    pytest.param(lambda fused: DDPMUNet(TINY, fused), ddpm_unet.fuse, ddpm_unet.unfuse, TINY, id="ddpm"),
    *(
        pytest.param(lambda fused, c=config: SPADEGenerator(c, fused), spade.fuse, spade.unfuse, config, id=name)
        for name, config in (("spade", TINY_SPADE), ("mobile", TINY_MOBILE))
    ),
]
Change = Callable[..., dict[str, Tensor]]


def given(network: nn.Module) -> tuple[Tensor, ...]:
    """Arguments of a batch of two."""
    if isinstance(network, SPADEGenerator):
        return (torch.randn(2, network.config.inputs, *network.config.size),)
    assert isinstance(network, DDPMUNet | PDUNet)
    return torch.randn(2, network.config.in_channels, *(network.config.resolution,) * 2), torch.tensor([0.5, 3.0])


def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    """A network in evaluation whose running statistics are not those of the start."""
    torch.manual_seed(0)
    network = make().eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize(
    ("make", "parameters", "tensors"),
    [
        (DDPMUNet, 113_673_219, 450),
        (lambda: DDPMUNet(fused=True), 113_673_219, 364),
        (PDUNet, 139_578_502, 640),
        (lambda: PDUNet(pd_unet.CHURCH_256), 141_312_390, None),
        (SPADEGenerator, 93_048_003, None),
        (lambda: SPADEGenerator(fused=True), 93_048_003, None),
        (lambda: SPADEGenerator(spade.CITYSCAPES_MOBILE), 20_174_275, None),
        (lambda: SPADEGenerator(spade.CITYSCAPES_MOBILE, fused=True), 20_174_275, None),
    ],
)
def test_published_sizes(make: Callable[[], nn.Module], parameters: int, tensors: int | None) -> None:
    with torch.device("meta"):
        network = make().eval()
        out = network(*given(network))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert tensors is None or len(network.state_dict()) == tensors
    if isinstance(network, SPADEGenerator):
        assert out.shape == (2, 3, 256, 512)
    else:
        assert isinstance(network, DDPMUNet | PDUNet)
        assert out.shape == (2, network.config.out_ch, *(network.config.resolution,) * 2)


def test_published_sizes_of_the_picture() -> None:
    assert spade.CITYSCAPES.size == spade.CITYSCAPES_MOBILE.size == (256, 512)
    assert spade.CITYSCAPES.latent == (4, 8)
    assert [block.hidden for block in spade.plan(spade.CITYSCAPES)] == [128] * 7
    assert [block.inputs for block in spade.plan(spade.CITYSCAPES)] == [1024, 1024, 1024, 1024, 512, 256, 128]


@pytest.mark.parametrize(("make", "fuse", "unfuse", "config"), FUSIBLE)
def test_fused_form_computes_the_same(
    make: Callable[[bool], nn.Module], fuse: Change, unfuse: Change, config: object
) -> None:
    plain = drawn(lambda: make(False))
    state = plain.state_dict()
    names = set(state)
    fused = make(True).eval()
    fused.load_state_dict(fuse(state, config))
    assert set(state) == names, "fuse changed its argument"
    x = given(plain)
    with torch.no_grad():
        assert torch.allclose(plain(*x), fused(*x), atol=2e-6)
    back = unfuse(fused.state_dict(), config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    parts = [value.untyped_storage().data_ptr() for value in back.values() if value.numel()]
    assert len(set(parts)) == len(parts), "parts share memory"


@pytest.mark.parametrize(("make", "fuse", "unfuse", "config"), FUSIBLE)
def test_other_layouts_are_refused(
    make: Callable[[bool], nn.Module], fuse: Change, unfuse: Change, config: object
) -> None:
    plain, fused = make(False).state_dict(), make(True).state_dict()
    with pytest.raises(ValueError, match="missing"):
        fuse(fused, config)
    with pytest.raises(ValueError, match="missing"):
        unfuse(plain, config)


def test_unfusing_another_network_is_refused() -> None:
    state = DDPMUNet(TINY, fused=True).state_dict()
    with pytest.raises(ValueError, match=r"temb\.dense\.2\.weight has \d+ rows"):
        ddpm_unet.unfuse(state, replace(TINY, ch_mult=(1, 3, 4)))


def test_rows_of_the_fused_projection_are_in_execution_order() -> None:
    names = [block.name for block in plan(TINY)]
    assert names[:3] == ["down.0.block.0", "down.0.block.1", "down.1.block.0"]
    assert names[6:12] == ["mid.block_1", "mid.block_2", *(f"up.2.block.{i}" for i in range(3)), "up.1.block.0"]
    assert [b.inputs for b in plan(TINY)][8:] == [16, 16, 20, 20, 24, 16, 16, 8, 8]


def test_attention_stands_where_it_is_asked_for() -> None:
    names = set(DDPMUNet(TINY).state_dict())
    for level, blocks in ((0, True), (1, True), (2, False)):
        assert (f"down.{level}.attn.1.q.weight" in names) == (f"up.{level}.attn.2.q.weight" in names) == blocks
    assert "mid.attn_1.q.weight" in names


def test_progressive_distillation_resamples_in_blocks_and_is_told_the_logsnr() -> None:
    network = drawn(lambda: PDUNet(TINY_PD))
    assert {"down.1.downsample.temb_proj.weight", "up.2.upsample.conv2.bias"} <= set(network.state_dict())
    x, t = given(network)
    with torch.no_grad():
        out = network(x, t)
        assert out.shape == (2, 4, 16, 16)
        assert torch.equal(network(x, torch.tensor([25.0, 3.0]))[0], network(x, torch.tensor([20.0, 3.0]))[0])
        assert not torch.equal(out[0], network(x, torch.tensor([0.6, 3.0]))[0])
    assert torch.allclose(pd_unet.inv_cos(torch.tensor([-20.0, 0.0, 20.0])), torch.tensor([1.0, 0.5, 0.0]), atol=1e-4)


def test_nothing_is_changed_in_place() -> None:
    kept: list[tuple[Tensor, Tensor]] = []
    for network in (DDPMUNet(TINY), PDUNet(TINY_PD), SPADEGenerator(TINY_MOBILE)):
        for module in network.modules():
            module.register_forward_hook(lambda m, i, out: kept.append((out, out.clone())))
        x = given(network)
        before = [part.clone() for part in x]
        with torch.no_grad():
            network.eval()(*x)
        assert all(torch.equal(a, b) for a, b in kept)
        assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


def test_edges_are_set_on_both_sides() -> None:
    instance = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1]]], dtype=torch.int32)
    expected = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.float32)
    out = one_hot_with_edges(instance, instance, 4)
    assert out.shape == (1, 5, 3, 4)
    assert torch.equal(out[0, -1], expected)
    assert torch.equal(out[0, :-1].argmax(0), instance[0].long())
    assert torch.equal(one_hot_with_edges(instance[:, None], instance, 4), out)
    with pytest.raises(ValueError, match="1 to 2 do not fit in 2 labels"):
        one_hot_with_edges(instance, instance, 2)
    with pytest.raises(ValueError, match="of one shape"):
        one_hot_with_edges(instance, instance[:, :2], 4)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="12 px cannot be halved 3 times"):
        UNetConfig(12, 4, (1, 1, 1, 1), 1, (), temb_ch=8)
    with pytest.raises(ValueError, match="heads of 3"):
        PDUNet(replace(TINY_PD, head_dim=3))
    with pytest.raises(ValueError, match="8 numbers of channels, not 7"):
        SPADEConfig(channels=(4,) * 7)
    with pytest.raises(ValueError, match="no map"):
        SPADEConfig(crop_size=32)
    with pytest.raises(ValueError, match=r"\(N, 6, 64, 128\)"):
        SPADEGenerator(TINY_SPADE)(torch.zeros(1, 6, 64, 64))


def test_published_containers_are_read() -> None:
    network = PDUNet(TINY_PD)
    state = network.state_dict()
    averaged = {name: value + 1 for name, value in state.items()}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    flattened = {f"model.{name}": v for name, v in wrapped.items()} | {f"ema.{name}": v for name, v in averaged.items()}
    for container in (state, wrapped, {"model": wrapped, "ema": averaged}, flattened):
        got = published_state(container, network)
        assert list(got) == list(state)
        assert all(got[name] is value for name, value in state.items())
    listed = {"model": state, "ema": list(averaged.values()), "step": 3}
    for container in ({"model": wrapped, "ema": averaged}, flattened, listed):
        got = published_state(container, network, ema=True)
        assert all(torch.equal(got[name], value) for name, value in averaged.items())


def test_incomplete_containers_are_refused_by_name() -> None:
    network = DDPMUNet(TINY)
    state = network.state_dict()
    less = {name: value for name, value in state.items() if name != "conv_out.bias"}
    with pytest.raises(ValueError, match=r"DDPMUNet as configured: missing: conv_out\.bias$"):
        published_state({"model": less}, network)
    with pytest.raises(ValueError, match=r"not of this network: strange$"):
        published_state({**state, "strange": torch.zeros(1)}, network)
    with pytest.raises(ValueError, match="no averaged weights"):
        published_state({"model": state}, network, ema=True)
    with pytest.raises(ValueError, match=r"not complete: missing: conv_out\.bias"):
        published_state({"model": state, "ema": less}, network, ema=True)
    with pytest.raises(ValueError, match="has 1 entries"):
        published_state({"model": state, "ema": [torch.zeros(1)]}, network, ema=True)
    with pytest.raises(ValueError, match="another order"):
        published_state({"model": state, "ema": list(state.values())[::-1]}, network, ema=True)


def test_running_statistics_of_a_larger_network_are_cut() -> None:
    network = SPADEGenerator(TINY_MOBILE)
    state = network.state_dict()
    name = "up_1.norm_0.param_free_norm.running_var"
    longer = {**state, name: torch.cat([state[name] + 1, torch.zeros(7)])}
    del longer["up_1.norm_0.param_free_norm.num_batches_tracked"]
    fitted = fit_running_statistics(published_state(longer, network), network)
    network.load_state_dict(fitted)
    assert fitted[name].shape == state[name].shape
    assert fitted[name].eq(2).all()
    with pytest.raises(ValueError, match=f"{name} has 1 entries"):
        fit_running_statistics({**state, name: torch.ones(1)}, network)
