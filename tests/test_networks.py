"""bfloat16 on the CPU, where MONAI's engines have none; networks that equal MONAI's and carde's."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from carde_reference import carde_forward, carde_shapes, random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import BasicUNet
from torch import nn

from carde_monai.errors import InputError
from carde_monai.networks import CardeUNet, UNet, autocast, carde_unet, for_training


def test_autocast_computes_in_bfloat16_and_returns_float32_with_the_same_parameters() -> None:
    torch.manual_seed(0)
    network = BasicUNet(
        spatial_dims=2, in_channels=2, out_channels=1, features=(8, 8, 8, 8, 8, 8), norm="batch"
    )
    network.eval()
    names, image = list(network.state_dict()), torch.rand(1, 2, 32, 32)
    seen = []
    network.final_conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad():
        exact = network(image)
        assert autocast(network, False) is network
        mixed = autocast(network, True)(image)
    assert seen == [torch.float32, torch.bfloat16]
    assert mixed.dtype == torch.float32 and list(network.state_dict()) == names
    assert not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.05)


def output(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(image)


@pytest.mark.parametrize(("size", "padded"), [((32, 48), set()), ((32, 37), {"replicate"})])
def test_a_network_in_training_pads_only_where_sizes_differ(size, padded, monkeypatch) -> None:
    torch.manual_seed(0)
    plain = BasicUNet(spatial_dims=2, in_channels=2, out_channels=1, features=(4,) * 6, norm="batch")
    image = torch.rand(1, 2, *size)
    expected = output(plain, image)
    network = copy.deepcopy(for_training(plain, "cpu", False))  # as a moving average of its weights is
    modes, pad = set(), torch.nn.functional.pad
    monkeypatch.setattr(
        torch.nn.functional, "pad", lambda x, sides, mode: (modes.add(mode), pad(x, sides, mode))[1]
    )
    torch.testing.assert_close(output(network, image), expected)
    assert modes == padded


@pytest.mark.parametrize("norm", ["batch", ("instance", {"affine": True})])
@pytest.mark.parametrize("size", [(32, 48), (50, 37)])  # the second is padded inside, as MONAI does
def test_unet_of_depth_4_is_monais_basic_unet(norm, size) -> None:
    features = (4, 6, 8, 10, 12, 5)
    torch.manual_seed(1)
    theirs = BasicUNet(spatial_dims=2, in_channels=2, out_channels=1, features=features, norm=norm)
    torch.manual_seed(1)
    ours = UNet(4, features, norm=norm)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for name, one in ours.state_dict().items():  # the same start from the same seed
        torch.testing.assert_close(one, state[name], rtol=0, atol=0)
    image = torch.rand(2, 2, *size)
    torch.testing.assert_close(output(ours, image), output(theirs, image), rtol=0, atol=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_unet_doubles_its_features_down_to_any_depth(depth) -> None:
    network = UNet(depth, 3, in_channels=2, out_channels=2)
    side = 2**depth
    seen = []
    network[f"down_{depth}"].register_forward_hook(lambda module, inputs, result: seen.append(result.shape))
    assert output(network, torch.rand(1, 2, side, 3 * side)).shape == (1, 2, side, 3 * side)
    assert seen == [(1, 3 * 2**depth, 1, 3)]
    assert output(network, torch.rand(1, 2, side + 1, 2 * side - 1)).shape == (1, 2, side + 1, 2 * side - 1)
    with pytest.raises(InputError, match=f"at least {side}"):
        network(torch.rand(1, 2, side - 1, 64))


@pytest.mark.parametrize("depth", [0, 6, 2.0, True, "3"])
def test_unet_of_no_depth_is_refused(depth) -> None:
    with pytest.raises(InputError, match="whole number from 1 to 5"):
        UNet(depth)


@pytest.mark.parametrize("features", [0, (4, 4, 4), (4, 4, 4, 4, 4), (4, 4.5, 4, 4), "8888"])
def test_unet_of_unfit_features_is_refused(features) -> None:
    with pytest.raises(InputError, match="give the first level's width or 4 widths"):
        UNet(2, features)


@pytest.mark.parametrize(("levels", "h", "outputs"), [(1, 5, 1), (2, 3, 1), (3, 4, 1), (4, 2, 1), (3, 4, 2)])
def test_cardes_network_equals_its_description(levels, h, outputs) -> None:
    state = random_state(levels, h, outputs)
    network = CardeUNet.from_state_dict(state)
    assert list(network.state_dict()) == list(carde_shapes(levels, h, outputs))
    image = torch.randn(2, 2, 2 * 2**levels, 3 * 2**levels)
    result = output(network, image)
    assert result.shape == (2, outputs, *image.shape[2:]) and float(result.std()) > 0.05
    torch.testing.assert_close(result, carde_forward(state, image), rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(levels=st.integers(1, 5), h=st.integers(1, 40), outputs=st.integers(1, 2))
def test_cardes_network_has_the_tensors_of_the_checkpoint(levels, h, outputs) -> None:
    with torch.device("meta"):
        state = CardeUNet(levels, h, out_channels=outputs).state_dict()
    assert {name: tuple(one.shape) for name, one in state.items()} == carde_shapes(levels, h, outputs)


def test_the_published_network_has_its_published_size() -> None:
    with torch.device("meta"):
        network = CardeUNet()
    assert len(network.state_dict()) == 106
    assert sum(one.numel() for one in network.parameters()) == 30_715_478


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(InputError, match="holds no weights of carde's network"):
        CardeUNet.from_state_dict(UNet(3, 4).state_dict())
    state = random_state(2, 3)
    del state["up.1.bias"]
    with pytest.raises(InputError, match=r"mine\.pt: .*another network.*first difference: up\.1\.bias"):
        CardeUNet.from_state_dict(state, "mine.pt")
    wider = random_state(2, 3) | {"middle.conv.conv1.bias": torch.zeros(13)}
    with pytest.raises(InputError, match=r"first difference: middle\.conv\.conv1\.bias"):
        CardeUNet.from_state_dict(wider)
    with pytest.raises(InputError, match=r"first difference: loss\.weight"):
        CardeUNet.from_state_dict(random_state(2, 3) | {"loss.weight": torch.ones(1)})


def test_cardes_network_says_which_sizes_fit() -> None:
    with pytest.raises(InputError, match=r"input of 44 x 40 px.*multiples of 8"):
        CardeUNet(3, 1)(torch.rand(1, 2, 40, 44))


@pytest.mark.parametrize("size", [{"levels": 0}, {"features": 0}, {"levels": 2.0}, {"features": True}])
def test_cardes_network_of_no_size_is_refused(size) -> None:
    with pytest.raises(InputError, match="whole number above 0"):
        CardeUNet(**size)


def test_the_file_of_weights_says_the_size_of_the_network(tmp_path: Path) -> None:
    file, pair = tmp_path / "a.pt", tmp_path / "pair.pt"
    state = random_state(2, 3)
    torch.save({"model": state}, file)
    torch.save(random_state(1, 4, outputs=2), pair)  # training writes the bare state dict
    for weights in (file, str(file), f"{file},{pair}"):  # of an ensemble the first
        network = carde_unet(weights)
        assert (network.levels, network.features) == (2, 3)
    torch.testing.assert_close(dict(network.state_dict()), state)
    assert carde_unet(pair, levels=1, out_channels=2).features == 4
    with pytest.raises(InputError, match="has 2 outputs, logit and sigma, not 1"):
        carde_unet(pair)
    with pytest.raises(InputError, match="has 1 output, not 2"):
        carde_unet(file, out_channels=2)
    with pytest.raises(InputError, match="has 2 levels and 3 features"):
        carde_unet(file, features=8)


def test_without_weights_the_network_is_new() -> None:
    network = carde_unet(None, levels=1, features=2, out_channels=2)
    assert network.state_dict().keys() == carde_shapes(1, 2).keys()
    assert network.final[0].out_channels == 2


@pytest.mark.parametrize("network", [UNet(2, 4), UNet(5, 1), CardeUNet(2, 3)])
def test_torchscript_computes_the_same(network) -> None:
    """What ckpt_export writes."""
    image = torch.rand(1, 2, 32, 64)
    scripted = torch.jit.script(network.eval())
    torch.testing.assert_close(output(scripted, image), output(network, image), rtol=1e-5, atol=1e-6)
