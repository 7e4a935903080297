"""What a reader of a sample's figures must be told, each in one line."""

from __future__ import annotations

from typing import Any

import pandas as pd

from carde_monai.intervals import carbides_needed
from carde_monai.pooling import PERCENTILES

FEW_FIELDS = 5
FEW_CARBIDES = 30
HEAVY = 0.2  # share of one carbide in the weights of the size distribution


def summary_warnings(fields: pd.DataFrame, summary: dict[str, Any]) -> list[str]:
    """One-line warnings for the ``summary`` of a sample with the rows ``fields`` of ``micrographs.csv``."""
    found = _about_fields(fields, summary)
    if not summary["carbides"]:
        return [*found, "no carbides were found"]
    return [*found, *_about_sizes(summary), *_about_large(summary)]


def _about_fields(fields: pd.DataFrame, summary: dict[str, Any]) -> list[str]:
    found = []
    if summary["unit"] == "px":
        found.append("the pixel size is unknown: lengths are in pixels")
    elif (smallest := fields["pixel_size_um"].min()) < (largest := fields["pixel_size_um"].max()) * 0.999:
        found.append(
            f"the fields differ in pixel size ({1000 * smallest:.3g} to {1000 * largest:.3g} nm): the "
            "coarser miss small carbides that the finer count"
        )
    count = len(fields)
    if count == 1:
        found.append(
            "one field only: no interval can be given, since carbides of one field are not independent"
        )
    elif count < FEW_FIELDS:
        found.append(f"{count} fields only: below {FEW_FIELDS} the intervals are wide and unreliable")
    return found


def _about_sizes(summary: dict[str, Any]) -> list[str]:
    found = []
    uncut = summary["carbides_uncut"]
    sigma, unseen = summary["lognormal"]["sigma"], summary["lognormal"]["unseen"]
    if uncut < FEW_CARBIDES:
        found.append(f"{uncut} uncut carbides only: a size distribution needs at least {FEW_CARBIDES}")
    if (share := summary["largest_weight"]) > HEAVY:
        found.append(
            f"one carbide stands for {100 * share:.0f} % of the size distribution: nearly as large as its "
            "field, such are seldom uncut, and weigh the more"
        )
    if not sigma > 0:
        return [*found, "no log-normal fits the sizes"]
    needed = {percentile: carbides_needed(percentile, sigma) for percentile in PERCENTILES.values()}
    short = [percentile for percentile in sorted(needed) if uncut < needed[percentile]]
    if short:
        found.append(
            f"too few carbides for percentiles of the ECD within 10 % (ISO 13322-1): {uncut} uncut, "
            "needed are at least "
            + ", ".join(f"{needed[percentile]} for the {percentile}th" for percentile in short)
        )
    if unseen > 0.5:
        found.append(
            f"the log-normal fit puts {100 * unseen:.0f} % of the carbides below the smallest size counted: "
            "its median is an extrapolation"
        )
    return found


def _about_large(summary: dict[str, Any]) -> list[str]:
    if summary["quantities"]["large_fraction"]["value"] != 0:
        return []
    uncut = summary["carbides_uncut"]
    return [
        f"none of {uncut} uncut carbides is larger than {summary['large_um']:g} µm: their share is below "
        f"{100 * min(1.0, 3 / uncut):.2g} % with 95 % confidence (rule of three), if carbides are independent"
    ]
