"""``carde-monai sync-tracking``: what MLflow did not get during a run is handed over later."""

from __future__ import annotations

import logging
from pathlib import Path

from carde_monai.errors import Failure, InputError
from carde_monai.outbox import brief, patient_mlflow, refused
from carde_monai.provenance import without_password
from carde_monai.tracking_delivery import Delivery, hand_over, may_pass, store_address
from carde_monai.tracking_journal import SUFFIX, Journal, journals, put_away

logger = logging.getLogger("carde_monai")

PATIENCE = 30.0  # seconds that a server may take to answer
SERVER = "start the server, or give its address with --tracking_uri, and call again"


def sync_tracking(folder: str | Path, tracking_uri: str | None = None) -> list[Failure]:
    """Write what journals below ``folder`` hold into their MLflow runs; those of dead processes FAILED.

    The oldest first; journals of living processes are left alone. ``tracking_uri`` replaces the address that
    a journal tells (without password). A run that this address has not gets all that the journal holds. A
    journal is removed when the server has all of it; calling again doubles nothing.

    Returns:
        what could not be handed over, and stays where it is.

    Raises:
        InputError: there is no such folder, or MLflow does not know the kind of ``tracking_uri``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "there is no such folder", "name a bundle or an output folder")
    address = store_address(tracking_uri) if tracking_uri else None
    files = [path for path in folder.rglob(f"*{SUFFIX}") if path.is_file()]
    found = list(journals(files))
    failures = [
        Failure(str(path), "is no record of an MLflow run, or was cut off; remove it if it is of no use")
        for path in sorted(set(files) - {one.path for one in found})
    ]
    if not files:
        logger.info("%s: everything has been handed over", folder)
    silent: dict[str, str] = {}
    for journal in found:
        failures += _sync(journal, address or str(journal.header["tracking_uri"]), bool(address), silent)
    return failures


def _sync(journal: Journal, address: str, moved: bool, silent: dict[str, str]) -> list[Failure]:
    """Hand over one journal, and say so; ``silent`` collects the servers that are, and the reasons."""
    name, server = str(journal.path), without_password(address)
    if address in silent:
        return [Failure(name, silent[address])]
    if not journal.take():
        told = journal.header
        logger.info("%s: is at work (process %s on %s)", name, told.get("pid"), told.get("host"))
        return []
    number = len(journal.pending())
    try:
        with patient_mlflow(PATIENCE):
            refusals = hand_over(journal, Delivery(address, journal), moved)
    except InputError as error:
        return [Failure(name, str(error).removeprefix(f"{name}: "))]
    except Exception as error:  # whatever a store or a network raises
        reason = f"MLflow at {server}: {brief(error)}; {SERVER}"
        if not refused(error) or may_pass(error):
            silent[address] = reason
        return [Failure(name, reason)]
    finally:
        put_away(journal)
    logger.info("run %s at %s: %d entries handed over", journal.run.get("run_name"), server, number)
    return [Failure(name, f"refused by {server} and dropped: {'; '.join(refusals)}")] if refusals else []
