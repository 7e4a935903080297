"""Verbs that make data sets. Heavy imports stand in the functions so that help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carde_monai.errors import finish
from carde_monai.startup import importing
from carde_monai.verbs import inference_overlays


def synthesize(
    dest: str, micrographs: int = 12, size: tuple[int, int] = (1404, 2048), steel: str = "jfl", seed: int = 0
) -> None:
    """Write synthetic raw micrographs with known truth, as a Zeiss microscope writes them, and their labels.

    Per micrograph: <steel>_<odd>.tif (SE2) and the next even number (InLens), with info bar and metadata;
    <steel>_<odd>_label.png (0/255); <steel>_<odd>_carbides.csv (position and size of each carbide).
    Example: carde-monai synthesize raw --micrographs 12 --size 1404,2048

    Args:
        dest: folder to write to; made if missing.
        micrographs: how many pairs of images.
        size: rows,columns of the image above the info bar, in pixels.
        steel: jfl; anp, with other grain contrast, carbide sizes and noise; or random, another one for each
            micrograph.
        seed: the same seed gives the same micrographs.
    """
    from carde_monai.synthetic import synthesize as write

    write(dest, micrographs, size, steel, seed)


def prepare(
    source: str,
    dest: str,
    labels: str | None = None,
    pixel_size: float | str | None = None,
    split: str = "10,1,1",
    folds: str | int | None = None,
    seed: int = 0,
    detectors: int = 2,
    label_value: str | int | None = None,
    label_color: str | None = None,
    classes: int = 1,
    overwrite: bool = False,
) -> None:
    """Turn a folder of raw micrographs and labels into a data set to train on.

    Writes images and labels as NIfTI with the pixel size, datalist.json, which says what is for training,
    validation and test, and pictures in quicklook: look at them before you train. What could not be read is
    listed in failures.csv. A data set that DEST already holds is replaced; what has not changed since, and
    what a killed run has done, is not converted again.
    Example: carde-monai prepare raw data --split 10,1,1

    Args:
        source: folder with <stem>_<odd>.tif (SE2) and the next even number (InLens), searched with its
            sub-folders. Micrographs in a sub-folder hold-out are kept apart for testing.
        dest: folder to write to; made if missing.
        labels: folder of label images; otherwise they are looked for beside the images (<name>_label.png)
            and in a folder labels beside images.
        pixel_size: micrometres per pixel, or a CSV file with columns name,pixel_size_um (a name may be a
            pattern, WD6mm_*); wins over the files' own metadata.
        split: weights of training,validation,test; whole micrographs are dealt out.
        folds: number of folds for cross-validation, or a CSV file with columns name,fold; instead of a split.
        seed: decides the split.
        detectors: 2 for SE2/InLens pairs; 1 for single images (TIFF or PNG of any name).
        label_value: class index (or indices, 1,3) that is the carbide, for labels with several classes.
        label_color: r,g,b of the carbides in labels drawn in colour over the frame.
        classes: how many classes the labels number (0 is the matrix), for a network of several:
            --overlay classes --classes 2 of train and evaluate.
        overwrite: convert everything again.
    """
    from carde_monai.prepare import prepare as run

    failures = run(
        source,
        dest,
        labels=labels,
        pixel_size=pixel_size,
        folds=folds,
        split=split,
        seed=seed,
        detectors=detectors,
        label_value=label_value,
        label_color=label_color,
        classes=classes,
        overwrite=overwrite,
    )
    finish(failures, dest)


def suggest(
    source: str,
    dest: str,
    n: int = 5,
    field: int = 512,
    bundle: str | None = None,
    detectors: int = 2,
    pixel_size: float | None = None,
    known: str | None = None,
    overlay: str | None = None,
    **overrides: Any,
) -> None:
    """Choose the fields of unlabelled raw micrographs that are worth annotating next, and label them roughly.

    Fields are ranked by the network's mean entropy or, with --overlay tta or --weights a.pt,b.pt, by how much
    its predictions disagree; what resembles a better one counts less. Micrographs that have a label are left
    out. Per field: <name>_r<row>_c<column>_1.tif (SE2), _2.tif (InLens) and _1_label.png (0/255, by the
    network), which you correct in any editor; then carde-monai prepare DEST data. Also suggestions.csv
    (places, entropies, scores), folds.csv (for prepare --folds: keeps the fields of a micrograph together)
    and figures/suggestions.png. What could not be read is listed in failures.csv.
    Example: carde-monai suggest raw next -n 5 --bundle mybundle

    Args:
        source: folder of microscope files.
        dest: folder to write to; made if missing. One that holds micrographs or labels is refused.
        n: how many fields to suggest.
        field: their side in pixels; 0 for whole micrographs.
        bundle: folder of a trained bundle; the packaged one if not given.
        detectors: 2 for SE2/InLens pairs; 1 for single images (TIFF or PNG of any name).
        pixel_size: micrometres per pixel; wins over the files' own metadata.
        known: folders of earlier suggestions, several with commas; what is in them is not suggested again.
        overlay: configs of another network or way to infer, by name (unet, carde_unet, mean_variance, tta)
            or path, several with commas.
        overrides: settings of configs/inference.json by their names, such as --weights other.pt.
    """
    with importing():
        from carde_monai import bundles

    root = Path(bundle) if bundle else bundles.packaged_bundle()
    configs = ["inference", "sem", "segment", "suggest", *inference_overlays(overlay, bundle, overrides)]
    given = {"detectors": detectors, "pixel_size": pixel_size, "known": known, "n": n}
    overrides = {"dataset_dir": source, "output_dir": dest, **given, "suggestions#field": field, **overrides}
    bundles.run(root, configs, overrides, training=False)
