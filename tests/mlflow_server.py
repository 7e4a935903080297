"""A real MLflow server on localhost, in this process, that hangs, breaks and loses answers when told."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from werkzeug.serving import WSGIRequestHandler, make_server


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 32 MB at ``folder``, or that folder itself where mounting is forbidden."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder]
    mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


class Quiet(WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        pass


class MLflowServer:
    """``mood`` is what happens to a request whose path contains ``about``, ``times`` times (None: always).

    "" (nothing), "500", "401", "hang" (until ``released``), "close" (not done, no answer), "lose" (done,
    no answer). Its database and its artifacts lie in ``folder``, a disk that can be full (`fill`).
    """

    def __init__(self, folder: Path) -> None:
        self.ballast = folder / "ballast" if folder.is_mount() else None
        for name, value in {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"{folder}/artifacts",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }.items():
            os.environ[name] = value
        with warnings.catch_warnings():  # those of its web framework
            warnings.simplefilter("ignore")
            from mlflow.server import app
        # every search tries to import it, which needs a package that is not there
        sys.modules["mlflow.server.auth"] = None  # type: ignore[assignment]

        self.app: Callable[..., Iterable[bytes]] = app
        self.store = f"sqlite:///{folder}/mlflow.db"
        self.paths: list[str] = []
        self.released = threading.Event()
        self.be("")
        self.http = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=Quiet)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        MlflowClient(self.address).search_experiments()  # makes the database

    def be(self, mood: str, about: str = "", times: int | None = None) -> None:
        self.mood, self.about, self.times = mood, about, times
        self.paths.clear()
        (self.released.clear if mood == "hang" else self.released.set)()

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes of its disk."""
        if self.ballast is None:
            pytest.skip("no disk of its own may be mounted here")
        with self.ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        with self.ballast.open("r+b") as file:
            file.truncate(self.ballast.stat().st_size - left)

    def make_room(self) -> None:
        if self.ballast is not None:
            self.ballast.unlink(missing_ok=True)

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"].split("/mlflow/")[-1]
        self.paths.append(path)
        if not self.mood or self.about not in path or self.times == 0:
            return self.app(environ, start_response)
        if self.times is not None:
            self.times -= 1
        if self.mood == "lose":
            b"".join(self.app(environ, lambda *args: None))
        if self.mood in ("lose", "close"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        if self.mood == "hang":
            self.released.wait(30)
        status = {"401": "401 UNAUTHORIZED"}.get(self.mood, "500 INTERNAL SERVER ERROR")
        start_response(status, [("Content-Type", "text/plain")])
        return [b"no"]

    def stop(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
        del sys.modules["mlflow.server.auth"]
