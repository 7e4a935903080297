"""bfloat16 on the CPU, where MONAI's engines have none."""

from __future__ import annotations

import torch
from monai.networks.nets import BasicUNet

from carde_monai.networks import autocast


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
