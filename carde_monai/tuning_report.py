"""What a hyperparameter search leaves to read: tables, the best configuration beside the published one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from carde_monai import bundles, tuning_figures
from carde_monai.bundles import command
from carde_monai.replacing import replace_file, replace_text
from carde_monai.tuning_study import Search, attempt, finished

# Gerçek et al. 2025: best of 46 trials, which varied just these four.
PUBLISHED: dict[str, Any] = {
    "validation_loss": 0.0455,
    "parameters": {"learning_rate": 2e-4, "early_stop_patience": 14, "features": 128, "depth": 3},
    "trials": 46,
    "note": "on tiles; tiles of one micrograph stood in training and validation, so a split by micrograph "
    "is expected to give a higher loss",
}


def write(search: Search, study: optuna.Study) -> list[Path]:
    """Write the tables and figures of the study as it is now into the search's folder; return their paths.

    Without a complete trial there is no ``best.json``; one of an earlier run is kept.
    """
    trials, dest = study.get_trials(deepcopy=False), search.output_dir
    complete = [one for one in trials if one.state == TrialState.COMPLETE]
    best = min(complete, key=lambda one: one.values[0]) if complete else None
    table = trial_table(search, trials)
    importance = importances(study)
    files = [dest / name for name in ("trials.csv", "summary.json")]
    replace_text(files[0], table.to_csv(index=False))
    if best is not None:
        files.append(dest / "best.json")
        replace_text(files[-1], _json(overlay(search, best)))
    replace_text(files[1], _json(_summary(search, trials, best, importance)))
    parameters = search.parameters()
    for name, figure in (
        ("history.png", tuning_figures.history(table, PUBLISHED["validation_loss"])),
        ("slice.png", tuning_figures.slices(table, parameters, PUBLISHED["parameters"])),
        ("importance.png", tuning_figures.importance(importance, len(complete))),
    ):
        files.append(dest / name)
        replace_file(files[-1], partial(figure.savefig, dpi=150))
    return files


def overlay(search: Search, best: FrozenTrial) -> dict[str, Any]:
    """The overlay on ``train`` that trains as the trial did: the other base configs, settings, values."""
    found = {one.id: one.value(best.params[one.id]) for one in search.parameters()}
    base: dict[str, Any] = {}
    for file in bundles.config_files(search.bundle, search.base[1:]):
        base |= json.loads(Path(file).read_text(encoding="utf-8"))
    return base | dict(search.settings) | found


def trial_table(search: Search, trials: list[FrozenTrial]) -> pd.DataFrame:
    """A row a trial. ``val_loss`` is the lowest of the trial, of a pruned one too; NaN if it failed.

    ``state``: complete, pruned, failed; lost (died or stopped, to be done again), running, waiting.
    """
    rows = []
    for trial in trials:
        result = trial.user_attrs.get("result", {})
        rows.append(
            {
                "trial": trial.number,
                "state": _state(trial, search.retries),
                **{name: result.get(name) for name in ("val_loss", "best_epoch", "epochs", "seconds")},
                **{one.id: trial.params.get(one.id) for one in search.parameters()},
                "attempt": attempt(trial),
                "error": reason(trial, search.retries),
                "mlflow_run": result.get("mlflow_run", ""),
            }
        )
    columns = ["trial", "state", "val_loss", "best_epoch", "epochs", "seconds"]
    columns += [one.id for one in search.parameters()] + ["attempt", "error", "mlflow_run"]
    kinds = {"val_loss": float, "best_epoch": "Int64", "epochs": "Int64", "seconds": float}
    # objects: a trial that waits has no values yet, and would make 8 of all others 8.0
    return pd.DataFrame(rows, columns=columns, dtype=object).astype(kinds)


def reason(trial: FrozenTrial, retries: int) -> str:
    """Why a trial failed, in one line; "" if it did not."""
    if trial.state != TrialState.FAIL:
        return ""
    if finished(trial, retries):
        return str(trial.user_attrs.get("error", "its process died"))
    stopped = "stopped" in trial.user_attrs
    return "stopped, to be done again" if stopped else "its process died, to be done again"


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each parameter in the differences between good trials and others; {} if there are too few.

    PED-ANOVA (Watanabe et al. 2023) on the complete trials, Optuna's default. It needs no scikit-learn.
    """
    values = [one.values[0] for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(set(values)) < 4:
        return {}
    return optuna.importance.get_param_importances(study)


def outcome(summary: Path) -> str:
    """The best trial of a ``summary.json`` beside the published one, and the command to train so."""
    told = json.loads(summary.read_text(encoding="utf-8"))
    ours, published, trials = told["ours"], told["published"], told["trials"]
    counts = ", ".join(f"{trials[name]} {name}" for name in ("complete", "pruned", "failed"))
    lines = [f"{trials['finished']} trials: {counts}"]
    lines += ["", f"{'':<28}{'found':>12}{'published':>12}"]
    rows = {"validation Dice loss": (ours["validation_loss"], published["validation_loss"])}
    rows |= {name: (value, published["parameters"].get(name)) for name, value in ours["parameters"].items()}
    lines += [f"{name:<28}{_cell(mine):>12}{_cell(theirs):>12}" for name, (mine, theirs) in rows.items()]
    return "\n".join([*lines, "", "Train with it", f"  {ours['train']}"])


def _state(trial: FrozenTrial, retries: int) -> str:
    if trial.state == TrialState.FAIL:
        return "failed" if finished(trial, retries) else "lost"
    return trial.state.name.lower()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(
    search: Search, trials: list[FrozenTrial], best: FrozenTrial | None, importance: dict[str, float]
) -> dict[str, Any]:
    states = [_state(one, search.retries) for one in trials]
    files = [str(search.bundle / "configs" / f"{name}.json") for name in search.base]
    ours: dict[str, Any] | None = None
    if best is not None:
        weights = search.folder(best.number) / "models" / "model.pt"
        ours = {
            "validation_loss": best.values[0],
            "parameters": {one.id: one.value(best.params[one.id]) for one in search.parameters()},
            "trial": best.number,
            "epochs": best.user_attrs["result"]["epochs"],
            "weights": str(weights) if weights.is_file() else None,
            "train": command(
                [*files, str(search.output_dir / "best.json")],
                {
                    "bundle_root": str(search.bundle),
                    "dataset_dir": str(search.places["dataset_dir"]),
                    "ckpt_dir": str(search.output_dir / "best" / "models"),
                    "output_dir": str(search.output_dir / "best" / "eval"),
                },
            ),
        }
    done = sum(finished(one, search.retries) for one in trials)
    counts = {name: states.count(name) for name in ("complete", "pruned", "failed", "lost")}
    return {
        "study": search.name,
        "storage": search.address,
        "trials": {"wanted": search.trials, "finished": done, **counts},
        "ours": ours,
        "published": PUBLISHED,
        "search_space": search.space,
        "settings": search.settings,
        "base": list(search.base),
        "data": search.data,
        "importance": importance,
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=4, default=_number)


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is none of JSON's")
