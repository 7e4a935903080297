"""carde's network once more, from its description, as functions on a state dict, for tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def block_shapes(name: str, a: int, b: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    widths = [a, int((a + b) / 2), b]
    for n in (0, 1):
        shapes[f"{name}.conv.conv{n}.weight"] = (widths[n + 1], widths[n], 3, 3)
        shapes[f"{name}.conv.conv{n}.bias"] = (widths[n + 1],)
        for part in NORM:
            shapes[f"{name}.conv.batch_norm{n}.{part}"] = () if "batches" in part else (widths[n + 1],)
    return shapes


def carde_shapes(levels: int, h: int, outputs: int = 1) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, in the order in which Lightning writes them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(levels):
        shapes |= block_shapes(f"down.{n}", 2 if n == 0 else h * 2 ** (n - 1), h * 2**n)
    shapes |= block_shapes("middle", h * 2 ** (levels - 1), h * 2**levels)
    for n in range(levels):
        shapes[f"up.{n}.weight"] = (h * 2 ** (n + 1), h * 2**n, 2, 2)
        shapes[f"up.{n}.bias"] = (h * 2**n,)
    for n in range(levels):
        shapes |= block_shapes(f"conv.{n}", h * 2 ** (n + 1), h * 2**n)
    return shapes | {"final.0.weight": (outputs, h, 1, 1), "final.0.bias": (outputs,)}


def random_state(levels: int, h: int, outputs: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Weights as after some training: statistics of batch norm that are not 0 and 1, lively output."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in carde_shapes(levels, h, outputs).items():
        draw = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(500)
        elif ".batch_norm" in name and name.endswith(("weight", "running_var")):
            state[name] = 1 + draw.abs()
        elif ".batch_norm" in name:
            state[name] = 0.5 + 0.3 * draw  # so that few units are dead
        else:
            gain = 4 if name.startswith("final.") else 1  # logits of some size
            state[name] = gain * draw / torch.Size(shape[1:]).numel() ** 0.5
    return state


def carde_forward(state: State, x: Tensor) -> Tensor:
    """Logits (B, outputs, H, W) as the published code computes them in evaluation."""

    def block(name: str, x: Tensor) -> Tensor:
        for n in (0, 1):
            conv, norm = f"{name}.conv.conv{n}", f"{name}.conv.batch_norm{n}"
            x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], padding=1)
            mean, var = (state[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var"))
            scale, shift = (state[f"{norm}.{part}"][:, None, None] for part in ("weight", "bias"))
            x = torch.relu((x - mean) / torch.sqrt(var + 1e-5) * scale + shift)
        return x

    levels = sum(name.startswith("up.") and name.endswith(".weight") for name in state)
    skips = [block("down.0", x)]
    for n in range(1, levels):
        skips.append(F.max_pool2d(block(f"down.{n}", skips[-1]), 2))
    x = block("middle", F.max_pool2d(skips[-1], 2))
    for n in reversed(range(levels)):
        up = F.conv_transpose2d(x, state[f"up.{n}.weight"], state[f"up.{n}.bias"], stride=2)
        x = block(f"conv.{n}", torch.cat([up, skips[n]], dim=1))
    return F.conv2d(x, state["final.0.weight"], state["final.0.bias"])


def lightning_checkpoint(state: State) -> dict[str, object]:
    """What Lightning writes around the weights, with states of a loss and a metric among them."""
    return {
        "epoch": 85,
        "global_step": 10320,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": {f"model.{name}": one for name, one in state.items()}
        | {"loss.weight": torch.ones(3), "val_metric.total": torch.tensor(4.0)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 86}}}},
        "callbacks": {
            "EarlyStopping{'monitor': 'validation_loss'}": {
                "best_score": torch.tensor(0.0455),
                "patience": 14,
            },
            "ModelCheckpoint": {"best_model_path": "version_3/epoch=71.ckpt", "kth_value": torch.tensor(1.0)},
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(10.0)}}, "param_groups": [{"lr": 2e-4}]}],
        "lr_schedulers": [{"factor": 0.5, "best": 0.0455, "mode": "min", "_last_lr": [1e-4]}],
        "MixedPrecision": {"scale": 65536.0, "_growth_tracker": 3},
        "hyper_parameters": {"lr": 2e-4, "blocks": 3, "hidden_layers_block1": 128, "layers_per_block": 2},
    }
