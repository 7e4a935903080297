"""How MLflow's pages show an experiment: what it is, and a view whose columns tell trainings apart."""

from __future__ import annotations

import json
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

VIEW = "trainings"  # #/experiments/<id>/runs?workflowType=machine_learning&viewStateShareKey=trainings
SCORE = "metrics.`best/val_mean_dice`"
COLUMNS = {  # with their widths in pixels
    "attributes.`Run Name`": 380,
    SCORE: 150,
    "metrics.`best/val_loss`": 110,
    "metrics.`best/epoch`": 90,
    "metrics.`evaluation/network_mean_dice`": 220,
    "params.`network/class`": 110,
    "params.`learning_rate`": 110,
    "params.`data/training`": 110,
    "tags.`stage`": 90,
    "tags.`error`": 200,
    "attributes.`Models`": 110,
    "attributes.`Dataset`": 210,
    "runDateAndNestInfo": 130,
    "duration": 80,
}
ABOUT = """Segmentation of carbides in SEM micrographs. A run: a training, its calibration, its evaluation.

- `best/`: validation figures of the weights that were kept; `by_epoch/`: curves, the step is the epoch
- `calibration/`: before and after the temperature; `evaluation/`: network and classical method on test data
- parameters: settings, and what else differs from the packaged `train.json`; `config.json` has everything
"""


PICTURES = (
    "training/training_curve",
    "calibration/reliability",
    "evaluation/box_plot",
    "evaluation/overlay_best",
    "evaluation/overlay_worst",
)


def experiment_tags(moment: int) -> dict[str, str]:
    """Tags of a new experiment: its description, and two views of its runs, which MLflow lists under "Views".

    A view, known to MLflow from 3.17 on, is a tag with the state of its page. Without one the table has no
    metric and no parameter, and a picture stands below all the parameters of its run, out of sight.
    ``moment``: now, in milliseconds since 1970.
    """
    told = {VIEW: ("Trainings, best first", _table()), "pictures": ("Pictures side by side", _charts())}
    views = {
        f"mlflow.sharedViewState.{key}": json.dumps(
            {
                "name": name,
                "createdAt": moment,
                "state": json.dumps(state | {"orderByKey": SCORE, "orderByAsc": False}),
            }
        )
        for key, (name, state) in told.items()
    }
    return {MLFLOW_RUN_NOTE: ABOUT} | views


def _table() -> dict[str, Any]:
    """The state of the page with `COLUMNS` in its table."""
    chosen = [name for name in COLUMNS if "`" in name and "Run Name" not in name]
    return {"selectedColumns": chosen, "columnOrder": list(COLUMNS), "columnWidths": COLUMNS}


def _charts() -> dict[str, Any]:
    """The state of the page whose charts begin with `PICTURES`; MLflow adds those of the metrics."""
    common = {"type": "IMAGE", "metricSectionId": "pictures", "step": 0, "runsCountToCompare": 10}
    common |= {"deleted": False, "isGenerated": True, "showRunParams": False}
    section = {"uuid": "pictures", "name": "pictures", "display": True, "isReordered": True}
    return {
        "compareRunCharts": [common | {"uuid": key, "imageKeys": [key]} for key in PICTURES],
        "compareRunSections": [section | {"columns": 1, "cardHeight": 480}],
        "isAccordionReordered": True,
    }
