"""The feature networks: equal to other implementations with the same weights, and to what they are known to say."""

from __future__ import annotations

import warnings

import lpips as package
import pytest
import torch

from gengauge.benchmarks.features.extract import extract
from gengauge.benchmarks.features.networks import load_network
from gengauge.datasets import weights
from gengauge.reference.nets import inception, lpips
from gengauge.reference.nets.efficientnet_lite import EfficientNetLite0, SameConv2d


def test_inception_has_its_published_names_and_counts() -> None:
    network = inception.Inception2015(with_logits=True)
    names = {name for name, _ in network.named_parameters()}
    assert {
        "Conv2d_1a_3x3.conv.weight",
        "Mixed_6c.branch7x7dbl_4.bn.bias",
        "Mixed_7c.branch3x3_2b.conv.weight",
    } <= names
    trunk = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("fc."))
    buffers = sum(b.numel() for n, b in network.named_buffers() if "running" in n)
    # The carrier's 21.80 million values are weights, biases, means and variances; its scales of one are not stored.
    scales = sum(p.numel() for n, p in network.named_parameters() if n.endswith("bn.weight"))
    assert trunk + buffers - scales == sum(v.numel() for v in weights.load("inception").values())


def test_folding_the_batch_norms_changes_nothing() -> None:
    torch.manual_seed(0)
    network = inception.Inception2015().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    x = torch.rand(2, 3, 299, 299) * 2 - 1
    with torch.no_grad():
        slow, fast = network(x), inception.fold_batch_norm(network)(x)
    assert (slow - fast).abs().max() <= 1e-5 * slow.abs().max()


def test_inception_refuses_another_size_and_logits_without_a_classifier() -> None:
    network = inception.Inception2015()
    with pytest.raises(ValueError, match="resize first"):
        network(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="no classifier"):
        network.logits(torch.zeros(1, 2048))


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_lpips_equals_the_lpips_package(trunk: lpips.Trunk) -> None:
    state = lpips.from_carrier_keys(weights.load(f"lpips-{trunk}"))
    ours = lpips.LPIPS(trunk)
    ours.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by its old arguments
        theirs = package.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    heads = {k: v for k, v in theirs.state_dict().items() if k.startswith("lin") and not k.startswith("lins")}
    for key, value in heads.items():
        assert torch.equal(state[key], value), key
    theirs.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 64, 70, generator=generator) * 2 - 1 for _ in range(2))
    with torch.no_grad():
        found, expected = ours.eval()(a, b), theirs.eval()(a, b).flatten()
        assert ours(a, a).abs().max() == 0
    assert torch.allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        ours(a, b[:1])


def test_efficientnet_knows_a_cat() -> None:
    from skimage import data

    network = load_network("efficientnet-lite0")
    assert network.probabilities is not None
    cat, coffee = (torch.from_numpy(p).permute(2, 0, 1)[None].contiguous() for p in (data.chelsea(), data.coffee()))
    best = [int(network.probabilities(torch.from_numpy(extract(p, network))).argmax()) for p in (cat, coffee)]
    assert best == [285, 967]  # Egyptian cat, espresso


def test_same_padding_puts_the_odd_pixel_right_and_below() -> None:
    convolution = SameConv2d(1, 1, 2, 1, bias=False)
    torch.nn.init.ones_(convolution.weight)
    out = convolution(torch.ones(1, 1, 3, 3))
    assert out[0, 0].tolist() == [[4, 4, 2], [4, 4, 2], [2, 2, 1]]
    assert EfficientNetLite0()(torch.zeros(1, 3, 224, 224)).shape == (1, 1280)
