"""Verbs that segment, measure and show. Heavy imports stand in the functions so that help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carde_monai.errors import InputError, finish
from carde_monai.startup import importing
from carde_monai.verbs import inference_overlays


def segment(
    source: str,
    dest: str,
    bundle: str | None = None,
    detectors: int = 2,
    pixel_size: float | None = None,
    overlay: str | None = None,
    **overrides: Any,
) -> None:
    """Segment a folder of raw SEM files, or a prepared data set, and measure the carbides.

    Writes report.html; particles.csv (a row a carbide), micrographs.csv, summary.json and summary.csv, the
    figures; per micrograph <name>_mask.png (0/255), <name>_probability.tif (float32), <name>_confidence.png,
    <name>_overlay.png and <name>_labels.tif (numbered carbides). What could not be read is listed in
    failures.csv, and the others are done. The same command goes on where it stopped: micrographs whose files,
    weights and settings are the same are not segmented again (--overwrite does).

    Options of the measurement: --split_touching (split carbides that touch), --min_area 5 (pixels; smaller
    ones do not count), --large 0.5 (micrometres), --saltykov (sizes in the volume), --group_by REGEX (finds
    the sample in a micrograph's path; otherwise a sample is a sub-folder).
    Example: carde-monai segment raw out --bundle mybundle

    Args:
        source: folder of microscope files, or a folder that prepare wrote.
        dest: folder to write to; made if missing.
        bundle: folder of a trained bundle; the packaged one if not given. Its weights have the overlay
            spacing: pixels finer than 0.0065 or coarser than 0.025 um are resampled, and the result brought
            back.
        detectors: 2 for SE2/InLens pairs; 1 for single images (TIFF or PNG of any name).
        pixel_size: micrometres per pixel; wins over the files' own metadata.
        overlay: configs of another network or way to infer, by name (unet, carde_unet, mean_variance, tta)
            or path, several with commas.
        overrides: settings of configs/inference.json and configs/segment.json by their names, such as
            --weights other.pt (a.pt,b.pt is an ensemble) or --window_size 512,512.
    """
    with importing():
        from carde_monai import bundles

    root = Path(bundle) if bundle else bundles.packaged_bundle()
    configs = ["inference", "segment"]
    overrides = {"dataset_dir": source, "output_dir": dest, **overrides}
    if not any(Path(source, "images").glob("*.nii.gz")):
        configs.insert(1, "sem")
        overrides |= {"detectors": detectors, "pixel_size": pixel_size}
    elif pixel_size is not None or detectors != 2:
        option = "--pixel_size" if pixel_size is not None else "--detectors"
        raise InputError(option, f"does not change the prepared {source}", "give it to carde-monai prepare")
    else:
        configs.insert(1, "prepared")
    configs += inference_overlays(overlay, bundle, overrides)
    bundles.run(root, configs, overrides, training=False)


def measure(
    masks: str,
    dest: str,
    images: str | None = None,
    detectors: int = 2,
    pixel_size: float | str | None = None,
    label_value: str | int | None = None,
    label_color: str | None = None,
    instances: bool = False,
    split_touching: bool = False,
    min_area: int = 5,
    large: float = 0.5,
    saltykov: bool = False,
    group_by: str | None = None,
) -> None:
    """Measure masks from anywhere: this program's, drawn by hand, Fiji's, NIfTI. Tables, figures, a report.

    Writes particles.csv (a row a carbide), micrographs.csv, summary.json and summary.csv (a sample is a
    sub-folder), <name>_labels.tif (numbered carbides), figures, and report.html to look at all that.
    Example: carde-monai measure masks out --images raw --pixel_size 0.00698

    Args:
        masks: folder of masks (PNG, TIFF, BMP, NIfTI), searched with its sub-folders, or one file. Where
            some are called <name>_mask, <name>_label or <name>_labels, only those count.
        dest: folder to write to; made if missing.
        images: folder of the micrographs, raw or prepared: for greys, pixel size and pictures.
        detectors: 2 for SE2/InLens pairs in IMAGES; 1 for single images.
        pixel_size: micrometres per pixel, or a CSV file with columns name,pixel_size_um (a name may be a
            pattern, WD6mm_*); wins over the files' own metadata.
        label_value: value (or values, 1,3) that is the carbide, for masks with several.
        label_color: r,g,b of the carbides in masks drawn in colour.
        instances: each value of a mask is one carbide (so are images of more than 8 bits anyway).
        split_touching: split carbides that touch by a distance-transform watershed.
        min_area: the smallest carbide that counts, in pixels.
        large: diameter in micrometres from which a carbide counts as large.
        saltykov: estimate sizes and numbers in the volume, too (spheres; ill-conditioned).
        group_by: regular expression that finds the sample in a mask's path.
    """
    from carde_monai.labels import LabelRule
    from carde_monai.masks import Source, measure_masks
    from carde_monai.measurement import Settings
    from carde_monai.pixel_sizes import PixelSizes

    settings = Settings(split_touching, min_area, large, saltykov)
    rule = LabelRule.parse(label_value, label_color)
    sizes = PixelSizes(pixel_size)
    source = Source(Path(masks), Path(images) if images else None, rule, instances, sizes, group_by)
    finish(measure_masks(source, Path(dest), settings, detectors), dest)


def compare(
    a: str,
    b: str,
    dest: str | None = None,
    match: bool | None = None,
    paired: bool | None = None,
    large: float | None = None,
) -> None:
    """Compare two measured samples: network and annotation, before and after, one steel and another.

    Prints the difference B - A of each quantity with its interval, the sizes' Kolmogorov-Smirnov distance
    and, for micrographs of the same names, matched carbides (precision, recall, F1 at IoU 0.5, panoptic
    quality).
    With DEST it writes comparison.json, comparison.csv, objects.csv, comparison.png and comparison.svg.
    Example: carde-monai compare annotated/ segmented/ comparison

    Args:
        a: the reference, a folder that segment or measure wrote; FOLDER::SAMPLE is one of its samples.
        b: what is judged, likewise.
        dest: folder to write to; made if missing.
        match: match the carbides, --nomatch does not; by default where both hold the same micrographs.
        paired: resample the micrographs of A and B together; by default where both hold the same.
        large: diameter in micrometres from which a carbide counts as large; as A was measured, if not given.
    """
    from carde_monai.compare import compare as run
    from carde_monai.compare_report import table

    result, failures = run(a, b, dest, match=match, paired=paired, large_um=large)
    print(table(result))
    finish(failures, dest)


def rois(folder: str) -> None:
    """Write the carbides of measured micrographs as regions of interest of ImageJ and Fiji.

    <name>_rois.zip stands beside <name>_labels.tif then; open it in the ROI manager. A region is called like
    the carbide's number in particles.csv.
    Example: carde-monai rois out

    Args:
        folder: folder that segment or measure wrote.
    """
    from carde_monai.rois import write_rois

    finish(write_rois(folder), folder)


def view(folder: str, images: str | None = None, micrograph: str | None = None, detectors: int = 2) -> None:
    """Look at results in napari: greys, probability, and the numbered carbides with their table.

    The box at the right changes the micrograph; a row of the table leads to its carbide. Needs napari:
    pip install "carde-monai[napari]".
    Example: carde-monai view out --images raw

    Args:
        folder: folder that segment or measure wrote.
        images: folder of the micrographs, raw or prepared, for their greys; else <name>_overlay.png is shown.
        micrograph: name of the one to begin with; the first if not given.
        detectors: 2 for SE2/InLens pairs in IMAGES; 1 for single images.
    """
    from carde_monai.napari_view import view as run

    run(folder, images, micrograph, detectors)
