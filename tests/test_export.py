"""Exported networks against the bundle's own, computed by the runtime of each format."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import REPOSITORY
from monai.bundle import ConfigParser
from monai.data import load_net_with_metadata
from torch import Tensor

from carde_monai import bioimage, engines, export_formats
from carde_monai.bioimage_description import FILES, describe, readme
from carde_monai.carde_unet import CardeUNet
from carde_monai.errors import InputError
from carde_monai.export import export
from carde_monai.export_model import Model, load_model
from carde_monai.locking import claimed
from carde_monai.provenance import file_digest, model_facts
from carde_monai.sem import pixel_affine

BUNDLE = REPOSITORY / "bundle"
WEIGHTS = BUNDLE / "models" / "model.pt"
TEMPERATURE = json.loads((BUNDLE / "models" / "calibration.json").read_text())["total_temperature"]
SIZES = ((1, 48, 80), (2, 160, 128), (1, 256, 320))  # batch, rows, columns
FORMATS = ("pt", "pt2", "ts", "onnx", "openvino")

Compute = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The shipped bundle in a format, written once."""
    done: dict[str, Path] = {}

    def file(format: str) -> Path:
        if format not in done:
            done[format] = export(tmp_path_factory.mktemp(format), format)[0]
        return done[format]

    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(BUNDLE, [], {}, tmp_path_factory.mktemp("dest"))


def uncalibrated() -> torch.nn.Module:
    """The network of the configs with the weights as they were before the temperature was folded in."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def").eval()
    state = torch.load(WEIGHTS, weights_only=True)
    for name in ("final_conv.weight", "final_conv.bias"):
        state[name] = state[name] * TEMPERATURE
    network.load_state_dict(state)
    return network


def reader(format: str, file: Path) -> Compute:
    """What another program does with a file; the logit of a .pt and a .ts through a sigmoid."""
    if format == "pt":
        parser = ConfigParser()
        parser.read_config(BUNDLE / "configs" / "inference.json")
        network = parser.get_parsed_content("network_def").eval()
        network.load_state_dict(torch.load(file, weights_only=True))
        return lambda image: torch.sigmoid(network(image))
    if format == "ts":
        script = torch.jit.load(file)
        return lambda image: torch.sigmoid(script(image))
    if format == "pt2":
        return torch.export.load(file).module()
    if format == "onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(["probability"], {"image": image.numpy()})[0])
    openvino = engines._openvino()  # an import of our own would tell its makers
    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: torch.from_numpy(compiled({"image": image.numpy()})["probability"])


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_calibrated_probability_on_any_size(format, exported) -> None:
    network, compute = uncalibrated(), reader(format, exported(format))
    noise = torch.Generator().manual_seed(1)
    for batch, rows, columns in SIZES:
        image = torch.randn((batch, 2, rows, columns), generator=noise)
        with torch.no_grad():
            expected = torch.sigmoid(network(image) / TEMPERATURE)
            found = compute(image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def told_in(format: str, file: Path) -> dict[str, Any]:
    """What a file says of its model."""
    if format == "pt":
        return json.loads(file.with_suffix(".json").read_text())
    if format == "ts":
        return load_net_with_metadata(str(file))[1]["export"]
    if format == "pt2":
        extra = {export_formats.TOLD: ""}
        torch.export.load(file, extra_files=extra)
        return json.loads(extra[export_formats.TOLD])
    if format == "onnx":
        texts = {one.key: one.value for one in onnx.load(file).metadata_props}
    else:
        info = engines._core().read_model(file).get_rt_info("carde_monai")
        texts = {key: one.astype(str) for key, one in info.astype(dict).items()}
    return {key: json.loads(one) if one[:1] in "{[" else one for key, one in texts.items()}


@pytest.mark.parametrize("format", FORMATS)
def test_every_file_tells_what_it_takes_and_gives(format, exported) -> None:
    told = told_in(format, exported(format))
    assert told["input"]["channels"] == ["SE2", "InLens"]
    assert "(grey - p25) / (p75 - p25) - 0.5" in told["input"]["normalization"]
    assert told["output"]["name"] == ("logit" if format in ("pt", "ts") else "probability")
    assert float(told["temperature"]) == pytest.approx(TEMPERATURE)
    assert told["calibration"] == "fitted on validation micrographs, folded into the weights"
    assert told["weights_sha256"] == file_digest(WEIGHTS)
    assert told["network"]["_target_"] == "BasicUNet"
    assert format == "pt" or told["input"]["sides"] == "multiples of 16 pixels"


def test_a_pt_is_known_to_be_calibrated(exported) -> None:
    known = model_facts(exported("pt"))["temperature"]
    assert known == f"{TEMPERATURE:.3g}, fitted on validation micrographs"


def test_onnx_is_one_file_of_an_old_format_without_folders_of_this_machine(exported) -> None:
    file = exported("onnx")
    proto = onnx.load(file, load_external_data=False)
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    assert (proto.ir_version, proto.opset_import[0].version) == (export_formats.IR, export_formats.OPSET)
    assert b"site-packages" not in file.read_bytes() and b".py" not in file.read_bytes()


def test_torchscript_holds_the_configs_as_monai_writes_them(exported) -> None:
    _, metadata, extra = load_net_with_metadata(str(exported("ts")), more_extra_files=["inference.json"])
    assert metadata["name"] == "Carbides in SEM micrographs of steel"
    assert json.loads(extra["inference.json"])["network_def"]["_target_"] == "BasicUNet"


def test_the_ending_tells_the_format_and_a_folder_is_made(tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "carde_monai"):
        files = export(tmp_path / "new" / "mine.pt")
        assert files == [tmp_path / "new" / "mine.pt", tmp_path / "new" / "mine.json"]
        assert export(tmp_path / "folder", "pt")[0] == tmp_path / "folder" / "model.pt"
    assert "SE2, InLens to logit" in caplog.text
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["model.json", "model.pt"]


@pytest.mark.parametrize(
    ("dest", "settings", "said"),
    [
        ("out", {}, "does not tell the format; add --format, one of pt, pt2, ts, onnx, openvino, bioimageio"),
        ("out", {"format": "torchscript"}, "--format torchscript: is no format; choose from pt, pt2"),
        ("model.pth", {}, "tells no format"),
        ("model.onnx", {"format": "openvino"}, "has another ending than the format; let it end in .xml"),
        ("file", {"format": "onnx"}, "is a file without an ending"),
        ("m.pt", {"bundle": "nowhere"}, "there is no such bundle"),
        ("m.pt", {"overrides": {"weights": "no.pt"}}, "no.pt: there are no such weights"),
        ("m.pt", {"overrides": {"weights": "a.pt,b.pt"}}, "is an ensemble, a file holds one network"),
        ("m.pt", {"overrides": {"weights": None}}, "leaves nothing to export"),
        ("m.pt", {"overrides": {"wieghts": "a.pt"}}, "is no setting of this bundle; did you mean --weights?"),
        ("m.pt", {"overlays": ["tta"]}, "--overlay tta: computes the probability from several passes"),
        ("m.pt", {"overlays": ["mean_variance"]}, "computes the probability from several passes"),
        ("m.onnx", {"image": "a.nii.gz"}, "--image: is for packages only, not for a file of format onnx"),
        ("m.onnx", {"pixel_size": 0.007}, "--pixel_size: is for packages only"),
        ("m.zip", {"pixel_size": -1}, "-1 is no pixel size"),
        ("m.pt", {"overlays": ["unet"], "overrides": {"depth": 3}}, "weights of another network"),
    ],
)
def test_mistakes_are_told_in_one_line_and_nothing_is_written(dest, settings, said, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError) as caught:
        export(tmp_path / dest, **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_weights_are_not_overwritten_by_themselves(tmp_path) -> None:
    weights = tmp_path / "model.pt"
    weights.write_bytes(WEIGHTS.read_bytes())
    with pytest.raises(InputError, match="holds the weights that are to be exported"):
        export(weights, overrides={"weights": str(weights)})
    assert file_digest(weights) == file_digest(WEIGHTS)


def test_a_failed_export_leaves_the_old_files_alone(tmp_path, monkeypatch) -> None:
    old = tmp_path / "model.pt"
    old.write_text("old")

    def broken(model: Model, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setitem(export_formats.WRITERS, "pt", broken)
    with pytest.raises(OSError, match="No space"):
        export(tmp_path, "pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"] and old.read_text() == "old"


def test_two_runs_do_not_write_into_one_folder(tmp_path) -> None:
    with claimed(tmp_path), pytest.raises(InputError, match="another run of carde-monai is writing there"):
        export(tmp_path, "pt")


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None)
    for name, extra in (("m.onnx", "export"), ("m.zip", "bioimageio")):
        with pytest.raises(InputError, match=rf"not installed here; pip install 'carde-monai\[{extra}\]'"):
            export(tmp_path / name)


@pytest.fixture
def carde(tmp_path: Path) -> dict[str, Any]:
    """Settings for a small network of the publication's kind, five levels deep."""
    torch.manual_seed(0)
    torch.save({"model": CardeUNet(levels=5, features=2).state_dict()}, tmp_path / "carde.pt")
    return {"overlays": ["carde_unet"], "overrides": {"weights": str(tmp_path / "carde.pt")}}


def test_the_step_of_a_deep_network_is_found_and_its_channel_order_told(carde, tmp_path) -> None:
    told = told_in("ts", export(tmp_path / "carde.ts", **carde)[0])
    assert told["input"]["channels"] == ["InLens", "SE2"]
    assert told["input"]["sides"] == "multiples of 32 pixels"
    assert told["input"]["normalization"].startswith("each channel: (grey - p50) / (p75 - p25)")
    assert told["calibration"] == "not known to be calibrated"


def test_a_network_that_no_file_can_hold_is_refused(model, tmp_path) -> None:
    def write(head: torch.nn.Module, path: Path, told: dict[str, Any], step: int) -> Compute:
        if step < 64:
            raise ValueError("cannot trace\nthis")
        return lambda image: head(image) + 0.001

    with pytest.raises(InputError, match=r"cannot hold this network \(.*differs from torch by 0.00"):
        export_formats.write_checked(model, tmp_path / "m.onnx", "onnx", "probability", write)


def test_the_package_says_the_normalisation_as_monai_does_it(model) -> None:
    """Its scale_range is (x - lower) / (upper - lower + eps), its scale_linear x * gain + offset."""
    described = describe(model, 0.00698, 16)
    ranged, linear = (one["kwargs"] for one in described["inputs"][0]["preprocessing"])
    assert ranged["axes"] == ["y", "x"]  # each channel of each image by itself
    greys = np.random.default_rng(0).gamma(4, 20, (2, 64, 96)).astype(np.float32)
    percentiles = (ranged["min_percentile"], ranged["max_percentile"])
    lower, upper = np.percentile(greys, percentiles, axis=(1, 2), keepdims=True)
    found = (greys - lower) / (upper - lower + 1e-6) * linear["gain"] + linear["offset"]
    expected = model.parser.get_parsed_content("normalize")({"image": torch.from_numpy(greys)})["image"]
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)


def test_the_package_tells_axes_in_micrometres_that_divide_without_remainder(model) -> None:
    described = describe(model, 0.00698, 16)
    for tensor in (described["inputs"][0], described["outputs"][0]):
        for axis in tensor["axes"][2:]:
            assert axis["unit"] == "micrometer" and axis["scale"] == pytest.approx(0.00698, rel=1e-7)
            assert all(int(side * axis["scale"] / axis["scale"]) == side for side in range(1, 5000))
    assert "unit" not in describe(model, None, 16)["inputs"][0]["axes"][2]
    assert described["inputs"][0]["axes"][1]["channel_names"] == ["SE2", "InLens"]
    assert all(one["url"].startswith("https://") for one in described["cite"]) and len(described["cite"]) == 2
    assert "# Validation" in readme(model) and "SE2 and InLens" in readme(model)


def prepared(folder: Path, size: tuple[int, int]) -> Path:
    """A micrograph as prepare writes it, of 7 nm pixels; greys tell row, column and channel."""
    rows, columns = np.indices(size)
    greys = np.stack([rows % 200, columns % 200], axis=-1).astype(np.uint8)[:, :, None, None]
    image = nib.Nifti1Image(greys, pixel_affine(0.007))
    image.header.set_xyzt_units("micron")
    nib.save(image, folder / "one.nii.gz")
    return folder / "one.nii.gz"


def test_the_test_image_is_the_middle_of_a_prepared_micrograph(tmp_path) -> None:
    greys, pixel_size = bioimage._micrograph(prepared(tmp_path, (600, 260)))
    assert greys.shape == (2, 512, 256) and pixel_size == pytest.approx(0.007)
    assert list(greys[0, :2, 0]) == [44, 45] and list(greys[1, 0, :2]) == [2, 3]
    with pytest.raises(InputError, match=r"give two channels of at least 128 x 128 px"):
        bioimage._micrograph(prepared(tmp_path, (300, 127)))
    with pytest.raises(InputError, match="is no prepared micrograph"):
        bioimage._micrograph(tmp_path / "one.tif")


def test_the_publications_normalisation_has_no_package(carde, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bioimage, "require", lambda *names: None)
    with pytest.raises(InputError, match="which the specification cannot say; choose --format onnx"):
        export(tmp_path / "carde.zip", **carde)


@pytest.mark.filterwarnings("ignore")  # of packages that we do not use otherwise
def test_the_package_is_valid_and_its_own_steps_give_its_own_output(tmp_path) -> None:
    """scripts/check_bioimageio lets BioImage.IO's own program do the same."""
    spec = pytest.importorskip("bioimageio.spec")
    path = export(tmp_path / "carbides.zip", image=prepared(tmp_path, (300, 300)))[0]
    assert {file.name for file in tmp_path.iterdir()} == {"carbides.zip", "one.nii.gz"}
    described = spec.load_description(path, perform_io_checks=False)
    assert described.validation_summary.status == "valid-format", described.validation_summary
    assert described.inputs[0].axes[2].scale == pytest.approx(0.007)
    with zipfile.ZipFile(path) as package:
        assert set(FILES.values()) <= set(package.namelist())
        package.extractall(tmp_path)
    greys, expected = (np.load(tmp_path / FILES[name]) for name in ("input", "output"))
    lower, upper = np.percentile(greys, (25, 75), axis=(2, 3), keepdims=True)
    image = ((greys - lower) / (upper - lower) - 0.5).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / FILES["weights"], providers=["CPUExecutionProvider"])
    logit = session.run(["logit"], {"image": image})[0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_metadata_that_the_specification_refuses_are_told(model, tmp_path) -> None:
    pytest.importorskip("bioimageio.spec")
    description = describe(model, 0.007, 16) | {"name": "Carbides / steel: v2.0"}
    with pytest.raises(InputError, match=r"the specification refuses name .*correct the bundle's configs"):
        bioimage._package(description, tmp_path, tmp_path / "carbides.zip")
