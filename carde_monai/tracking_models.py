"""Models in MLflow: logged to a run and registered, once even if they are sent twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE

KEY = "carde_monai.model"  # tag of a model: found by it when the answer to its creation was lost
JUDGED = re.compile("evaluation/(.*mean_dice)")  # the figures that say in short how good it is
ABOUT = """Finds carbides in SEM micrographs of steel.

**Input** raw greys (N, 2, rows, columns), float32: channel 0 SE2, channel 1 InLens, without the info bar

**Output** calibrated probability of carbide (N, 1, rows, columns), float32; above 0.5 is carbide"""


def register(
    client: MlflowClient, run_id: str, folder: Path, name: str, key: str, figures: Iterable[Metric] = ()
) -> str:
    """Log the MLflow model in ``folder`` to a run and register it as a new version of ``name``.

    What the server has of the model with this ``key`` already is not made again. MLflow's own ``log_model``
    works on the run and the server that are global in this process, and doubles what is sent again.

    Args:
        figures: of the run, recorded for the model, too; those of its evaluation describe the version.

    Returns:
        the number of the version.
    """
    run = client.get_run(run_id)
    figures = list(figures)
    model = _logged(client, run, name, key)
    if model.status != LoggedModelStatus.READY:
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    points = [
        Metric(one.key, one.value, one.timestamp, one.step, model_id=model.model_id, run_id=run_id)
        for one in figures
    ]
    if points:
        client.log_batch(run_id, metrics=points)
    version = _version(client, model, run, name, {one.key: one.value for one in figures})
    told = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: told})
    return version


def _logged(client: MlflowClient, run: Run, name: str, key: str) -> LoggedModel:
    """The model with this key, made if there is none, as an output of the run."""
    experiment, run_id = run.info.experiment_id, run.info.run_id
    found = client.search_logged_models([experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
    model = (
        found[0]
        if found
        else client.create_logged_model(experiment, name.replace(".", "_"), run_id, tags={KEY: key})
    )
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {one.model_id for one in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return model


def _version(
    client: MlflowClient, model: LoggedModel, run: Run, name: str, figures: Mapping[str, float]
) -> str:
    try:
        client.create_registered_model(name, description=ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # not models:/<id>, which a database's registry would look for at MLflow's global address
    source = model.artifact_location
    known = [one for one in client.search_model_versions(f"name = '{name}'") if one.source == source]
    scores = {found[1]: f"{value:.4g}" for key, value in figures.items() if (found := JUDGED.fullmatch(key))}
    version = known[0] if known else client.create_model_version(
        name, source, run.info.run_id, scores, description=_description(run, scores),
        await_creation_for=None, model_id=model.model_id,
    )  # fmt: skip
    return str(version.version)


def _description(run: Run, scores: Mapping[str, str]) -> str:
    """What the page of a version says, in Markdown: its scores, and what its run says of itself."""
    judged = ", ".join(f"{name} {value}" for name, value in scores.items())
    told = f"**Evaluation** {judged}" if judged else ""
    return "\n\n".join(filter(None, [told, run.data.tags.get(MLFLOW_RUN_NOTE, "")]))
