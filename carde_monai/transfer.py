"""A file over HTTP: continued after an interruption, with a checksum beside it, whole or not there at all.

MONAI's ``download_url`` (urlretrieve) starts anew after an interruption and waits without end for a silent
server; hence urllib with ranges, timeouts and attempts. A file in progress is ``<file>.part``, with the
version that the server names in ``<file>.part.version``; a finished one has ``<file>.sha256`` beside it.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from carde_monai import __version__
from carde_monai.errors import InputError
from carde_monai.replacing import replace_text

logger = logging.getLogger("carde_monai")

TIMEOUT = 30.0  # seconds that a server may be silent
ATTEMPTS = 4  # in a row without a new byte
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
CHUNK = 1 << 20
RETRY = {408, 425, 429, 500, 502, 503, 504}  # what passes
CONNECTION = "check the connection (and https_proxy) and call again: what has come is kept"
RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")  # Content-Range: first byte, length of the whole


class Interrupted(Exception):
    """What passes: the connection broke, or the server is busy. The message says what happened."""


def fetch(
    url: str, path: str | Path, checksum: str | None = None, timeout: float = TIMEOUT, pause: float = PAUSE
) -> str:
    """Download ``url`` to ``path`` and return its SHA-256; a file that is there is verified and not fetched.

    What an earlier call left is continued if the server gives ranges of the same version of the file (ETag or
    Last-Modified), otherwise fetched again. ``checksum`` is ``md5:<hex>`` or ``sha256:<hex>``.

    Raises:
        InputError: in one line what network, server or disk did, or that a checksum differs.
    """
    path = Path(path)
    check_address(url)
    try:
        if path.exists():
            return _verify(path, checksum)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        _receive_all(url, part, timeout, pause)
        found = digests(part, checksum)
        if checksum and not _agrees(found, checksum):
            _forget(part)
            wrong = f"what came has another checksum than {checksum} and was deleted"
            raise InputError(url, wrong, "call again, or ask the publisher")
        _write_record(path, found["sha256"])
        part.replace(path)  # last: a file without .part is whole and checked
        _forget(part)
    except OSError as error:
        wrong = f"cannot be written or read ({error.strerror or error})"
        raise InputError(error.filename or path, wrong, "check the folder and the disk") from error
    return found["sha256"]


def open_url(url: str, headers: dict[str, str], timeout: float) -> Any:
    """The response to a request; 416 (nothing in that range) is one, too.

    Raises:
        Interrupted: what passes.
        InputError: what does not.
    """
    host = urlsplit(url).netloc
    request = urllib.request.Request(url, headers={"User-Agent": f"carde-monai/{__version__}", **headers})
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        wrong = f"answers {error.code} {error.reason} for {url}"
        if error.code in RETRY:
            raise Interrupted(wrong) from error
        raise InputError(host, wrong, "the address may have changed: see the publisher's page") from error
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"no connection ({_said(error)})") from error


def check_address(url: str) -> None:
    """Raise InputError unless ``url`` is an address of the web: urllib would read local files, too."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise InputError(url, "is no address of the web", "give one that begins with https://")


def digests(path: Path, checksum: str | None = None) -> dict[str, str]:
    """SHA-256 of a file, and its digest of the kind of ``checksum``, by the names of the algorithms.

    Raises InputError for a kind that is neither MD5 nor SHA-256.
    """
    wanted = checksum.partition(":")[0] if checksum else "sha256"
    if wanted not in ("md5", "sha256"):
        raise InputError(f"checksum {checksum}", "is neither md5:... nor sha256:...", "leave it out")
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", wanted}}
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            for one in hashes.values():
                one.update(block)
    return {name: one.hexdigest() for name, one in hashes.items()}


def _agrees(found: dict[str, str], checksum: str) -> bool:
    algorithm, _, value = checksum.partition(":")
    return found[algorithm] == value.lower()


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _write_record(path: Path, sha256: str) -> None:
    replace_text(_record(path), f"{sha256}  {path.name}\n")  # as ``sha256sum -c`` reads it


def _verify(path: Path, checksum: str | None) -> str:
    """SHA-256 of a file that is there already, if it is what it was and what it should be."""
    found = digests(path, checksum)
    record = _record(path)
    known = [f"sha256:{record.read_text(encoding='utf-8').partition(' ')[0]}"] if record.exists() else []
    for one in [*known, *([checksum] if checksum else [])]:
        if not _agrees(found, one):
            raise InputError(path, f"has another checksum than {one}", "delete it to download it again")
    if not known:
        if not checksum:
            logger.warning("%s: was there without a checksum and is taken as it is", path)
        _write_record(path, found["sha256"])
    return found["sha256"]


def _receive_all(url: str, part: Path, timeout: float, pause: float) -> None:
    """Fill ``part``, in as many attempts as bring something new, and a few more."""
    best, attempt = _size(part), 0
    while True:
        try:
            return _receive(url, part, timeout)
        except Interrupted as interruption:
            here = _size(part)
            best, attempt = max(best, here), 0 if here > best else attempt + 1
            if attempt >= ATTEMPTS:
                wrong = f"{interruption}, {here} bytes of {url} are here"
                raise InputError(urlsplit(url).netloc, wrong, CONNECTION) from interruption
            logger.info("%s: %s; trying again", url, interruption)
            time.sleep(pause * 2 ** max(0, attempt - 1))


def _receive(url: str, part: Path, timeout: float) -> None:
    """One attempt to fetch the rest of ``part``, or all of it. Raises Interrupted if another may help."""
    version = part.with_name(f"{part.name}.version")
    known = version.read_text(encoding="latin-1") if version.exists() else ""
    have = _size(part) if known else 0
    headers = {"Range": f"bytes={have}-", "If-Range": known} if have else {}
    with open_url(url, headers, timeout) as response:
        sent = RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status == 416 and sent and sent[2] == str(have):
            return  # it is whole already
        if response.status == 206 and sent and sent[1] == str(have) and _version(response.headers) == known:
            pass
        elif response.status == 200:
            have = 0
            version.write_text(_version(response.headers), encoding="latin-1")
        else:
            _forget(part)
            raise Interrupted(f"status {response.status}: the file has changed on the server")
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        _check_space(part, 0 if total is None else total - have)
        _copy(response, part, have, total)


def _copy(response: http.client.HTTPResponse, part: Path, have: int, total: int | None) -> None:
    """Append to ``part``, which holds ``have`` of ``total`` bytes, what comes; a total of None is unknown."""
    scale: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "disable": None}
    with (
        part.open("ab" if have else "wb") as file,
        tqdm(desc=part.stem, initial=have, total=total, **scale) as bar,
    ):
        while total is None or have < total:
            try:
                block = response.read1(CHUNK if total is None else min(CHUNK, total - have))
            except (OSError, http.client.HTTPException) as error:
                raise Interrupted(f"the connection broke ({_said(error)})") from error
            if not block:
                break
            file.write(block)
            have += len(block)
            bar.update(len(block))
    if total is not None and have < total:
        raise Interrupted(f"the connection ended after {have} of {total} bytes")


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return str(getattr(reason, "strerror", None) or reason) or type(error).__name__


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        wrong = f"{needed / 1e9:.1f} GB are to come but {free / 1e9:.1f} GB free"
        raise InputError(part.parent, wrong, "make room or choose another folder")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _version(headers: Any) -> str:
    """What tells one version of a file from another; a weak ETag does not (RFC 9110, If-Range)."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(f"{part.name}.version").unlink(missing_ok=True)
