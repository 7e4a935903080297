"""Verbs about a bundle as a whole. Heavy imports stand in the functions so that help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carde_monai.errors import finish
from carde_monai.startup import importing
from carde_monai.verbs import overlay_names


def import_carde(checkpoint: str, bundle: str = "bundle", temperature: float | None = None) -> None:
    """Take over the weights of the publication's network, or others that its code carde has trained.

    Writes BUNDLE/models/carde.pt, calibrated, and carde.json (where it comes from). Code in the file is not
    run. The overlay carde_unet segments, evaluates and trains on with it.
    Example: carde-monai import-carde best.ckpt --bundle mybundle

    Args:
        checkpoint: Lightning checkpoint (.ckpt) of carde.
        bundle: folder of the bundle; if it does not exist, a copy of the packaged bundle.
        temperature: divides the logits; if not given 1.8677, or 1 for a mean-variance network.
    """
    from carde_monai.carde_checkpoint import import_carde as run

    run(checkpoint, bundle, temperature)


def export(
    dest: str,
    format: str | None = None,
    bundle: str | None = None,
    overlay: str | None = None,
    image: str | None = None,
    pixel_size: float | None = None,
    **overrides: Any,
) -> None:
    """Write the bundle's network as a file for other programs, calibrated, and compare it with torch.

    Formats: pt, the weights as MONAI's bundles load them, and a .json that tells what they are; ts,
    TorchScript as MONAI writes it; pt2, a program of torch.export; onnx; openvino (.xml and .bin);
    bioimageio, a package (.zip) for Fiji, ilastik, napari. Images may have any number and size, in multiples
    of 16 px. pt and ts give the logit, as MONAI's applications expect it, the others the probability of
    carbide. Only the package normalises its input; every file tells how, and the order of the detectors.
    Example: carde-monai export model.onnx --bundle mybundle

    Args:
        dest: file to write; its ending (.pt, .ts, .pt2, .onnx, .xml, .zip) tells the format. Or a folder,
            made if missing, which gets model with that ending.
        format: pt, ts, pt2, onnx, openvino or bioimageio, if DEST does not tell.
        bundle: folder of a trained bundle; the packaged one if not given.
        overlay: configs that it was trained with besides train.json, by name (unet, carde_unet) or path.
        image: prepared micrograph (.nii.gz), whose middle becomes the test image of a bioimageio package;
            otherwise synthetic steel.
        pixel_size: micrometres per pixel, for a bioimageio package; wins over the image's own.
        overrides: settings of configs/inference.json by their names, such as --weights other.pt.
    """
    with importing():
        from carde_monai.export import export as run

    run(dest, format, bundle, overlay_names(overlay), image, pixel_size, overrides)


def doctor(bundle: str | None = None) -> None:
    """Tell versions, devices, whether bfloat16 pays here, and whether the bundle's weights are calibrated.

    Put what it prints into a report of a fault. What is missing or too old is told with the command that
    mends it, and the exit status is 3.
    Example: carde-monai doctor --bundle mybundle

    Args:
        bundle: folder of a bundle; without it, the one that comes with the package.
    """
    with importing():
        from carde_monai.doctor import examine

    facts, failures = examine(bundle)
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:{width}}  {fact}")
    finish(failures, None)


def demo(dest: str = "demo_out") -> None:
    """Do everything once, on synthetic steel: synthesize, prepare, train, calibrate, evaluate, segment.

    Takes minutes, prints a table of network and baseline, and says where to look and what to do next.

    Args:
        dest: folder to write to; made if missing. That of an earlier demo is written anew.
    """
    from carde_monai.demo import demo as run

    run(Path(dest))
