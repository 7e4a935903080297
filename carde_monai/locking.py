"""One run at a time in a folder of results."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from carde_monai.errors import InputError
from carde_monai.replacing import LOCK, remove_leftovers

__all__ = ["LOCK", "claimed"]

logger = logging.getLogger("carde_monai")


@contextlib.contextmanager
def claimed(*folders: Path) -> Iterator[None]:
    """Keep other runs out of the folders, which are made, and remove what killed runs were writing there.

    The system frees the lock with the process, however that ends. Where a file system has no locks, a
    warning says so. Of the processes of a distributed run the first claims for all.

    Raises:
        InputError: another run holds one of the folders.
    """
    with contextlib.ExitStack() as stack:
        if int(os.environ.get("RANK", 0)) == 0:
            for folder in dict.fromkeys(folder.resolve() for folder in folders):
                stack.enter_context(_claimed(folder))
                if int(os.environ.get("WORLD_SIZE", 1)) == 1:  # others may be writing already
                    remove_leftovers(folder)
        yield


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        _acquire(lock, folder)
        yield
    finally:
        if lock.is_locked:
            # while it is held: who opens it later locks another file, and who waits for this one tries again
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink(missing_ok=True)
            lock.release()
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if nothing was written


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remedy = "wait for its end, or choose another folder"
        raise InputError(folder, "another run of carde-monai is writing there", remedy) from None
    except (OSError, NotImplementedError) as error:
        logger.warning("%s: cannot be locked (%s); start no second run into it", folder, error)
        return
    if isinstance(lock, SoftFileLock):  # filelock's stand-in would outlive a process that is killed
        lock.release()
        logger.warning("%s: its file system has no locks; start no second run into it", folder)
