"""What a study writes to read: ``study.md``, tables as CSV and JSON, and a summary run in MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from carde_monai import provenance
from carde_monai.errors import Failure
from carde_monai.replacing import replace_text
from carde_monai.study_results import COLUMNS, PUBLISHED, Findings
from carde_monai.study_steps import Workbench
from carde_monai.tracking import MLflowRun

SOURCE = (
    "Gerçek, Korten, Chekhonin, Hassan, Steinbach: Data-efficient U-Net for Segmentation of Carbide "
    "Microstructures in SEM Images of Steel Alloys (2025)"
)
ABOUT = {
    "paper": "The publication's protocol: tiles of all micrographs, split at random.",
    "honest": "Split by micrograph, whole frames.",
}


@dataclass
class Study:
    """All that the report tells: findings of each protocol, the search's rows, figures, facts and remarks.

    ``failures`` are the micrographs that could not be prepared.
    """

    facts: dict[str, str]
    findings: list[Findings] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """All rows, columns `COLUMNS`."""
        rows = [row for found in self.findings for row in found.rows]
        return pd.DataFrame([*rows, *self.search], columns=COLUMNS)


def write(study: Study, out: Path) -> list[Path]:
    """Write ``study.md``, ``study.json``, ``results.csv`` and, if there is one, ``learning_curve.csv``."""
    files = [out / "study.md", out / "results.csv", out / "study.json"]
    replace_text(files[0], markdown(study, out))
    replace_text(files[1], study.table().to_csv(index=False, float_format="%.6g"))
    learning = [found.learning for found in study.findings if len(found.learning)]
    if learning:
        files.append(out / "learning_curve.csv")
        replace_text(files[-1], pd.concat(learning).to_csv(index=False, float_format="%.6g"))
    content = {
        "facts": study.facts,
        "remarks": study.remarks,
        "notes": {found.protocol: found.notes for found in study.findings},
        "results": _records(study.table()),
        "learning_curve": _records(pd.concat(learning)) if learning else [],
        "published": [[*key, *value] for key, value in PUBLISHED.items()],
        "figures": [path.relative_to(out).as_posix() for path in study.figures],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace_text(files[2], text)
    return files


def markdown(study: Study, out: Path) -> str:
    """The whole report as text; figures are linked relative to ``out``."""
    lines = ["# Carbides in steel: the publication's study again, and an honest one", ""]
    lines += [f"Published figures: {SOURCE}.", ""]
    remarks = study.remarks + [f"Left out: {one.name} ({one.reason})" for one in study.failures]
    lines += [line for remark in remarks for line in (f"> {remark}", "")]
    lines += [*_markdown(pd.DataFrame(study.facts.items(), columns=["what", "value"])), ""]
    lines += ["## Beside the published figures", "", *_markdown(_beside(study)), ""]
    for found in study.findings:
        lines += [f"## {found.protocol.capitalize()} protocol", "", ABOUT[found.protocol], ""]
        lines += [f"- {note}" for note in found.notes] + [""]
        lines += _results(found.table())
        if len(found.learning):
            lines += ["### Learning curve", "", *_learning(found.learning), ""]
        lines += _pictures(study.figures, found.protocol, out)
    if study.search:
        lines += ["## Hyperparameter search", ""]
        lines += _results(pd.DataFrame(study.search, columns=COLUMNS)) + _pictures(
            study.figures, "search", out
        )
    return "\n".join(lines).rstrip() + "\n"


def _beside(study: Study) -> pd.DataFrame:
    """A row a published figure, a column a protocol."""
    table = study.table().set_index(["protocol", "data", "method", "quantity"])
    rows = []
    for key, published in PUBLISHED.items():
        row = {"data": key[0], "method": key[1], "quantity": key[2], "published": _figure(*published)}
        for protocol in (found.protocol for found in study.findings):
            place = ("search" if key[1] == "search" else protocol, *key)
            found = table.loc[place] if place in table.index else None
            row[protocol] = "" if found is None else _figure(found["value"], found["low"], found["high"])
        rows.append(row)
    return pd.DataFrame(rows)


def _results(table: pd.DataFrame) -> list[str]:
    """A row a figure, with its spread in brackets, the published one beside it."""
    rows = [
        {
            "data": row["data"],
            "method": row["method"],
            "quantity": row["quantity"],
            "this study": _figure(row["value"], row["low"], row["high"]),
            "published": _figure(row["published"], row["published_low"], row["published_high"]),
            "n": f"{row['n']:,.0f}" if _told(row["n"]) else "",
        }
        for row in table.to_dict("records")
        if _told(row["value"])  # no p of fewer than six pairs
    ]
    told = "In brackets: lower and upper quartile; of a temperature the range over the folds. "
    told += (
        "ECE and NLL of the network are those before temperature scaling. n: tiles, micrographs, pixels or "
    )
    told += (
        "folds. The published Dice of the hold-out stands beside whole micrographs; whether it is of tiles "
    )
    told += "is not known here."
    return [*_markdown(pd.DataFrame(rows)), "", told, ""]


def _learning(table: pd.DataFrame) -> list[str]:
    numbers = [column for column in table if column not in ("seed", "micrographs", "trained on")]
    short = table.copy()
    for column in numbers:
        short[column] = [_figure(value) for value in table[column]]
    return _markdown(short)


def _figure(value: Any, low: Any = None, high: Any = None) -> str:
    if not _told(value):
        return ""
    text = _number(float(value))
    return f"{text} ({_number(float(low))} to {_number(float(high))})" if _told(low) else text


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def _told(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _markdown(table: pd.DataFrame) -> list[str]:
    rows = [[str(value).replace("|", "/") for value in row] for row in table.itertuples(index=False)]
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns), *rows]
    return [f"| {' | '.join(row)} |" for row in rows]


def _pictures(figures: Sequence[Path], start: str, out: Path) -> list[str]:
    chosen = [path for path in figures if path.name.startswith(start)]
    return [
        line
        for path in chosen
        for line in (f"![{path.stem.replace('_', ' ')}]({path.relative_to(out).as_posix()})", "")
    ]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(table.to_json(orient="records", double_precision=10))


def record(study: Study, files: Sequence[Path], bench: Workbench) -> None:
    """Write the tables and figures, and every result as a metric, into one MLflow run ``summary``.

    The run is continued when a study is called again. Without a tracking address nothing happens.
    """
    if not bench.tracking_uri:
        return
    run = MLflowRun(bench.tracking_uri, bench.experiment, bench.out / "mlflow_summary.json")
    settings = {f"setting/{key}": str(value) for key, value in bench.overrides.items()}
    facts = provenance.environment() | study.facts | settings
    tags = {"mlflow.source.name": "carde_monai", "mlflow.source.type": "LOCAL"}
    run.open("summary", tags, facts, resume=True)
    values = {
        "/".join(map(str, (row["protocol"], row["data"], row["method"], row["quantity"]))): float(
            row["value"]
        )
        for row in study.table().to_dict("records")
        if _told(row["value"])
    }
    run.metrics(values)
    for path in files:
        run.file(path)
    for path in study.figures:
        run.file(path, "figures")
    run.close("FINISHED")
