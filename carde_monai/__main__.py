"""``carde-monai VERB``: the command line. Heavy imports happen inside the verbs, so that ``--help`` is instant."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carde_monai.errors import WRONG_USAGE, InputError, finish


def synthesize(
    dest: str, micrographs: int = 12, size: Sequence[int] = (1404, 2048), steel: str = "jfl", seed: int = 0
) -> None:
    """Write synthetic raw micrographs with known truth: TIFF pairs as a Zeiss microscope writes them, and labels.

    Args:
        dest: folder to write to; made if missing.
        micrographs: how many pairs (SE2 and InLens).
        size: height,width in pixels of the image above the info bar.
        steel: jfl, or anp with other grain contrast, carbide sizes and noise.
        seed: the same seed gives the same micrographs.
    """
    from carde_monai.synthetic import synthesize as write

    write(dest, micrographs, size, steel, seed)


def prepare(
    source: str,
    dest: str,
    labels: str | None = None,
    pixel_size: float | None = None,
    split: str = "10,1,1",
    folds: str | int | None = None,
    seed: int = 0,
    detectors: int = 2,
    label_value: str | int | None = None,
    label_color: str | None = None,
) -> None:
    """Turn a folder of raw micrographs and labels into a data set to train on: NIfTI, datalist and quick looks.

    Args:
        source: folder with <stem>_<odd>.tif (SE2) and the next even number (InLens), searched with its
            sub-folders. Micrographs in a sub-folder hold-out are kept apart for testing.
        dest: folder to write to; made if missing.
        labels: folder of label images; otherwise they are looked for beside the images (<name>_label.png)
            and in a folder labels beside images.
        pixel_size: micrometres per pixel; wins over the files' own metadata.
        split: weights of training,validation,test; whole micrographs are dealt out.
        folds: instead of a split, a number of folds for cross-validation, or a CSV file with columns name,fold.
        seed: decides the split.
        detectors: 2 for SE2/InLens pairs; 1 for single images (TIFF or PNG of any name).
        label_value: class index (or indices, 1,3) that is the carbide, for labels with several classes.
        label_color: r,g,b of the carbides in labels drawn in colour over the frame.
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
    )
    finish(failures, dest)


def train(dataset: str, bundle: str = "bundle", **overrides: Any) -> None:
    """Train the bundle's network on a prepared data set; the best weights go to BUNDLE/models/model.pt.

    Any setting of configs/train.json can be overridden: --max_epochs 50 --learning_rate 0.001 --batch_size 16
    --roi_size "[128,128]" --fold 0 --weights old.pt --tracking_uri http://localhost:5000 ...

    Args:
        dataset: folder that prepare wrote.
        bundle: folder of the bundle to train; if it does not exist, a copy of the packaged bundle.
        overrides: ids of the configs and their values.
    """
    _run_training(["train"], dataset, bundle, overrides)


def calibrate(dataset: str, bundle: str = "bundle", **overrides: Any) -> None:
    """Fit the temperature on the validation micrographs and fold it into BUNDLE/models/model.pt.

    Writes BUNDLE/models/calibration.json and a reliability diagram.

    Args:
        dataset: folder that prepare wrote.
        bundle: folder of the trained bundle.
        overrides: ids of the configs and their values, such as --fold 0.
    """
    _run_training(["train", "calibrate"], dataset, bundle, overrides)


def evaluate(dataset: str, bundle: str = "bundle", **overrides: Any) -> None:
    """Compare network and classical baseline with the labels of the test and hold-out micrographs.

    Writes metrics.csv, tiles.csv, summary.json, a box plot and overlays to --output_dir (BUNDLE/eval).

    Args:
        dataset: folder that prepare wrote.
        bundle: folder of the trained bundle.
        overrides: ids of the configs and their values, such as --sections "['test']" --output_dir out.
    """
    _run_training(["train", "evaluate"], dataset, bundle, overrides)


def segment(
    source: str,
    dest: str,
    bundle: str | None = None,
    detectors: int = 2,
    pixel_size: float | None = None,
    **overrides: Any,
) -> None:
    """Segment a folder of raw SEM files (or a prepared data set): masks, calibrated probabilities, pictures.

    Writes per micrograph <name>_mask.png (0/255), <name>_probability.tif (float32), <name>_confidence.png and
    <name>_overlay.png; what could not be read is listed in failures.csv (exit status 3), the others are done.

    Args:
        source: folder of microscope files, or a folder that prepare wrote.
        dest: folder to write to; made if missing.
        bundle: folder of a trained bundle; the packaged one if not given.
        detectors: 2 for SE2/InLens pairs; 1 for single images (TIFF or PNG of any name).
        pixel_size: micrometres per pixel; wins over the files' own metadata.
        overrides: ids of the configs and their values, such as --weights other.pt.
    """
    from carde_monai import bundles

    root = Path(bundle) if bundle else bundles.packaged_bundle()
    configs = ["inference", "segment"]
    overrides = {"dataset_dir": str(source), "output_dir": str(dest), **overrides}
    if not (Path(source) / "datalist.json").is_file():
        configs.insert(1, "sem")
        overrides |= {"detectors": detectors, "pixel_size": pixel_size}
    bundles.run(root, configs, overrides, training=False)


def demo(dest: str = "demo_out") -> None:
    """Everything once, on synthetic steel: synthesize, prepare, train, calibrate, evaluate, segment (minutes).

    Args:
        dest: folder to write to; made if missing.
    """
    from carde_monai.demo import demo as run

    run(Path(dest))


VERBS = {verb.__name__: verb for verb in (demo, synthesize, prepare, train, calibrate, evaluate, segment)}


def _run_training(configs: list[str], dataset: str, bundle: str, overrides: dict[str, Any]) -> None:
    from carde_monai import bundles

    root = bundles.working_bundle(bundle)
    bundles.run(root, configs, {"dataset_dir": str(dataset), **overrides}, training=True)


def _input_error(error: BaseException | None) -> InputError | None:
    """The user's mistake that caused ``error``, which MONAI has wrapped in exceptions of its own."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def main() -> None:
    """Entry point; exit status 0 if everything was done, 3 if some micrographs failed, 2 for wrong usage."""
    import fire

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("carde_monai").setLevel(logging.INFO)
    try:
        fire.Fire(VERBS, name="carde-monai")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        mistake = _input_error(error)
        if mistake is None or "--debug" in sys.argv:
            raise
        print(f"carde-monai: {mistake}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


if __name__ == "__main__":
    main()
