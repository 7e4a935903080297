"""Lightning checkpoints in carde's format: what imports, and what is refused without running."""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from carde_reference import carde_forward, lightning_checkpoint, random_state

from carde_monai import bundles
from carde_monai.carde_checkpoint import import_carde
from carde_monai.errors import InputError
from carde_monai.locking import claimed
from carde_monai.networks import CardeUNet, UNet
from carde_monai.provenance import file_digest

LEVELS, H = 2, 3


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundles.working_bundle(tmp_path / "bundle")


def save(path: Path, content: Any, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def imported(path: Path) -> CardeUNet:
    content = torch.load(path, weights_only=True)
    assert content.keys() == {"model"}
    return CardeUNet.from_state_dict(content["model"]).eval()


def outputs(network: CardeUNet, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(image)


def test_the_logits_are_divided_by_the_published_temperature(bundle, tmp_path) -> None:
    state = random_state(LEVELS, H)
    checkpoint = save(tmp_path / "epoch=71.ckpt", lightning_checkpoint(state))
    weights = import_carde(checkpoint, bundle)
    assert weights == bundle / "models" / "carde.pt"
    image = torch.randn(1, 2, 16, 24)
    expected = carde_forward(state, image) / 1.8677
    torch.testing.assert_close(outputs(imported(weights), image), expected, rtol=1e-5, atol=1e-5)
    kept = torch.load(weights, weights_only=True)["model"]
    assert list(kept) == list(state)  # neither the loss's nor the metric's states
    for name in state:
        scale = 1.8677 if name.startswith("final.") else 1
        torch.testing.assert_close(kept[name], state[name] / scale if scale > 1 else state[name])
    assert not list(weights.parent.glob(".*")), "nothing half-written is left"


def test_what_was_imported_is_recorded(bundle, tmp_path) -> None:
    checkpoint = save(tmp_path / "best.ckpt", lightning_checkpoint(random_state(LEVELS, H)))
    weights = import_carde(checkpoint, bundle, 2.5)
    assert json.loads(weights.with_suffix(".json").read_text()) == {
        "source": "best.ckpt",
        "source_sha256": file_digest(checkpoint),
        "checkpoint": "carde.pt",
        "checkpoint_sha256": file_digest(weights),
        "levels": LEVELS,
        "features": H,
        "outputs": 1,
        "layer": "final.0",
        "temperature": 2.5,
        "total_temperature": 2.5,
    }


def test_of_mean_variance_only_the_mean_logit_is_divided(bundle, tmp_path) -> None:
    """As by the calibration (`fold_temperature`); without T given nothing is divided."""
    state = random_state(LEVELS, H, outputs=2)
    checkpoint = save(tmp_path / "mve.ckpt", lightning_checkpoint(state))
    image = torch.randn(1, 2, 8, 8)
    plain = carde_forward(state, image)
    as_published = outputs(imported(import_carde(checkpoint, bundle)), image)
    torch.testing.assert_close(as_published, plain, rtol=1e-5, atol=1e-5)
    scaled = outputs(imported(import_carde(checkpoint, bundle, 2)), image)
    torch.testing.assert_close(scaled[:, 0], plain[:, 0] / 2, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scaled[:, 1], plain[:, 1], rtol=1e-5, atol=1e-5)


def test_a_new_bundle_is_made_and_an_import_repeated(tmp_path) -> None:
    checkpoint = save(tmp_path / "a.ckpt", lightning_checkpoint(random_state(1, 2)))
    first = import_carde(checkpoint, tmp_path / "new").read_bytes()
    assert (tmp_path / "new" / "configs" / "carde_unet.json").is_file()
    assert import_carde(checkpoint, tmp_path / "new").read_bytes() == first, "T is not folded in twice"


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_become_float32(half, bundle, tmp_path) -> None:
    state = {
        name: one.to(half) if one.is_floating_point() else one for name, one in random_state(1, 2).items()
    }
    weights = import_carde(save(tmp_path / "half.ckpt", lightning_checkpoint(state)), bundle, 1)
    for name, one in torch.load(weights, weights_only=True)["model"].items():
        torch.testing.assert_close(one, state[name].float() if one.is_floating_point() else state[name])


@pytest.mark.parametrize(
    "hyper_parameter",
    [None, True, 3, 2.5, 1j, "x", b"x", [1], (1,), {1}, {"a": 1}, OrderedDict(a=1), Counter("ab")],
    ids=lambda one: type(one).__name__,
)
@pytest.mark.parametrize("zipped", [True, False])
def test_hyper_parameters_of_plain_types_pass(hyper_parameter, zipped, bundle, tmp_path) -> None:
    content = lightning_checkpoint(random_state(1, 2)) | {"hyper_parameters": {"x": hyper_parameter}}
    checkpoint = save(tmp_path / "a.ckpt", content, _use_new_zipfile_serialization=zipped)
    assert imported(import_carde(checkpoint, bundle)).features == 2


@pytest.mark.parametrize(
    ("hyper_parameter", "named"),
    [(Path("data"), "pathlib"), (np.float64(1), "numpy"), (torch.nn.ReLU, "ReLU")],
)
def test_hyper_parameters_of_other_types_are_named(hyper_parameter, named, tmp_path) -> None:
    content = lightning_checkpoint(random_state(1, 2)) | {"hyper_parameters": {"x": hyper_parameter}}
    with pytest.raises(InputError, match=rf"a\.ckpt: holds program objects .*{named}.*state_dict alone"):
        import_carde(save(tmp_path / "a.ckpt", content), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_program_code_is_refused_and_does_not_run(kind, tmp_path) -> None:
    ran, checkpoint = tmp_path / "ran", tmp_path / "evil.ckpt"
    content = lightning_checkpoint(random_state(1, 2)) | {"callbacks": Evil(ran)}
    if kind == "pickle":
        checkpoint.write_bytes(pickle.dumps(content))
    else:
        save(checkpoint, content, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(InputError, match=r"evil\.ckpt: .*program (code|objects)") as caught:
        import_carde(checkpoint, tmp_path / "bundle")
    assert "\n" not in str(caught.value) and not ran.exists() and not (tmp_path / "bundle").exists()


def test_what_is_no_checkpoint_of_carde_is_refused(tmp_path) -> None:
    def refused(path: Path, why: str) -> None:
        with pytest.raises(InputError, match=why) as caught:
            import_carde(path, tmp_path / "bundle")
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)

    whole = save(tmp_path / "whole.ckpt", lightning_checkpoint(random_state(1, 2))).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no weights " * 9}.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        refused(path, "is no checkpoint, is cut off")
    refused(tmp_path / "missing.ckpt", "there is no such file")
    refused(tmp_path, "is a folder")
    refused(save(tmp_path / "tensor.ckpt", torch.ones(2)), "holds no weights")
    refused(save(tmp_path / "list.ckpt", {"state_dict": [1]}), "holds no weights")
    refused(save(tmp_path / "ours.ckpt", {"state_dict": random_state(1, 2)}), r"names begin with model\.")
    refused(
        save(tmp_path / "other.ckpt", lightning_checkpoint(UNet(1, 2).state_dict())), "no weights of carde's"
    )
    missing = {name: one for name, one in random_state(2, 2).items() if name != "up.0.bias"}
    refused(save(tmp_path / "missing.pt", lightning_checkpoint(missing)), r"first difference: up\.0\.bias")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("temperature", [0, -1.5, float("nan"), float("inf"), True, "warm"])
def test_an_impossible_temperature_is_refused(temperature, tmp_path) -> None:
    checkpoint = save(tmp_path / "a.ckpt", lightning_checkpoint(random_state(1, 2)))
    with pytest.raises(InputError, match=r"--temperature .*no positive number"):
        import_carde(checkpoint, tmp_path / "bundle", temperature)
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path) -> None:
    checkpoint = save(tmp_path / "a.ckpt", lightning_checkpoint(random_state(1, 2)))
    with pytest.raises(InputError, match="is not a bundle"):
        import_carde(checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


def test_weights_that_another_run_writes_are_left_alone(bundle, tmp_path) -> None:
    checkpoint = save(tmp_path / "a.ckpt", lightning_checkpoint(random_state(1, 2)))
    with (
        claimed(bundle / "models"),
        pytest.raises(InputError, match="another run of carde-monai is writing there"),
    ):
        import_carde(checkpoint, bundle)
    assert not list((bundle / "models").glob("carde*"))
