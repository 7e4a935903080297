"""The verbs of the command line, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def overlay_names(overlay: str | None) -> list[str]:
    """The configs that ``--overlay a,b`` names."""
    return [name.strip() for name in (overlay or "").split(",") if name.strip()]


def inference_overlays(overlay: str | None, bundle: str | None, overrides: Mapping[str, Any]) -> list[str]:
    """The configs that infer as ``--overlay`` and ``--weights`` say, and as the packaged weights want it."""
    from carde_monai.bundles import with_packaged

    names = [*ensemble(overrides), *overlay_names(overlay)]
    return names if bundle or "weights" in overrides else with_packaged(names)


def ensemble(overrides: Mapping[str, Any]) -> list[str]:
    """The config that ``--weights a.pt,b.pt`` needs."""
    from carde_monai.provenance import weight_files

    weights = overrides.get("weights")
    return ["ensemble"] if weights is not None and len(weight_files(weights)) > 1 else []
