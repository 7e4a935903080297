"""The SQLite file of MLflow, made so that a kill leaves a whole one or none."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from carde_monai.replacing import all_or_none

SECONDS = 60.0  # MLflow makes a database of its own in a few, on a slow machine in more


def create_database(file: Path, patience: float = SECONDS) -> None:
    """Let MLflow make its tables in a file of its own, and put that in place, unless ``file`` exists.

    MLflow makes them one by one, and cannot use what a killed process has left of that. Processes that begin
    at once wait for the one that makes it. ``file`` is absolute.

    Raises:
        OSError: the folder cannot be written to, or has no locks.
        filelock.Timeout: another process has been making it for ``patience`` seconds.
    """
    if file.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # slow, and not for other stores

    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f".{file.name}.lock")
    with FileLock(lock, timeout=patience):
        if not file.exists():
            with all_or_none(file.parent) as folder:
                made = SqlAlchemyStore(
                    f"sqlite:///{folder / file.name}", (file.parent / "mlartifacts").as_uri()
                )
                made.engine.dispose()
        lock.unlink(missing_ok=True)  # while it is held: who waits for it tries again
