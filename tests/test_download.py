"""Downloads from a server of this test that drops lines, lies and speaks no ranges; hostile archives."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import stat
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from carde_monai import download as module
from carde_monai import replacing, transfer, unpacking
from carde_monai.download import DATASETS, Dataset, arrays_to_pictures, download, look_up, main
from carde_monai.errors import InputError
from carde_monai.transfer import fetch
from carde_monai.unpacking import Rule, unpack

REPOSITORY = Path(__file__).resolve().parent.parent
CONTENT = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server has and how it behaves; ``requests`` are path and Range header of each."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    version: str | None = '"one"'  # its ETag
    drops: list[int] = field(default_factory=list)  # a response each: bytes after which the line goes dead
    statuses: list[int] = field(default_factory=list)  # a response each, before any other
    silent: bool = False
    obeys: bool = True  # If-Range
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def url(self, path: str = "/file") -> str:
        return f"http://{self.address}{path}"


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            site.requests.append((path, self.headers["Range"]))
            if site.silent:
                released.wait(20)
                return
            status = site.statuses.pop(0) if site.statuses else 200 if path in site.files else 404
            if status != 200:
                self.send_error(status)
                return
            self._send(site.files[path])

        def _send(self, content: bytes) -> None:
            wanted, start = self.headers["Range"], 0
            same = not site.obeys or self.headers["If-Range"] in (None, site.version)
            if site.ranges and wanted and same:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            if site.version:
                self.send_header("ETag", site.version)
            self.end_headers()
            self.wfile.write(content[start:][: site.drops.pop(0) if site.drops else None])

    released = threading.Event()
    Handler.released = released  # type: ignore[attr-defined]
    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site({"/file": CONTENT})
    handler = _handler(site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        site.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield site
        handler.released.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine between the test and its server, and no pauses."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(transfer.time, "sleep", lambda _: None)


def _get(site: Site, path: Path, checksum: str | None = None) -> str:
    return fetch(site.url(), path, checksum, timeout=10)


def _left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


# fetching


def test_a_file_arrives_whole_with_its_checksum_beside(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    assert _get(site, path) == SHA
    assert path.read_bytes() == CONTENT
    assert _left(path.parent) == {"file", "file.sha256"}
    assert (path.parent / "file.sha256").read_text() == f"{SHA}  file\n"
    subprocess.run(["sha256sum", "--check", "--quiet", "file.sha256"], cwd=path.parent, check=True)


def test_an_empty_file_arrives(site: Site, tmp_path: Path) -> None:
    site.files["/file"] = b""
    assert _get(site, tmp_path / "file") == hashlib.sha256(b"").hexdigest()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_broken_connection_is_continued_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000, 50_000]
    assert _get(site, tmp_path / "file") == SHA
    assert [wanted for _, wanted in site.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_continues(site: Site, tmp_path: Path) -> None:
    site.drops = [100_000] + [0] * transfer.ATTEMPTS
    with pytest.raises(InputError, match=r"100000 bytes of .* are here; check the connection") as caught:
        _get(site, tmp_path / "file")
    assert str(caught.value).startswith(site.address)
    assert _left(tmp_path) == {"file.part", "file.part.version"}
    site.requests.clear()
    assert _get(site, tmp_path / "file") == SHA
    assert [wanted for _, wanted in site.requests] == ["bytes=100000-"]
    assert _left(tmp_path) == {"file", "file.sha256"}


def test_without_ranges_it_starts_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.drops = [100_000]
    assert _get(site, tmp_path / "file") == SHA
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("version", [None, 'W/"weak"'], ids=["no version", "weak version"])
def test_what_names_no_version_of_the_file_is_not_continued(
    site: Site, tmp_path: Path, version: str | None
) -> None:
    site.version = version
    site.drops = [100_000]
    assert _get(site, tmp_path / "file") == SHA
    assert [wanted for _, wanted in site.requests] == [None, None]


def test_a_server_that_always_stops_at_the_same_place_ends(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.drops = [100_000] * 50
    with pytest.raises(InputError, match="the connection ended after 100000 of 300000 bytes"):
        _get(site, tmp_path / "file")
    assert len(site.requests) == transfer.ATTEMPTS + 1


@pytest.mark.parametrize("obeys", [True, False], ids=["If-Range", "no If-Range"])
def test_two_versions_are_never_mixed(site: Site, tmp_path: Path, obeys: bool) -> None:
    site.obeys = obeys
    site.drops = [100_000] + [0] * transfer.ATTEMPTS
    with pytest.raises(InputError):
        _get(site, tmp_path / "file")
    site.version, site.files["/file"] = '"two"', CONTENT[::-1]
    _get(site, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_a_part_that_is_whole_already_is_taken(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    (tmp_path / "file.part.version").write_text('"one"')
    assert _get(site, tmp_path / "file") == SHA
    assert [wanted for _, wanted in site.requests] == ["bytes=300000-"]


def test_a_part_longer_than_the_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    (tmp_path / "file.part.version").write_text('"one"')
    assert _get(site, tmp_path / "file") == SHA


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 429]
    assert _get(site, tmp_path / "file") == SHA
    assert len(site.requests) == 3


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_missing_file_is_one_line_at_once(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses = [status]
    with pytest.raises(InputError) as caught:
        _get(site, tmp_path / "file")
    line = str(caught.value)
    assert line.startswith(f"{site.address}: answers {status} ") and site.url() in line and "\n" not in line
    assert len(site.requests) == 1
    assert _left(tmp_path) == set()


def test_a_silent_server_is_given_up(site: Site, tmp_path: Path) -> None:
    site.silent = True
    with pytest.raises(InputError, match="timed out"):
        fetch(site.url(), tmp_path / "file", timeout=0.05)


def test_nobody_there_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=rf"^127.0.0.1:{port}: no connection \(Connection refused\)"):
        fetch(f"http://127.0.0.1:{port}/file", tmp_path / "file")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "rodare.hzdr.de/file", "https://"])
def test_only_the_web_is_read(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match="no address of the web"):
        fetch(url, tmp_path / "file")


def test_a_wrong_checksum_keeps_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another checksum than md5:0123"):
        _get(site, tmp_path / "file", "md5:0123")
    assert _left(tmp_path) == set()
    assert _get(site, tmp_path / "file", f"md5:{hashlib.md5(CONTENT).hexdigest().upper()}") == SHA


def test_a_checksum_of_another_kind_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither md5"):
        _get(site, tmp_path / "file", "crc32:0")


def test_a_second_call_verifies_and_fetches_nothing(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "file"
    _get(site, path)
    site.requests.clear()
    assert _get(site, path, f"sha256:{SHA}") == SHA
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=f"another checksum than sha256:{SHA}; delete it"):
        _get(site, path)
    assert path.exists()
    assert site.requests == []


def test_a_file_put_there_by_hand_is_recorded(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    with caplog.at_level(logging.WARNING):
        assert _get(site, tmp_path / "file") == SHA
    assert "without a checksum" in caplog.text
    assert (tmp_path / "file.sha256").exists()
    assert site.requests == []


def test_a_full_disk_is_said_before(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = transfer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="make room"):
        _get(site, tmp_path / "file")


def test_a_folder_that_cannot_be_written_is_one_line(site: Site, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        _get(site, tmp_path / "taken" / "file")


# unpacking


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(_zip(**{"cloud/": b"", "cloud/images/a.tif": b"pixels", "cloud/b": b""}))
    paths = unpack(archive, tmp_path / "out")
    assert paths == [tmp_path / "out/cloud/images/a.tif", tmp_path / "out/cloud/b"]
    assert paths[0].read_bytes() == b"pixels"
    before = paths[0].stat().st_mtime_ns
    paths[1].write_bytes(b"changed")
    unpack(archive, tmp_path / "out")
    assert paths[0].stat().st_mtime_ns == before
    assert paths[1].read_bytes() == b""  # what differs is unpacked again
    assert not list(tmp_path.rglob("*.part"))


HOSTILE = [
    "../evil",
    "a/../../evil",
    "/evil",
    "//host/evil",
    "C:/evil",
    "C:evil",
    "..\\evil",
    "a\\..\\..\\evil",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_members_that_want_out_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(_zip(**{"good": b"1", name: b"2"}))
    with pytest.raises(InputError, match="wants to write outside"):
        unpack(archive, tmp_path / "in" / "out")
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "a.zip"}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    archive = tmp_path / "a.zip"
    member = zipfile.ZipInfo("link")
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(member, "/etc/passwd")
    with pytest.raises(InputError, match="holds a link or device"):
        unpack(archive, tmp_path / "out")


def test_a_link_in_the_folder_leads_nowhere_else(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(_zip(**{"cloud/a": b"1"}))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cloud").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="remove the link"):
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(_zip(a=bytes(10_000_000)))
    assert archive.stat().st_size < 20_000
    with pytest.raises(InputError, match="would unpack to"):
        unpack(archive, tmp_path / "out", limit=9_999_999)
    unpack(archive, tmp_path / "out", limit=10_000_000)


def test_a_member_longer_than_it_declares_is_cut_and_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    content = _zip(a=bytes(100_000))
    declared = (100_000).to_bytes(4, "little")
    assert content.count(declared) == 2
    archive.write_bytes(content.replace(declared, (1000).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"cannot be unpacked .*download it again"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "a").exists()
    assert all(path.stat().st_size <= 1000 for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", _zip(a=CONTENT)[:-5000]])
def test_what_is_no_archive_is_one_line(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be unpacked .*delete it and download it again"):
        unpack(archive, tmp_path / "out")


def test_an_archive_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(_zip(a=CONTENT))
    usage = transfer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="make room"):
        unpack(archive, tmp_path / "out")


def test_rules_choose_and_rename(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(
        _zip(**{"repo-1/data/a.tif": b"1", "repo-1/data/b.txt": b"2", "repo-1/code.py": b"3"})
    )
    paths = unpack(archive, tmp_path / "out", [Rule(r"[^/]+/data/(.+)\.tif", r"images/\1.tiff")])
    assert paths == [tmp_path / "out" / "images" / "a.tiff"]
    with pytest.raises(InputError, match="holds nothing that is wanted"):
        unpack(archive, tmp_path / "out", [Rule("nothing", "x")])


def test_the_rules_of_the_public_sets_fit_their_repositories(tmp_path: Path) -> None:
    nasa = "pretrained-microscopy-models-63ef39f/benchmark_segmentation_data"
    members = {
        "uhcs": [
            "MatSeg-2301/data/uhcs/images/uhcs0007.tif",
            "MatSeg-2301/data/uhcs/labels_colored/uhcs0007.png",
        ],
        "ni-superalloy": [
            f"{nasa}/Super1/train/spot3_0d_3.tif",
            f"{nasa}/Super1/train_annot/spot3_0d_3_mask.tif",
            f"{nasa}/Super2/different_test_annot/SE_15kv_50kx_precip - untested-2_0_mask.tif",
            f"{nasa}/EBC1/train/S879_062216#3-31cyc0030.tif",
        ],
    }
    found = {}
    for name, files in members.items():
        archive = tmp_path / DATASETS[name].file
        archive.write_bytes(_zip(**dict.fromkeys(files, b"1")))
        paths = unpack(archive, tmp_path / name, DATASETS[name].rules)
        found[name] = [str(path.relative_to(tmp_path / name)) for path in paths]
    assert found == {
        "uhcs": ["images/uhcs0007.tif"],
        "ni-superalloy": [
            "Super1/train/images/spot3_0d_3.tif",
            "Super1/train/labels/spot3_0d_3.tif",
            "Super2/different_test/labels/SE_15kv_50kx_precip - untested-2_0.tif",
        ],
    }


def test_arrays_of_classes_become_pictures(tmp_path: Path) -> None:
    classes = np.array([[0, 1], [2, 3]], np.int64)
    np.save(tmp_path / "a.npy", classes)
    arrays_to_pictures(tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), classes)


@pytest.mark.parametrize("file", ["a.png", "a.zip.sha256"])
def test_a_file_that_is_cut_short_is_not_there(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    np.save(tmp_path / "a.npy", np.zeros((2, 2), np.uint8))
    (tmp_path / "a.zip").write_bytes(CONTENT)
    monkeypatch.setattr(replacing.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        arrays_to_pictures(tmp_path) if file == "a.png" else fetch(
            "http://127.0.0.1/a.zip", tmp_path / "a.zip"
        )
    assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "a.zip"}


@pytest.mark.parametrize(
    "array", [np.array([[0.5]]), np.array([[300]]), np.zeros(3), np.array([["x"]], object)], ids=range(4)
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        arrays_to_pictures(tmp_path)


# the published sets


@pytest.fixture
def published(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The set ``carde`` as a repository of Invenio has it, on the test's server."""
    archive = _zip(**{"cloud/preprocessed/images/WD_06mm_001.tif": CONTENT})
    file = {
        "key": "data.zip",
        "checksum": f"md5:{hashlib.md5(archive).hexdigest()}",
        "links": {"self": site.url("/api/files/bucket/data.zip")},
    }
    site.files = {
        "/api/records/4124": json.dumps({"files": [{"key": "README.md"}, file]}).encode(),
        "/api/files/bucket/data.zip": archive,
        "/record/4124/files/data.zip": archive,
    }
    place = Dataset(
        "steel",
        site.url("/record/4124"),
        site.url("/record/4124/files/data.zip?download=1"),
        "data.zip",
        site.url("/api/records/4124"),
        next_step="prepare {folder}",
    )
    monkeypatch.setattr(module, "DATASETS", {"carde": place})
    return site


def test_a_set_is_fetched_checked_and_unpacked_and_a_second_time_verified(
    published: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["carde", "--dest", str(tmp_path)]) == 0
    assert f"next: prepare {tmp_path / 'carde'}" in capsys.readouterr().out
    image = tmp_path / "carde" / "cloud" / "preprocessed" / "images" / "WD_06mm_001.tif"
    assert image.read_bytes() == CONTENT
    assert [path for path, _ in published.requests] == ["/api/records/4124", "/api/files/bucket/data.zip"]
    published.requests.clear()
    image.unlink()
    assert main(["--dest", str(tmp_path)]) == 0
    assert image.read_bytes() == CONTENT
    assert published.requests == []


def test_the_checksum_of_the_record_counts(published: Site, tmp_path: Path) -> None:
    published.files["/api/files/bucket/data.zip"] = _zip(other=b"1")
    with pytest.raises(
        InputError, match=f"^carde: .*another checksum.* or take it from {published.url()[:-4]}"
    ):
        download("carde", tmp_path)
    assert not list(tmp_path.rglob("*.zip"))


@pytest.mark.parametrize(
    "answer", [None, b"<html>", b"{}", b"[]", b'{"files": []}', b'{"files": {"entries": {}}}']
)
def test_a_record_that_tells_nothing_is_done_without(
    published: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes | None
) -> None:
    del published.files["/api/records/4124"]
    if answer is not None:
        published.files["/api/records/4124"] = answer
    with caplog.at_level(logging.WARNING):
        download("carde", tmp_path)
    assert "/api/records/4124: no checksum of data.zip" in caplog.text
    assert published.requests[-1][0] == "/record/4124/files/data.zip"


def test_the_newer_form_of_the_record_is_read(site: Site) -> None:
    file = {"key": "data.zip", "checksum": "md5:ab", "links": {"self": "x", "content": "https://host/c"}}
    site.files["/r"] = json.dumps({"files": {"enabled": True, "entries": {"data.zip": file}}}).encode()
    assert look_up(site.url("/r"), "data.zip") == ("https://host/c", "md5:ab")
    file["checksum"] = "sha512:ab"
    site.files["/r"] = json.dumps({"files": [file]}).encode()
    assert look_up(site.url("/r"), "data.zip") == ("https://host/c", None)


def test_a_record_cannot_send_it_to_a_local_file(site: Site) -> None:
    file = {"key": "data.zip", "links": {"self": "file:///etc/passwd"}}
    site.files["/r"] = json.dumps({"files": [file]}).encode()
    assert look_up(site.url("/r"), "data.zip") is None


def test_errors_are_one_line_and_status_2(
    published: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published.files.clear()
    assert main(["carde", "--dest", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"carde: {published.address}: answers 404") and "by hand" not in error
    assert str(tmp_path / "carde" / "data.zip") in error
    assert main(["cardes"]) == 2
    assert "choose from carde" in capsys.readouterr().err


def test_the_known_addresses_are_of_the_web() -> None:
    for dataset in DATASETS.values():
        for url in (dataset.url, dataset.page, dataset.record or dataset.page):
            transfer.check_address(url)
            assert url.startswith("https://")


def test_the_script_tells_what_there_is() -> None:
    script = REPOSITORY / "scripts" / "download_data"
    assert "carde_monai.download" in script.read_text()
    assert script.stat().st_mode & stat.S_IXUSR


def test_the_help_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    output = capsys.readouterr().out
    assert all(name in output and dataset.page in output for name, dataset in DATASETS.items())
