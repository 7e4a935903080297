"""Folders that hold nothing, loop, are large, or cannot be written to."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawings import MASK, picture
from faults import SHORT, content, grey, sparse, tiff
from PIL import Image
from runs import listed
from world import bundle, cli, data

from carde_monai.errors import InputError
from carde_monai.labels import LabelRule, read_picture
from carde_monai.sem import read_micrograph
from carde_monai.sem_pixels import open_picture, read_file

FULL = ("No space left", "too large", "disk may be full")
VERBS = ("segment", "prepare", "measure", "train", "evaluate", "import-carde")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs with labels."""
    folder = tmp_path_factory.mktemp("raw")
    for odd in (1, 3, 5):
        for number in (odd, odd + 1):
            tiff(grey(number))(folder / f"a_{number:03}.tif")
        picture(MASK)(folder / f"a_{odd:03}_label.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as carde's training leaves it."""
    import torch

    from carde_monai.carde_unet import CardeUNet

    path = tmp_path_factory.mktemp("carde") / "best.ckpt"
    state = CardeUNet(levels=2, features=4).state_dict()
    torch.save({"state_dict": {f"model.{name}": one for name, one in state.items()}}, path)
    return path


@pytest.fixture
def words(raw, data, bundle, checkpoint):
    """The command line of a verb that writes to ``out``."""

    def of(verb: str, out: Path) -> list[object]:
        training = [*SHORT, "--tracking_uri", None]
        return {
            "segment": ["segment", raw, out, "--bundle", bundle],
            "prepare": ["prepare", raw, out, "--split", "1,1,1"],
            "measure": ["measure", raw, out],
            "train": ["train", data, "--bundle", bundle, "--output_dir", out, "--ckpt_dir", out, *training],
            "evaluate": ["evaluate", data, "--bundle", bundle, "--output_dir", out],
            "import-carde": ["import-carde", checkpoint, "--bundle", out],
        }[verb]

    return of


def _one_line(status: int, lines: list[str], place: Path) -> None:
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith("carde-monai: ") and str(place) in lines[0] and ";" in lines[0]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["file", "below a file", "loop", "not writable"])
def test_a_place_that_cannot_be_written_is_one_line(kind, verb, words, cli, tmp_path) -> None:
    place = tmp_path / "out"
    if kind in ("file", "below a file"):
        place.write_text("here")
        place = place / "below" if "below" in kind else place
    elif kind == "loop":
        place.symlink_to(place.name)
    else:
        place = Path("/proc/out")  # where nobody can write, not even root
        if not place.parent.is_dir():
            pytest.skip("no /proc")
    _one_line(*cli(*words(verb, place)), place if kind != "below a file" else place.parent)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A disk of 40 KB at ``folder``; where mounting is forbidden, no file may grow larger than 2 KB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", folder]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_told_without_a_traceback(verb, words, cli, tmp_path) -> None:
    with _small_disk(tmp_path / "disk"):
        status, lines = cli(*words(verb, tmp_path / "disk" / "out"))
    assert status in (2, 3)
    assert any(any(word in line for word in FULL) for line in lines)
    assert not any("Traceback" in line for line in lines)


def test_links_that_lead_nowhere_and_back(raw, bundle, cli, tmp_path) -> None:
    source = tmp_path / "source"
    shutil.copytree(raw, source)
    (source / "loop").symlink_to(source)
    (source / "up").symlink_to("..")
    for number in (7, 8):
        (source / f"self_{number:03}.tif").symlink_to(f"self_{number:03}.tif")
    for verb, options in (("segment", ["--bundle", bundle]), ("prepare", ["--split", "1,1,1"])):
        status, _ = cli(verb, source, tmp_path / verb, *options)
        failures = listed(tmp_path / verb)
        assert status == 3 and list(failures) == ["self_007"]
        assert "self_007.tif: no such file" in failures["self_007"]
    turning = tmp_path / "turning"
    turning.symlink_to(turning.name)
    for verb in ("segment", "prepare", "measure"):
        _one_line(*cli(verb, turning, tmp_path / "out"), turning)


def test_three_broken_of_two_thousand(cli, tmp_path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    pixels = [np.random.default_rng(seed).integers(0, 256, (12, 16), np.uint8) for seed in range(4)]
    for number in range(1, 2001):
        os.link(*_once(source, f"m_{number:04}.tif", pixels[number % 4], tmp_path))
    broken = ("m_0333", "m_0667", "m_1999")
    for name in broken:
        (source / f"{name}.tif").unlink()
        (source / f"{name}.tif").write_bytes(b"II*\0broken")
    status, lines = cli("prepare", source, tmp_path / "out")
    assert status == 3
    assert tuple(listed(tmp_path / "out")) == broken
    assert len(list((tmp_path / "out" / "images").iterdir())) == 997
    assert sum(line.startswith("failed: ") for line in lines) == 3


def _once(folder: Path, name: str, pixels: np.ndarray, store: Path) -> tuple[Path, Path]:
    """A stored file of these pixels, and where a link to it belongs."""
    path = store / f"{pixels.sum()}.tif"
    if not path.exists():
        tiff(pixels)(path)
    return path, folder / name


@pytest.mark.parametrize("size", [(60_000, 60_000), (24_000, 24_000), (1, 2**31 - 1)])
@pytest.mark.parametrize("compression", [1, 5, 8], ids=["none", "lzw", "deflate"])
def test_a_declared_size_is_not_allocated(size, compression, tmp_path) -> None:
    path = tmp_path / "bomb.tif"
    content(sparse(size, compression=compression))(path)
    tracemalloc.start()
    try:
        for read in (read_file, open_picture):
            with pytest.raises(InputError, match="declares"):
                read(path)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_a_mosaic_takes_twice_its_memory(tmp_path) -> None:
    pixels = np.tile(grey(shape=(300, 400)), (10, 10))  # and a bar of text below would change nothing
    files = [tmp_path / f"m_{number}.tif" for number in (1, 2)]
    for path in files:
        tiff(pixels)(path)
    tracemalloc.start()
    try:
        image = read_micrograph(files)
        assert tracemalloc.get_traced_memory()[1] < 2.3 * image.pixels.nbytes
    finally:
        tracemalloc.stop()
    assert (image.pixels == pixels).all()


def test_large_pictures_are_read_without_pillows_warning(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)  # it warns from there, and refuses twice that
    picture(grey())(tmp_path / "a_001.png")
    picture(MASK)(tmp_path / "a_001_label.png")
    assert (read_file(tmp_path / "a_001.png")[0] == grey()).all()
    assert (read_picture(tmp_path / "a_001_label.png", LabelRule()) == MASK).all()
    assert Image.MAX_IMAGE_PIXELS == 100


def test_debug_shows_the_traceback_too(raw, cli, tmp_path) -> None:
    status, lines = cli("prepare", raw, raw, "--debug")
    assert status == 2 and any("Traceback" in line for line in lines)
    assert lines[-1].startswith(f"carde-monai: {raw}: is the source itself")
