"""Verbs that train, calibrate and evaluate. Heavy imports stand in the functions so that help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carde_monai.errors import finish
from carde_monai.startup import importing
from carde_monai.verbs import ensemble, overlay_names


def train(dataset: str, bundle: str = "bundle", overlay: str | None = None, **overrides: Any) -> None:
    """Train the bundle's network on a prepared data set; the best weights go to BUNDLE/models/model.pt.

    It starts from the weights that come with the package (--from_scratch: from random ones). The best are
    those with the highest Dice on the validation micrographs. The table and curve of the training and the
    MLflow database go to --output_dir (BUNDLE/eval). Ctrl-C stops after the batch. The same
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
    _run_training(["train", "evaluate", *ensemble(overrides)], dataset, bundle, overlay, overrides)


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


def _run_training(
    configs: list[str], dataset: str, bundle: str, overlay: str | None, overrides: dict[str, Any]
) -> None:
    with importing():
        from carde_monai import bundles, datalist

    overrides = {"dataset_dir": dataset, **overrides}
    root = Path(bundle)
    new = configs == ["train"] and not overrides.get("resume")
    names = overlay_names(overlay)
    several = overrides.get("classes", 1) != 1 or "classes" in names
    if several and "classes" not in names:
        names.append("classes")
    # the stage last: it says whose weights count
    configs = [configs[0], *names, *configs[1:]]
    if several and "evaluate" in configs:
        configs.append("evaluate_classes")
    if new and not root.exists():
        # a mistyped folder or option must not leave a new bundle behind
        bundles.check_overrides(bundles.config_files(bundles.packaged_bundle(), configs), overrides)
        # `few` watches a training micrograph where there is none for validation
        for section in ("training",) if "few" in names else ("training", "validation"):
            datalist.load(dataset, section, overrides.get("fold"))
    if new:
        root = bundles.working_bundle(bundle)
    bundles.run(root, configs, overrides, training=True)
