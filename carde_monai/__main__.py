"""``carde-monai VERB``, the command line. Heavy imports stand in the verbs so that ``--help`` is instant."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

from carde_monai import __version__
from carde_monai.command_line import parse
from carde_monai.errors import INTERRUPTED, WRONG_USAGE, InputError, finish, user_mistake
from carde_monai.startup import importing


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
        steel: jfl, or anp with other grain contrast, carbide sizes and noise.
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
        overwrite=overwrite,
    )
    finish(failures, dest)


def train(dataset: str, bundle: str = "bundle", overlay: str | None = None, **overrides: Any) -> None:
    """Train the bundle's network on a prepared data set; the best weights go to BUNDLE/models/model.pt.

    The best are those with the highest Dice on the validation micrographs. The table and curve of the
    training and the MLflow database go to --output_dir (BUNDLE/eval). Ctrl-C stops after the batch. The same
    command with --resume goes on after the last finished epoch, after a kill, too, and ends with the same
    weights; the settings must be the same, but --max_epochs may be higher.

    Any setting of configs/train.json is an option by its name, a part of an object with #. The common ones
    are --max_epochs, --learning_rate, --batch_size, --roi_size 128,128, --early_stop_patience, --seed,
    --fold 0 (the test fold of data prepared with folds), --weights old.pt (to start from), --run_name and
    --tracking_uri http://localhost:5000 (of MLflow, None switches it off).
    Example: carde-monai train data --bundle mybundle --max_epochs 50 --window#overlap 0.5

    Args:
        dataset: folder that prepare wrote.
        bundle: folder of the bundle to train; if it does not exist, a copy of the packaged bundle.
        overlay: configs that change the network or the loss, by name (unet, carde_unet, mean_variance) or
            path (best.json of a search), several with commas; give the same to calibrate, evaluate and
            segment (after carde_unet with --weights BUNDLE/models/model.pt, or it takes carde.pt).
        overrides: settings of configs/train.json.
    """
    _run_training(["train"], dataset, bundle, overlay, overrides)


def tune(
    data: str,
    trials: int = 50,
    output_dir: str = "tuning",
    bundle: str | None = None,
    storage: str | None = None,
    study: str = "carde",
    workers: int = 1,
    **overrides: Any,
) -> None:
    """Search for better settings of the training: many trainings, each with other values, chosen by Optuna.

    What is varied stands in configs/tune.json (search_space): learning rate, patience, width and depth of
    the network, or any other setting. The lower the validation Dice loss the better; hopeless trainings are
    ended early. Writes best.json (an overlay to train with), trials.csv, history.png, slice.png,
    importance.png and summary.json (the published optimum beside yours); the runs of the trials are nested
    in one MLflow run. The same command goes on with a search that was stopped, by whatever.
    Example: carde-monai tune data --trials 50 --workers 2 --max_epochs 100

    Args:
        data: folder that prepare wrote.
        trials: how many trials are to finish in all.
        output_dir: folder to write to; made if missing.
        bundle: folder of the bundle to tune, which stays as it is; the packaged one if not given.
        storage: address of the Optuna storage, such as postgresql://host/db, where several machines share
            a search; otherwise OUTPUT_DIR/study.db.
        study: name of the search in the storage.
        workers: number of processes on this machine.
        overrides: settings of configs/train.json and configs/tune.json by their names, such as
            --max_epochs 100, --seed 1, --pruner#n_warmup_steps 20; one that is searched is fixed so.
    """
    with importing():
        from carde_monai import bundles, tuning, tuning_report

    root = Path(bundle) if bundle else bundles.packaged_bundle()
    found = tuning.tune(data, trials, output_dir, root, storage, study, workers, overrides)
    print(tuning_report.outcome(Path(output_dir) / "summary.json"))
    finish(tuning.failures(found), output_dir)


def calibrate(dataset: str, bundle: str = "bundle", overlay: str | None = None, **overrides: Any) -> None:
    """Fit the temperature on the validation micrographs and fold it into BUNDLE/models/model.pt.

    A probability of 0.9 then means that nine of ten such pixels are carbide, in every export of the weights.
    Writes BUNDLE/models/calibration.json, and reliability.png to --output_dir (BUNDLE/eval).
    Example: carde-monai calibrate data --bundle mybundle

    Args:
        dataset: folder that prepare wrote, the one that the bundle was trained on.
        bundle: folder of the trained bundle.
        overlay: configs that it was trained with besides train.json.
        overrides: settings of configs/train.json and configs/calibrate.json by their names, such as --fold 0.
    """
    _run_training(["train", "calibrate"], dataset, bundle, overlay, overrides)


def evaluate(dataset: str, bundle: str = "bundle", overlay: str | None = None, **overrides: Any) -> None:
    """Compare network and classical baseline with the labels of the test and hold-out micrographs.

    Writes metrics.csv (a row a micrograph), tiles.csv, summary.json, box_plot.png and overlays of the best
    and the worst micrograph to --output_dir (BUNDLE/eval). Damaged micrographs are listed in failures.csv and
    the others are scored. --register NAME makes the bundle a new version of NAME in MLflow's model registry.
    Example: carde-monai evaluate data --bundle mybundle --output_dir results

    Args:
        dataset: folder that prepare wrote.
        bundle: folder of the trained bundle.
        overlay: configs that it was trained with besides train.json.
        overrides: settings of configs/train.json and configs/evaluate.json by their names, such as
            --sections test, --fold 0, --output_dir results or --weights a.pt,b.pt (an ensemble).
    """
    _run_training(["train", "evaluate", *_ensemble(overrides)], dataset, bundle, overlay, overrides)


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
        bundle: folder of a trained bundle; the packaged one if not given.
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
    configs += [*_ensemble(overrides), *_names(overlay)]
    bundles.run(root, configs, overrides, training=False)


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
    configs = ["inference", "sem", "segment", "suggest", *_ensemble(overrides), *_names(overlay)]
    given = {"detectors": detectors, "pixel_size": pixel_size, "known": known, "n": n}
    overrides = {"dataset_dir": source, "output_dir": dest, **given, "suggestions#field": field, **overrides}
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

    run(dest, format, bundle, _names(overlay), image, pixel_size, overrides)


def study(
    data: str,
    out: str,
    protocol: str | None = None,
    quick: bool = False,
    folds: int | str | None = None,
    seeds: int | None = None,
    tile: int | None = None,
    pixel_size: float | str | None = None,
    tuning: str | None = None,
    trials: int | None = None,
    bundle: str | None = None,
    configs: str | None = None,
    **overrides: Any,
) -> None:
    """Repeat the publication's study, and an honest one, on the published data set as it unpacks.

    The paper protocol splits tiles of all micrographs at random, the honest one splits by micrograph and adds
    a learning curve. Both compare network, temperature scaling, mean variance and the classical baseline on
    test and hold-out. Writes study.md, results.csv, study.json, learning_curve.csv and figures; trainings and
    a summary go to the MLflow experiment "study" in OUT/mlflow.db. The same call goes on where it stopped.
    Any setting of configs/train.json is an option by its name.
    Example: carde-monai study --data data/carde --out study --protocol honest --folds loo

    Args:
        data: folder of the published data set, or one that prepare wrote.
        out: folder to write to; made if missing.
        protocol: paper or honest; both if not given.
        quick: short trainings on few folds: minutes, to see that everything works.
        folds: of the honest protocol (4), or loo: leave one micrograph out.
        seeds: repetitions of the learning curve (3).
        tile: edge of a tile in pixels (128).
        pixel_size: micrometres per pixel, or a CSV file with columns name,pixel_size_um.
        tuning: folder that tune wrote, for the figure of the search.
        trials: size of a hyperparameter search of its own (0; quick: 3).
        bundle: folder of the bundle, which is only read; the packaged one if not given.
        configs: overlays on train.json, such as unet.
        overrides: settings of configs/train.json and mean_variance.json, of all trainings.
    """
    from carde_monai.study import study as run

    result = run(
        data,
        out,
        protocol,
        quick,
        folds=folds,
        seeds=seeds,
        tile=tile,
        pixel_size=pixel_size,
        tuning=tuning,
        trials=trials,
        bundle=bundle,
        configs=configs,
        overrides=overrides,
    )
    finish(result.failures, out)


def sync_tracking(folder: str = "bundle", tracking_uri: str | None = None) -> None:
    """Hand over to MLflow what it did not get while its server was down, slow or full.

    Figures, parameters, tags, artifacts and the end of such a run wait beside its run file
    (BUNDLE/models/mlflow_run.*.mlflow.jsonl). Runs whose process was killed are marked FAILED; those at work
    are left alone. The next training, calibration or evaluation of the bundle does the same first. Calling
    again doubles nothing.
    Example: carde-monai sync-tracking mybundle --tracking_uri http://localhost:5000

    Args:
        folder: a bundle, or a folder that tune or study wrote; searched with its sub-folders.
        tracking_uri: where MLflow is now, if it has moved, or if its address holds a password (which is not
            kept); otherwise where the run was recorded.
    """
    from carde_monai.tracking_sync import sync_tracking as run

    finish(run(folder, tracking_uri), None)


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


VERBS = {
    verb.__name__.replace("_", "-"): verb
    for verb in (
        *(demo, synthesize, prepare, train, tune, calibrate, evaluate),
        *(segment, suggest, measure, compare, import_carde, export, study, sync_tracking, doctor),
    )
}
NOTES = """

NOTES
    carde-monai VERB --help tells more. Anywhere: --debug shows where in the program an error arose.
    carde-monai --version tells the version.
    Exit status: 0 everything was done; 2 wrong usage, unusable input or a training that diverged; 3 some
    micrographs failed (listed in failures.csv), the others were done; 130 stopped by Ctrl-C."""


def _names(overlay: str | None) -> list[str]:
    return [name.strip() for name in (overlay or "").split(",") if name.strip()]


def _ensemble(overrides: dict[str, Any]) -> list[str]:
    """The config that ``--weights a.pt,b.pt`` needs."""
    from carde_monai.provenance import weight_files

    weights = overrides.get("weights")
    return ["ensemble"] if weights is not None and len(weight_files(weights)) > 1 else []


def _run_training(
    configs: list[str], dataset: str, bundle: str, overlay: str | None, overrides: dict[str, Any]
) -> None:
    with importing():
        from carde_monai import bundles, datalist

    overrides = {"dataset_dir": dataset, **overrides}
    root = Path(bundle)
    new = configs == ["train"] and not overrides.get("resume")
    configs = [configs[0], *_names(overlay), *configs[1:]]  # the stage last: it says whose weights count
    if new and not root.exists():
        # a mistyped folder or option must not leave a new bundle behind
        bundles.check_overrides(bundles.config_files(bundles.packaged_bundle(), configs), overrides)
        for section in ("training", "validation"):
            datalist.load(dataset, section, overrides.get("fold"))
    if new:
        root = bundles.working_bundle(bundle)
    bundles.run(root, configs, overrides, training=True)


def main() -> None:
    """Entry point; exit status 0 if everything was done, 3 if some micrographs failed, 2 for wrong usage."""
    argv = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if argv == ["--version"]:
        print(f"carde-monai {__version__}")
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("carde_monai").setLevel(logging.INFO)
    try:
        call = parse(argv, VERBS, NOTES)
        if call is not None:
            call()
    except KeyboardInterrupt as stop:
        _close_progress_bars()
        if str(stop) and argv[0] == "train":  # the others are not resumed by --resume
            print(f"carde-monai: {stop}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        _close_progress_bars()
        mistake = user_mistake(error)
        if mistake is None:
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"carde-monai: {mistake}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def _close_progress_bars() -> None:
    """Clear the bars that ignite leaves open on an error, so that what follows has a line of its own."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


if __name__ == "__main__":
    main()
