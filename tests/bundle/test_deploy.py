"""The bundle's use by other MONAI programs on images in memory, which neither load nor save."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from monai.utils import ensure_tuple

from carde_monai import bundles

Array = np.ndarray


class DeployOperator:
    """What MONAI Deploy's MonaiBundleInferenceOperator does with a bundle, after its documentation and code.

    It takes device, preprocessing, inferer and postprocessing of inference.json, leaves out what loads and
    saves, and names input and output as the metadata do. Of the network it has TorchScript; the weights here.
    """

    def __init__(self, bundle: Path) -> None:
        parser = ConfigParser()
        parser.read_meta(str(bundle / "configs" / "metadata.json"))
        parser.read_config(str(bundle / "configs" / "inference.json"))
        parser.parse()
        formats = parser["_meta_"]["network_data_format"]
        (self.input,), (self.output,) = formats["inputs"], formats["outputs"]
        self.device = parser.get_parsed_content("device")
        self.inferer = parser.get_parsed_content("inferer")
        self.before, self.after = map(self.without_files, ("preprocessing", "postprocessing"), [parser] * 2)
        self.network = parser.get_parsed_content("network_def").to(self.device).eval()
        self.network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))

    @staticmethod
    def without_files(name: str, parser: ConfigParser) -> Compose:
        compose = parser.get_parsed_content(name)
        kept = [
            one
            for one in compose.transforms
            if not any(word in type(one).__name__ for word in ("LoadImage", "SaveImage"))
        ]
        assert len(kept) < len(compose.transforms) and isinstance(kept[0], MapTransform)
        return Compose(kept)

    def __call__(self, image: Array) -> Array:
        value = torch.from_numpy(image) if image.dtype != np.uint16 else image
        inputs = self.before({self.input: MetaTensor.ensure_torch_and_prune_meta(value, {})})
        with torch.no_grad():
            outputs = self.inferer(inputs=inputs[self.input][None].to(self.device), network=self.network)
        return self.after({self.output: ensure_tuple(outputs)[0], **inputs})[self.output].cpu().numpy()


@pytest.fixture(scope="module")
def deploy() -> DeployOperator:
    return DeployOperator(bundles.packaged_bundle())


@pytest.fixture(scope="module")
def segmented(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Array, Array]:
    """(H, W, 2) image of a prepared data set and its (H, W) mask, as inference.json writes it."""
    some, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("masks")
    (some / "images").mkdir()
    image = Path(shutil.copy(min((dataset / "images").glob("*.nii.gz")), some / "images"))
    settings = {"dataset_dir": str(some), "output_dir": str(out), "engine": "torch", "amp": False}
    bundles.run(bundles.packaged_bundle(), ["inference"], settings, training=False)
    greys, mask = (np.asarray(nibabel.load(one).dataobj) for one in (image, *out.glob("*_mask.nii.gz")))
    assert mask.any()
    return greys.reshape(*greys.shape[:2], 2), mask


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float64"])
def test_monai_deploy_segments_an_array(kind, deploy, segmented) -> None:
    image, mask = segmented
    found = deploy(image.astype(kind))
    assert found.shape == (1, *image.shape[:2])
    np.testing.assert_array_equal(found[0], mask)


THREE_LINES = """
import sys
sys.modules["carde_monai"] = None

import monai.bundle
import numpy as np

image, bundle = np.load("image.npy"), sys.argv[1]

configs = [f"{bundle}/configs/inference.json", f"{bundle}/configs/in_memory.json"]
workflow = monai.bundle.create_workflow(
    config_file=configs, workflow_type="inference", bundle_root=bundle, images=[image, image[::-1]]
)
first, second = workflow.run()[-1]

assert first["mask"].shape == first["probability"].shape == image.shape[:2]
np.savez("found.npz", first=first["mask"], second=second["mask"])

import torch
from pathlib import Path

folder, name = Path(bundle).parent, Path(bundle).name
settings = {"bundle_root": bundle}
network = monai.bundle.load(name, bundle_dir=folder, workflow_type="inference", args_file=settings)
weights = torch.load(f"{bundle}/models/model.pt", weights_only=True)
assert all(torch.equal(one, weights[name]) for name, one in network.state_dict().items())
"""


def test_three_lines_of_monai_segment_arrays(segmented, tmp_path) -> None:
    image, mask = segmented
    np.save(tmp_path / "image.npy", image)
    command = [sys.executable, "-c", THREE_LINES, str(bundles.packaged_bundle())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(found["first"], mask > 0)
    assert (found["second"][::-1] == found["first"]).mean() > 0.9, "the mask turns with the image"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["found.npz", "image.npy"]


def test_the_overlay_patches_what_inference_defines() -> None:
    base = ConfigParser()
    base.read_config(str(REPOSITORY / "bundle" / "configs" / "inference.json"))
    overlay = ConfigParser.load_config_file(str(REPOSITORY / "bundle" / "configs" / "in_memory.json"))
    assert {key for key in overlay if key.partition("#")[0] not in base} == {"images", "results"}
