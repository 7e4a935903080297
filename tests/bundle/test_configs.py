"""The actual configs, run through monai.bundle on small synthetic steel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from conftest import REPOSITORY, SHORT, SMALL
from mlflow import MlflowClient
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from carde_monai import bundles
from carde_monai.errors import InputError
from carde_monai.particles import label_particles
from carde_monai.sem import find_micrographs

CONFIGS = REPOSITORY / "bundle" / "configs"


def files(*names: str) -> list[str]:
    return [str(CONFIGS / f"{name}.json") for name in names]


def copy(bundle: Path, folder: Path) -> Path:
    return Path(shutil.copytree(bundle, folder / "bundle"))


def run(bundle: Path, names: list[str], training: bool = True, **overrides) -> ConfigWorkflow:
    return bundles.run(bundle, names, {**SMALL, **overrides} if training else overrides, training)


def width(picture: Path) -> int:
    with Image.open(picture) as image:
        return image.width


def bundle_command(*words: str, **settings) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle`` in a process of its own, away from the repository."""
    command = [sys.executable, "-m", "monai.bundle", *words]
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_training_writes_weights_state_and_table(trained: Path) -> None:
    table = pd.read_csv(trained / "eval" / "training.csv")
    assert list(table["epoch"]) == [1, 2]
    assert {"loss", "learning_rate", "images_per_second", "val_mean_dice", "val_loss"} <= set(table)
    assert table["loss"].between(0, 1).all() and (table["images_per_second"] > 0).all()
    state = torch.load(trained / "models" / "last.pt", weights_only=True)
    assert set(state) == {"network", "optimizer", "lr_scheduler", "early_stop", "best_model", "training"}
    assert {path.name for path in (trained / "models").glob("*.pt")} == {"model.pt", "last.pt"}


def test_training_is_recorded_in_mlflow(trained: Path) -> None:
    record = json.loads((trained / "models" / "mlflow_run.json").read_text())
    client = MlflowClient(record["tracking_uri"])
    run = client.get_run(record["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.003"
    assert len(client.get_metric_history(record["run_id"], "by_epoch/val_mean_dice")) == 2
    names = {artifact.path for artifact in client.list_artifacts(record["run_id"])}
    assert {"config.json", "metadata.json", "model.pt", "training_curve.png"} <= names


def test_evaluating_the_saved_checkpoint_gives_the_score_of_the_training(trained, dataset, tmp_path) -> None:
    table = pd.read_csv(trained / "eval" / "training.csv")
    overrides = {"dataset_dir": str(dataset), "sections": ["validation"], "output_dir": str(tmp_path)}
    run(trained, ["train", "evaluate"], tracking_uri=None, **overrides)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics["network_dice"].mean() == pytest.approx(table["val_mean_dice"].max(), abs=1e-5)


def test_evaluation_scores_network_and_baseline_on_test_and_holdout(trained, dataset, tmp_path) -> None:
    record, store = tmp_path / "run.json", f"sqlite:///{tmp_path}/mlflow.db"
    settings = {"output_dir": str(tmp_path), "tracking_uri": store, "run_file": str(record)}
    run(trained, ["train", "evaluate"], dataset_dir=str(dataset), **settings)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert sorted(metrics["section"]) == ["holdout", "holdout", "test"]
    figures = ("dice", "iou", "precision", "recall", "ece", "nll", "number_density_error", "object_f1", "pq")
    assert {f"{method}_{f}" for method in ("network", "baseline") for f in figures} <= set(metrics)
    assert (metrics["baseline_dice"] > 0.3).all(), "the classical pipeline finds carbides"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["sections"]["holdout"]["micrographs"]["n"] == 2
    for picture in ("box_plot.png", "overlay_best.png", "overlay_worst.png"):
        assert width(tmp_path / picture) > 300
    # what the annotation says of the carbides, what the network says, and how far they are apart
    for method in ("network", "annotation"):
        fields = pd.read_csv(tmp_path / method / "micrographs.csv").set_index("micrograph")
        assert list(fields["sample"]) == ["holdout", "holdout", "test"]
        assert (tmp_path / method / "report.html").is_file()
    label = np.asarray(nibabel.load(dataset / "labels" / "anp_001.nii.gz").dataobj)[..., 0]
    annotated = label_particles(label, min_area=5)
    assert fields.loc["anp_001", "carbides"] == annotated.max()
    compared = json.loads((tmp_path / "comparison" / "holdout" / "comparison.json").read_text())
    f1 = metrics.set_index("name").loc[["anp_001", "anp_003"], "network_object_f1"]
    assert compared["objects"]["f1"]["mean"] == pytest.approx(f1.mean(), abs=1e-5)
    kept = MlflowClient(store).list_artifacts(json.loads(record.read_text())["run_id"], "evaluation/network")
    names = {Path(artifact.path).name for artifact in kept}
    assert {"report.html", "particles.csv", "micrographs.csv", "summary.json", "figures"} <= names


def test_calibration_lowers_the_nll_and_is_idempotent(trained, dataset, tmp_path) -> None:
    bundle = copy(trained, tmp_path)
    before = torch.load(bundle / "models" / "model.pt", weights_only=True)
    run_record = json.loads((bundle / "models" / "mlflow_run.json").read_text())
    temperatures = []
    for _ in range(2):
        run(bundle, ["train", "calibrate"], dataset_dir=str(dataset), tracking_uri=run_record["tracking_uri"])
        record = json.loads((bundle / "models" / "calibration.json").read_text())
        assert record["after"]["nll"] <= record["before"]["nll"] + 1e-9
        temperatures.append(record["temperature"])
    assert temperatures[1] == pytest.approx(1, abs=1e-3)
    after = torch.load(bundle / "models" / "model.pt", weights_only=True)
    for name, value in before.items():
        expected = value / temperatures[0] if name.startswith("final_conv.") else value
        torch.testing.assert_close(after[name], expected, rtol=2e-3, atol=1e-6)
    assert width(bundle / "eval" / "reliability.png") > 300
    # one MLflow run holds the training and its calibration
    metrics = MlflowClient(run_record["tracking_uri"]).get_run(run_record["run_id"]).data.metrics
    assert {"best/val_mean_dice", "calibration/temperature"} <= set(metrics)


def masks(folder: Path) -> dict[str, np.ndarray]:
    found = {
        path.name.removesuffix("_mask.nii.gz"): np.asarray(nibabel.load(path).dataobj)
        for path in folder.glob("*_mask.nii.gz")
    }
    assert found
    return found


def test_inference_needs_monai_alone_and_gives_the_same_masks(trained, dataset, tmp_path) -> None:
    with_us, without_us = tmp_path / "with", tmp_path / "without"
    settings = {
        "bundle_root": str(trained),
        "dataset_dir": str(dataset),
        "config_file": files("inference")[0],
        "amp": False,  # MONAI alone has no bfloat16 on the CPU
    }
    done = bundle_command("run", output_dir=with_us, **settings)
    assert done.returncode == 0, done.stderr
    blocked = (
        "import sys; sys.modules['carde_monai'] = None\n"
        "from monai.bundle import run\n"
        f"run(output_dir={str(without_us)!r}, **{settings!r})"
    )
    subprocess.run([sys.executable, "-c", blocked], check=True, capture_output=True, cwd=tmp_path)
    ours, theirs = masks(with_us), masks(without_us)
    assert ours.keys() == theirs.keys() and len(ours) == 7
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_masks_lie_on_their_images(trained, dataset, tmp_path) -> None:
    run(trained, ["inference"], training=False, dataset_dir=str(dataset), output_dir=str(tmp_path))
    for name, mask in masks(tmp_path).items():
        image = nibabel.load(dataset / "images" / f"{name}.nii.gz")
        assert mask.shape == image.shape[:2] and set(np.unique(mask)) <= {0, 1}
        written = nibabel.load(tmp_path / f"{name}_mask.nii.gz")
        np.testing.assert_allclose(written.affine[:2, :2], image.affine[:2, :2])


def test_segmenting_raw_files_equals_inference_on_prepared_ones(trained, raw, dataset, tmp_path) -> None:
    settings = {"training": False, "amp": False}  # in bfloat16 a pixel may lie on the threshold
    run(trained, ["inference"], dataset_dir=str(dataset), output_dir=str(tmp_path / "nifti"), **settings)
    segment = ["inference", "sem", "segment"]
    run(trained, segment, dataset_dir=str(raw), output_dir=str(tmp_path / "png"), **settings)
    for name, mask in masks(tmp_path / "nifti").items():
        png = np.asarray(Image.open(tmp_path / "png" / f"{name}_mask.png"))
        np.testing.assert_array_equal(png, mask * 255)
        with tifffile.TiffFile(tmp_path / "png" / f"{name}_probability.tif") as file:
            probability = file.asarray()
        assert probability.dtype == np.float32
        np.testing.assert_array_equal(probability > 0.5, mask > 0)


def test_segmenting_ends_with_the_carbides_of_the_masks(trained, raw, tmp_path) -> None:
    settings = {"dataset_dir": str(raw), "output_dir": str(tmp_path), "min_area": 20, "large": 0.1}
    run(trained, ["inference", "sem", "segment"], training=False, **settings)
    particles = pd.read_csv(tmp_path / "particles.csv")
    fields = pd.read_csv(tmp_path / "micrographs.csv").set_index("micrograph")
    assert dict(fields["sample"].value_counts()) == {raw.name: 5, "hold-out": 2}
    assert fields["pixel_size_source"].str.contains("Zeiss").all()
    assert fields.loc["jfl_001", "pixel_size_um"] == pytest.approx(0.00698)
    for name, mine in particles.groupby("micrograph"):
        mask = np.asarray(Image.open(tmp_path / f"{name}_mask.png")) > 0
        labels = tifffile.imread(tmp_path / f"{name}_labels.tif")
        np.testing.assert_array_equal(labels, label_particles(mask, min_area=20))
        area = mine["area_um2"] / fields.loc[name, "pixel_size_um"] ** 2
        np.testing.assert_allclose(area, np.bincount(labels.ravel())[1:], rtol=1e-4)
        assert (mine["mean_probability"] > 0.5).all()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["facts"]["large carbide"] == "above 0.1 µm"
    assert summary["facts"]["weights"].startswith(str(trained))
    assert [len(one["thresholds"]) for one in summary["samples"]] == [3, 3]
    assert (tmp_path / "report.html").stat().st_size > 10_000
    with pytest.raises(InputError, match="holds no TIFF or PNG files"):  # results are not micrographs
        find_micrographs(tmp_path, detectors=1)


def test_validation_every_other_epoch(dataset, tmp_path) -> None:
    bundle = bundles.working_bundle(tmp_path / "bundle")
    settings = SHORT | {"epoch_length": 2, "max_epochs": 4, "val_interval": 2, "tracking_uri": None}
    run(bundle, ["train"], dataset_dir=str(dataset), **settings)
    table = pd.read_csv(bundle / "eval" / "training.csv")
    assert list(table["val_loss"].notna()) == [False, True, False, True]


def test_two_processes_train_together(dataset, tmp_path) -> None:
    bundle = bundles.working_bundle(tmp_path / "bundle")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["monai.bundle", "run", "--config_file", str(files("train", "multi_gpu_train"))]
    settings = {"bundle_root": bundle, "dataset_dir": dataset, "amp": False, "tracking_uri": None}
    settings |= SMALL | SHORT | {"epoch_length": 4}
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_csv(bundle / "eval" / "training.csv")
    assert list(table["epoch"]) == [1, 2]
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in weights)


@pytest.mark.parametrize(
    ("names", "kind"), [(["train"], "train"), (["train", "evaluate"], "train"), (["inference"], "infer")]
)
def test_no_property_is_missing(names, kind, dataset, trained) -> None:
    overrides = {"bundle_root": str(trained), "dataset_dir": str(dataset)}
    workflow = ConfigWorkflow(files(*names), workflow_type=kind, logging_file=False, **overrides)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_inference_repeats_the_facts_of_training() -> None:
    """The one duplication that the format forces; it must not drift."""
    train, inference = (json.loads(Path(files(name)[0]).read_text()) for name in ("train", "inference"))
    for key in ("network_def", "window_size", "channel_first", "window", "inferer", "unpack"):
        assert inference[key] == train[key]
    for key in ("load", "drop_z", "normalize", "typed"):
        ours, theirs = dict(inference[key]), dict(train[key])
        assert ours.pop("keys") in (theirs.pop("keys"), "image")
        assert ours == theirs


# what an overlay comes after, if not train.json alone
BASES = dict.fromkeys(("sem", "segment", "sharded", "prepared", "in_memory"), ("inference",))
BASES |= dict.fromkeys(("study", "study_tiles"), ("train", "evaluate"))
BASES |= {"suggest": ("inference", "sem", "segment"), "evaluate_classes": ("train", "classes", "evaluate")}
WHOLE = {"train", "inference", "metadata"}


@pytest.mark.parametrize("overlay", sorted({path.stem for path in CONFIGS.glob("*.json")} - WHOLE))
def test_overlays_patch_what_exists(overlay) -> None:
    base = ConfigParser()
    base.read_config(files(*BASES.get(overlay, ("train",))))
    for key in json.loads(Path(files(overlay)[0]).read_text()):
        parent = key.lstrip("+").rpartition("#")[0]
        assert not parent or parent in base, f"{overlay}.json patches {parent}, which nobody defines"


def test_metadata_is_valid_offline(tmp_path) -> None:
    # verify_metadata downloads the schema unless the file is there already; no network in tests
    schema = shutil.copy(REPOSITORY / "tests" / "data" / "metadata_schema.json", tmp_path / "schema.json")
    done = bundle_command("verify_metadata", meta_file=CONFIGS / "metadata.json", filepath=schema)
    assert done.returncode == 0, done.stderr


def test_network_fits_the_metadata() -> None:
    done = bundle_command(
        "verify_net_in_out",
        "network_def",
        meta_file=CONFIGS / "metadata.json",
        config_file=files("inference")[0],
        n=4,
        any=8,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("exporter", ["ckpt_export", "onnx_export"])
def test_exports_agree_with_the_checkpoint(exporter, trained, tmp_path) -> None:
    target = tmp_path / ("model.ts" if exporter == "ckpt_export" else "model.onnx")
    done = bundle_command(
        exporter,
        "network_def",
        filepath=target,
        ckpt_file=trained / "models" / "model.pt",
        meta_file=CONFIGS / "metadata.json",
        config_file=files("inference")[0],
        **({"input_shape": "[1,2,128,128]"} if exporter == "onnx_export" else {}),
    )
    assert done.returncode == 0, done.stderr
    parser = ConfigParser()
    parser.read_config(files("inference"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(trained / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 2, 128, 128)
    with torch.no_grad():
        expected = network(image)
        if exporter == "ckpt_export":
            result = torch.jit.load(target)(image)
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(target)
            result = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4)
