"""Results as layers of napari. napari itself is not needed; scripts/check_napari opens the real one."""

from __future__ import annotations

import importlib.machinery
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from carde_monai import napari_layers, napari_view
from carde_monai.errors import InputError
from carde_monai.labels import LabelRule
from carde_monai.masks import Source, measure_masks
from carde_monai.measurement import Settings
from carde_monai.napari_layers import LayerData, Results
from carde_monai.napari_view import Window, view
from carde_monai.pictures import overlay_picture
from carde_monai.pixel_sizes import PixelSizes
from carde_monai.sem import pixel_affine
from carde_monai.tiff import write_tiff

PIXEL = 0.01  # micrometres
SHAPE = (32, 48)
CARBIDES = {"a": [np.s_[2:8, 3:9], np.s_[20:28, 10:30]], "b": [], "c": [np.s_[5:15, 5:15]]}


def mask_of(name: str) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    for window in CARBIDES[name]:
        mask[window] = 255
    return mask


def greys_of(name: str) -> np.ndarray:
    """(2, H, W) greys that no other micrograph or detector has."""
    rng = np.random.default_rng(ord(name))
    return rng.integers(0, 250, (2, *SHAPE)).astype(np.uint8)


def measured(folder: Path, pixel_size: float | None = PIXEL) -> Path:
    """Three measured micrographs: two carbides, none, one; probability and overlay of the first alone."""
    masks, out = folder / "masks", folder / "out"
    masks.mkdir(parents=True)
    for name in CARBIDES:
        Image.fromarray(mask_of(name)).save(masks / f"{name}_mask.png")
    source = Source(masks, None, LabelRule(), False, PixelSizes(pixel_size))
    assert measure_masks(source, out, Settings()) == []
    probability = (mask_of("a") / 255 * 0.75).astype(np.float32)
    write_tiff(probability, out / "a_probability.tif", pixel_size, (0, 1))
    overlay_picture(greys_of("a"), mask_of("a"), out / "a_overlay.png", pixel_size)
    return out


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured(tmp_path_factory.mktemp("measured"))


@pytest.fixture
def out(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "out"))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The greys of a and c as ``carde-monai prepare`` keeps them."""
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for name in "ac":
        plane = np.moveaxis(greys_of(name), 0, -1)[:, :, None, None, :]
        image = nib.Nifti1Image(plane, pixel_affine(PIXEL))
        image.header.set_xyzt_units("micron")
        nib.save(image, folder / f"{name}.nii.gz")
    return folder.parent


class Layer(SimpleNamespace):
    """A layer is equal to itself alone, as napari's are."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Layers(list):
    """As napari's list of layers: what is added last is active."""

    def __init__(self) -> None:
        super().__init__()
        self.selection = SimpleNamespace(active=None)


class Recorder:
    """What a window needs of napari's viewer, noting what it is asked for."""

    old = False  # as before napari had a table of features

    def __init__(self, **_: Any) -> None:
        self.layers, self.scale_bar, self.title = Layers(), SimpleNamespace(visible=False), ""
        self.canvas = SimpleNamespace(overlays=SimpleNamespace(scale_bar=self.scale_bar))
        self.most, self.docks, self.calls, self.connected = 0, {}, [], []
        self.camera = SimpleNamespace(center=None)
        self.scene = SimpleNamespace(camera=self.camera)
        self.window = SimpleNamespace(add_dock_widget=self.dock, add_plugin_dock_widget=self.plugin)

    def _add(self, kind: str, data: np.ndarray, visible: bool = True, **options: Any) -> Layer:
        layer = Layer(kind=kind, data=data, visible=visible, **options)
        self.layers.append(layer)
        self.most = max(self.most, len(self.layers))
        return layer

    def add_image(self, data: np.ndarray, **options: Any) -> Layer:
        return self._add("image", data, **options)

    def add_labels(self, data: np.ndarray, **options: Any) -> Layer:
        events = SimpleNamespace(selected_label=SimpleNamespace(connect=self.connected.append))
        return self._add("labels", data, events=events, mode="pan_zoom", selected_label=1, **options)

    def dock(self, widget: Any, name: str, area: str) -> None:
        self.docks[name] = widget

    def plugin(self, plugin: str, widget: str) -> tuple[SimpleNamespace, None]:
        if self.old:
            raise KeyError(f"Plugin {plugin!r} does not provide a widget named {widget!r}")
        main = SimpleNamespace(resizeDocks=lambda docks, sizes, direction: self.calls.append("wide"))
        self.docks[widget] = SimpleNamespace(parent=lambda: main)
        return self.docks[widget], None

    def reset_view(self) -> None:
        self.calls.append("reset_view")

    def show(self) -> None:
        self.calls.append("show")

    def close(self) -> None:
        self.calls.append("close")


def names(layers: list[LayerData]) -> list[str]:
    return [one.options["name"] for one in layers]


class TestLayers:
    def test_greys_lie_below_the_probability_and_the_carbides(self, out: Path, prepared: Path) -> None:
        layers, complaints = Results(out, prepared).read("a")
        assert complaints == [] and names(layers) == ["SE2", "InLens", "probability", "carbides"]
        assert [one.kind for one in layers] == ["image", "image", "image", "labels"]
        for plane, layer in zip(greys_of("a"), layers, strict=False):
            np.testing.assert_array_equal(layer.data, plane)
        # InLens would hide SE2
        assert [one.options.get("visible", True) for one in layers] == [True, False, False, True]
        np.testing.assert_array_equal(layers[2].data, mask_of("a") / np.float32(255) * np.float32(0.75))
        np.testing.assert_array_equal(layers[3].data > 0, mask_of("a") > 0)
        for layer in layers:
            assert layer.options["scale"] == (PIXEL, PIXEL) and layer.options["units"] == ("um", "um")
            assert "translate" not in layer.options

    def test_features_are_the_rows_of_the_table(self, out: Path) -> None:
        (*_, carbides), _ = Results(out).read("a")
        features = carbides.options["features"]
        assert list(features["index"]) == list(features.index) == [0, 1, 2]
        assert np.isnan(features["area_um2"][0])  # the matrix
        areas = [6 * 6 * PIXEL**2, 8 * 20 * PIXEL**2]
        np.testing.assert_allclose(features["area_um2"][1:], areas, rtol=1e-5)
        for number, area in enumerate(areas, 1):  # of the same carbide in the image
            assert (carbides.data == number).sum() * PIXEL**2 == pytest.approx(area)
        assert features["counted"].dtype == bool and list(features["counted"]) == [False, True, True]
        # nothing that says nothing: the micrograph's name, greys that were not given
        assert not {"micrograph", "sample", "label", "mean_grey_se2"} & set(features)

    def test_missing_numbers_keep_the_rows_in_place(self, out: Path) -> None:
        labels = tifffile.imread(out / "a_labels.tif")
        table = pd.read_csv(out / "particles.csv")
        tifffile.imwrite(out / "a_labels.tif", np.where(labels == 2, 5, labels).astype(np.uint16))
        table["label"] = table["label"].replace(2, 5)
        table.to_csv(out / "particles.csv", index=False)
        (*_, carbides), _ = Results(out).read("a")
        features = carbides.options["features"]
        assert list(features["index"]) == [0, 1, 2, 3, 4, 5]
        assert list(features["area_um2"].notna()) == [False, True, False, False, False, True]

    def test_numbers_too_large_for_a_table_are_shown_without_it(self, out: Path) -> None:
        number = 4_000_000_000
        labels = tifffile.imread(out / "c_labels.tif").astype(np.uint32)
        tifffile.imwrite(out / "c_labels.tif", labels * np.uint32(number))
        table = pd.read_csv(out / "particles.csv")
        table.loc[table["micrograph"] == "c", "label"] = number
        table.to_csv(out / "particles.csv", index=False)
        (carbides,), complaints = Results(out).read("c")
        assert "features" not in carbides.options and carbides.data.max() == number
        assert f"up to {number}, too many" in complaints[0]

    def test_without_carbides_there_is_no_table(self, out: Path) -> None:
        (carbides,), complaints = Results(out).read("b")
        assert complaints == [] and "features" not in carbides.options and not carbides.data.any()

    def test_unknown_pixel_size_means_pixels(self, tmp_path: Path) -> None:
        results = Results(measured(tmp_path, None))
        layers, _ = results.read("a")
        assert all(one.options["scale"] == (1, 1) and "units" not in one.options for one in layers)
        assert list(layers[-1].options["features"]["area_px2"][1:]) == [36, 160]
        assert "pixel size unknown" in results.facts("a")

    def test_without_images_the_overlay_is_below(self, out: Path) -> None:
        layers, _ = Results(out).read("a")
        assert names(layers) == ["overlay", "probability", "carbides"]
        assert layers[0].data.shape == (*SHAPE, 3)  # without the strip with the scale bar
        assert names(Results(out).read("c")[0]) == ["carbides"]

    def test_a_reduced_overlay_covers_the_carbides(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(napari_layers, "LARGEST_SIDE", SHAPE[1] // 2)
        Image.new("RGB", (320, 60)).save(out / "a_overlay.png")
        overlay = Results(out).read("a")[0][0]
        assert overlay.data.shape == (SHAPE[0] // 2, SHAPE[1] // 2, 3)
        assert overlay.options["scale"] == (2 * PIXEL, 2 * PIXEL)
        # its first pixel is the first four of the micrograph, whose centres are 0 and 1
        assert overlay.options["translate"] == (PIXEL / 2, PIXEL / 2)

    def test_raw_files_are_cut_to_the_micrograph(self, raw: Path, tmp_path: Path) -> None:
        out = tmp_path / "measured"
        labels = tmp_path / "labels"
        labels.mkdir()
        for path in raw.glob("*_label.png"):
            shutil.copy(path, labels)
        source = Source(labels, raw, LabelRule(), False, PixelSizes(None))
        assert measure_masks(source, out, Settings()) == []
        results = Results(out, raw)
        layers, complaints = results.read(results.names[0])
        assert complaints == [] and names(layers) == ["SE2", "InLens", "carbides"]
        assert layers[0].data.shape == layers[-1].data.shape
        assert layers[0].options["scale"][0] == pytest.approx(results.pixel_size(results.names[0]))
        low, high = layers[0].attributes["contrast_limits"]
        assert (layers[0].data < low).mean() < 0.006 and (layers[0].data > high).mean() < 0.003

    def test_one_detector_is_one_layer(self, out: Path, tmp_path: Path) -> None:
        images = tmp_path / "single"
        images.mkdir()
        Image.fromarray(greys_of("a")[0]).save(images / "a.png")
        layers, _ = Results(out, images, detectors=1).read("a")
        assert names(layers) == ["image", "probability", "carbides"]

    def test_even_greys_leave_the_contrast_to_napari(self, out: Path, tmp_path: Path) -> None:
        images = tmp_path / "even"
        images.mkdir()
        Image.new("L", SHAPE[::-1], 90).save(images / "a.png")
        assert Results(out, images, detectors=1).read("a")[0][0].attributes == {}


class TestDamage:
    def test_one_file_does_not_hide_the_others(self, out: Path, prepared: Path) -> None:
        (out / "a_probability.tif").write_bytes(b"no picture")
        (prepared / "images" / "a.nii.gz").write_bytes(b"no picture")
        layers, complaints = Results(out, prepared).read("a")
        assert names(layers) == ["overlay", "carbides"]
        assert [one.partition(":")[0].rpartition("/")[2] for one in complaints] == [
            "a.nii.gz",
            "a_probability.tif",
        ]

    def test_without_numbers_the_greys_are_shown(self, out: Path, prepared: Path) -> None:
        (out / "a_labels.tif").write_bytes(b"no picture")
        layers, complaints = Results(out, prepared).read("a")
        assert names(layers) == ["SE2", "InLens", "probability"]
        assert len(complaints) == 1 and "a_labels.tif: cannot be read" in complaints[0]

    def test_without_a_table_the_numbers_are_shown(self, out: Path) -> None:
        (out / "particles.csv").unlink()
        (carbides,), complaints = Results(out).read("c")
        assert "features" not in carbides.options and "has no particles.csv" in complaints[0]

    def test_labels_that_are_no_numbers_are_told(self, out: Path) -> None:
        table = pd.read_csv(out / "particles.csv")
        table.assign(label="one").to_csv(out / "particles.csv", index=False)
        (carbides,), complaints = Results(out).read("c")
        assert "features" not in carbides.options and "not every label is a whole number" in complaints[0]

    @pytest.mark.parametrize("damage", [b"", b"no picture"])
    def test_a_damaged_overlay_is_left_out(self, out: Path, damage: bytes) -> None:
        (out / "a_overlay.png").write_bytes(damage)
        layers, complaints = Results(out).read("a")
        assert names(layers) == ["probability", "carbides"]
        assert "a_overlay.png: cannot be read" in complaints[0]

    def test_other_sizes_are_told(self, out: Path, tmp_path: Path) -> None:
        images = tmp_path / "other"
        images.mkdir()
        Image.new("L", (20, 10)).save(images / "a.png")
        write_tiff(np.zeros((3, 4), np.float32), out / "a_probability.tif", PIXEL, (0, 1))
        layers, complaints = Results(out, images, detectors=1).read("a")
        assert names(layers) == ["overlay", "carbides"]
        assert "20 x 10 px but the carbides' image has 48 x 32 px" in complaints[0]
        assert "4 x 3 px" in complaints[1]

    def test_a_micrograph_that_images_lack_is_told(self, out: Path, prepared: Path) -> None:
        layers, complaints = Results(out, prepared).read("b")
        assert names(layers) == ["carbides"] and "holds no micrograph b" in complaints[0]


class TestInput:
    def test_an_unknown_micrograph_names_the_known_ones(self, out: Path) -> None:
        results = Results(out)
        assert results.choose(None) == "a" and results.choose("c") == "c"
        with pytest.raises(InputError, match=r"holds no x; it holds a, b, c$"):
            results.choose("x")

    def test_of_many_the_first_are_named(self, out: Path) -> None:
        table = pd.read_csv(out / "micrographs.csv")
        many = pd.concat([table.iloc[:1].assign(micrograph=f"m{number:03}") for number in range(30)])
        many.to_csv(out / "micrographs.csv", index=False)
        with pytest.raises(InputError, match=r"m000, .*, m019 and 10 more$"):
            Results(out).choose("x")

    def test_other_folders_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="missing: no such folder"):
            Results(tmp_path / "missing")
        with pytest.raises(InputError, match=r"has no micrographs\.csv"):
            Results(tmp_path)
        (tmp_path / "micrographs.csv").write_text("micrograph,pixel_size_um\na,0.01\n")
        with pytest.raises(InputError, match="has no column carbides"):
            Results(tmp_path)
        (tmp_path / "micrographs.csv").write_text("micrograph,pixel_size_um,carbides,area_fraction\n")
        with pytest.raises(InputError, match="holds no micrograph"):
            Results(tmp_path)

    def test_images_that_are_missing_are_refused(self, out: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="nowhere: no such folder"):
            Results(out, tmp_path / "nowhere")


class TestWindow:
    def test_one_micrograph_at_a_time(self, out: Path, prepared: Path) -> None:
        viewer, told = Recorder(), []
        window = Window(viewer, Results(out, prepared), told.append)
        window.show("a")
        assert viewer.scale_bar.visible and viewer.title == "a – out"
        assert [layer.name for layer in viewer.layers] == ["SE2", "InLens", "probability", "carbides"]
        assert viewer.layers.selection.active.name == "carbides" and viewer.layers[-1].contour == 1
        own = viewer.add_image(np.zeros(SHAPE), name="mine")
        viewer.layers[0].visible, viewer.layers[1].visible = False, True
        window.show("c")
        assert [layer.name for layer in viewer.layers] == ["mine", "SE2", "InLens", "carbides"]
        assert viewer.layers[0] is own and viewer.most == 5 and told == []
        np.testing.assert_array_equal(viewer.layers[1].data, greys_of("c")[0])
        # what the user looked at is looked at still
        assert [layer.visible for layer in viewer.layers] == [True, False, True, True]
        window.show("b")
        assert [layer.name for layer in viewer.layers] == ["mine", "carbides"]
        assert "holds no micrograph b" in told[0] and viewer.calls == ["reset_view"] * 3

    def test_a_row_of_the_table_leads_to_its_carbide(self, out: Path) -> None:
        viewer = Recorder()
        Window(viewer, Results(out), print).show("a")
        carbides, (go,) = viewer.layers[-1], viewer.connected
        for number, place in {0: None, 2: (23.5 * PIXEL, 19.5 * PIXEL), 9: None}.items():
            viewer.camera.center, carbides.selected_label = None, number
            go(SimpleNamespace(source=carbides))
            assert viewer.camera.center == (None if place is None else pytest.approx(place))
        carbides.mode, carbides.selected_label = "pick", 1
        go(SimpleNamespace(source=carbides))
        assert viewer.camera.center is None  # what is picked in the image is there already

    def test_a_layer_that_the_user_removed_stays_away_quietly(self, out: Path) -> None:
        viewer = Recorder()
        window = Window(viewer, Results(out), print)
        window.show("a")
        viewer.layers.clear()
        window.show("c")
        assert [layer.name for layer in viewer.layers] == ["carbides"]

    def test_nothing_to_show_is_an_error(self, out: Path) -> None:
        (out / "c_labels.tif").unlink()
        viewer = Recorder()
        window = Window(viewer, Results(out), print)
        window.show("a")
        with pytest.raises(InputError, match=r"nothing of it can be shown \(.*c_labels\.tif: no such file"):
            window.show("c")
        assert not viewer.layers


class Box(SimpleNamespace):
    """A widget of magicgui, whose value tests change."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, changed=SimpleNamespace(connect=self.connect))

    def connect(self, call: Any) -> None:
        self.call = call


@pytest.fixture
def napari(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """A napari that notes the viewers that are made, and what is told."""
    noted: dict[str, list[Any]] = {"viewers": [], "warnings": [], "errors": [], "runs": []}

    def viewer(**options: Any) -> Recorder:
        noted["viewers"].append(Recorder(**options))
        return noted["viewers"][-1]

    modules = {
        "napari": {"Viewer": viewer, "run": lambda: noted["runs"].append(1)},
        "napari.utils": {},
        "napari.utils.notifications": {
            "show_warning": noted["warnings"].append,
            "show_error": noted["errors"].append,
        },
        "qtpy": {},
        "qtpy.QtCore": {"Qt": SimpleNamespace(Orientation=SimpleNamespace(Horizontal=1))},
        "magicgui": {},
        "magicgui.widgets": {"ComboBox": Box, "Container": Box, "Label": Box},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(napari_view, "version", lambda name: napari_view.OLDEST)
    monkeypatch.setenv("DISPLAY", ":0")
    return noted


class TestView:
    def test_the_box_changes_the_micrograph(self, out: Path, napari: dict[str, list[Any]]) -> None:
        (out / "c_labels.tif").unlink()
        view(out, micrograph="a")
        (viewer,) = napari["viewers"]
        assert viewer.calls == ["reset_view", "wide", "show", "reset_view"] and napari["runs"] == [1]
        chooser, facts = viewer.docks["carde-monai"].widgets
        assert chooser.choices == ["a", "b", "c"] and chooser.value == "a"
        assert facts.value.splitlines() == ["2 carbides", "12.8 % of the area", "10 nm a pixel"]
        chooser.call("b")
        assert facts.value.startswith("0 carbides") and [one.name for one in viewer.layers] == ["carbides"]
        chooser.call("c")
        assert "c_labels.tif" in napari["errors"][0]

    def test_an_old_napari_has_no_table(
        self, out: Path, napari: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Recorder, "old", True)
        view(out)
        assert list(napari["viewers"][0].docks) == ["carde-monai"]

    def test_what_is_missing_is_told_when_there_is_a_window(
        self, out: Path, napari: dict[str, list[Any]]
    ) -> None:
        (out / "a_probability.tif").write_bytes(b"no picture")
        view(out)
        assert len(napari["warnings"]) == 1 and "a_probability.tif" in napari["warnings"][0]

    def test_nothing_to_show_closes_the_window(self, out: Path, napari: dict[str, list[Any]]) -> None:
        (out / "b_labels.tif").unlink()
        with pytest.raises(InputError, match=r"b_labels\.tif"):
            view(out, micrograph="b")
        assert napari["viewers"][0].calls == ["close"] and not napari["runs"]

    def test_no_screen_is_told(
        self, out: Path, napari: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in napari_view.SCREENS:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "platform", "linux")
        with pytest.raises(InputError, match="finds no screen"):
            view(out)

    def test_no_qt_is_told(
        self, out: Path, napari: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def viewer(**_: Any) -> None:
            raise ImportError("No Qt bindings could be found")

        monkeypatch.setattr(sys.modules["napari"], "Viewer", viewer)
        with pytest.raises(InputError, match=r"No Qt bindings.*pip install \"carde-monai\[napari\]\""):
            view(out)

    def test_no_napari_is_told(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> str:
            raise PackageNotFoundError(name)

        monkeypatch.setattr(napari_view, "version", missing)
        with pytest.raises(InputError, match=r"not installed here; pip install \"carde-monai\[napari\]\"$"):
            view(out)

    def test_a_napari_too_old_is_told(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(napari_view, "version", lambda name: "0.6.6")
        with pytest.raises(InputError, match=r"needs napari 0\.9 or later, 0\.6\.6 is installed"):
            view(out)
