"""Results in napari: greys, probability and numbered carbides with their table, a micrograph at a time."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from carde_monai.errors import InputError
from carde_monai.napari_layers import Results

SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")  # any of them tells Qt where to draw
OLDEST = "0.9"  # where the scale bar has the unit of the layers
INSTALL = 'pip install "carde-monai[napari]"'
TABLE_WIDTH = 460  # pixels: the first columns of many
TABLE = "Features table widget"  # of napari's own


class Window:
    """Shows one micrograph of the results at a time in a viewer of napari."""

    def __init__(self, viewer: Any, results: Results, warn: Callable[[str], Any]) -> None:
        self.viewer, self.results, self.warn = viewer, results, warn
        self.layers: list[Any] = []
        self.selected = 0
        viewer.canvas.overlays.scale_bar.visible = True

    def show(self, name: str) -> None:
        """Show a micrograph in place of the one before; ``warn`` is called with a line on what is missing.

        What the user has hidden stays hidden; layers of the user's own are left alone. Raises InputError if
        nothing of the micrograph can be shown.
        """
        visible = {layer.name: layer.visible for layer in self.layers}
        self._clear()
        found, complaints = self.results.read(name)
        self.viewer.title = f"{name} – {self.results.folder.resolve().name}"
        if not found:
            raise InputError(name, f"nothing of it can be shown ({'; '.join(complaints)})")
        for one in found:
            layer = getattr(self.viewer, f"add_{one.kind}")(one.data, **one.options)
            for key, value in one.attributes.items():
                setattr(layer, key, value)
            layer.visible = visible.get(layer.name, layer.visible)
            self.layers.append(layer)
        self.viewer.layers.selection.active = layer  # its features are in the table
        if found[-1].kind == "labels":
            self.selected = layer.selected_label
            layer.events.selected_label.connect(self.go)
        self.viewer.reset_view()
        for line in complaints:
            self.warn(line)

    def _clear(self) -> None:
        while self.layers:
            if self.layers[-1] in self.viewer.layers:
                self.viewer.layers.remove(self.layers[-1])
            self.layers.pop()
        gc.collect()  # napari's layers refer to each other, and two mosaics may be more than memory holds

    def go(self, event: Any) -> None:
        """Move the carbide whose row was chosen in the table to the middle of the window."""
        carbides = event.source
        number, before, self.selected = carbides.selected_label, self.selected, carbides.selected_label
        chosen = number != before and carbides.mode == "pan_zoom"  # else it was picked in the image
        if not chosen or number >= len(carbides.features):
            return
        row = carbides.features.iloc[number]
        place = [row.get(f"centroid_{axis}_px", math.nan) * carbides.scale[0] for axis in "yx"]
        if not any(map(math.isnan, place)):  # the matrix, and numbers that no carbide has
            self.viewer.scene.camera.center = place


def view(
    folder: str | Path, images: str | Path | None = None, micrograph: str | None = None, detectors: int = 2
) -> None:
    """Show what ``segment`` or ``measure`` wrote to a folder in napari, until its window is closed.

    Args:
        folder: holds micrographs.csv.
        images: folder of the micrographs, raw or prepared, for their greys.
        micrograph: the one to begin with; the first if not given.
        detectors: 2 for SE2/InLens pairs in ``images``; 1 for single images.

    Raises:
        InputError: napari is not installed or has no screen, the folder or the micrograph does not exist,
            or nothing of the micrograph can be shown.
    """
    _check_napari()
    results = Results(Path(folder), Path(images) if images else None, detectors)
    name = results.choose(micrograph)
    open_window(results, name)
    import napari

    napari.run()


def _check_napari() -> None:
    try:
        found = version("napari")
    except PackageNotFoundError:
        raise InputError("view", "needs napari, not installed here", INSTALL) from None
    if Version(found) < Version(OLDEST):
        raise InputError("view", f"needs napari {OLDEST} or later, {found} is installed", INSTALL)
    if sys.platform.startswith("linux") and not any(os.environ.get(one) for one in SCREENS):
        wrong = "napari finds no screen (DISPLAY is not set)"  # Qt would end the process with a core dump
        raise InputError("view", wrong, "call it on a desktop, or log in with ssh -X")


def open_window(results: Results, name: str) -> Window:
    """A window of napari with a micrograph, its table, and a box to choose another one.

    Raises InputError if there is no Qt, or nothing of the micrograph can be shown.
    """
    try:
        import napari
        from napari.utils.notifications import show_warning

        viewer = napari.Viewer(show=False)
    except ImportError as error:  # napari is installed, but none of the bindings of Qt
        raise InputError("view", f"napari cannot be loaded ({error})", INSTALL) from error
    warnings: list[str] = []
    window = Window(viewer, results, warnings.append)
    try:
        window.show(name)
    except InputError:
        viewer.close()
        raise
    _add_chooser(window, name)
    _add_table(viewer)
    viewer.show()
    viewer.reset_view()  # the canvas has its size only now
    for line in warnings:  # before, there was no window to tell them
        show_warning(line)
    window.warn = show_warning
    return window


def _add_chooser(window: Window, name: str) -> None:
    """Dock a box with the names of the micrographs, and below it what was measured of the chosen one."""
    from magicgui.widgets import ComboBox, Container, Label
    from napari.utils.notifications import show_error

    results = window.results
    facts = Label(value=results.facts(name))
    chooser = ComboBox(label="micrograph", choices=results.names, value=name)

    def change(chosen: str) -> None:
        facts.value = results.facts(chosen)
        try:
            window.show(chosen)
        except InputError as error:
            show_error(str(error))

    chooser.changed.connect(change)
    window.viewer.window.add_dock_widget(
        Container(widgets=[chooser, facts]), name="carde-monai", area="right"
    )


def _add_table(viewer: Any) -> None:
    """Dock napari's own table of a layer's features, where the user had it last."""
    from qtpy.QtCore import Qt

    with contextlib.suppress(KeyError):  # of a napari that has none
        table, _ = viewer.window.add_plugin_dock_widget("napari", TABLE)
        table.parent().resizeDocks([table], [TABLE_WIDTH], Qt.Orientation.Horizontal)
