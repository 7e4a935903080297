"""Open the results in ``out`` (micrographs in ``raw``) in napari and check it; called by check_napari."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import qtpy
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication

from carde_monai.napari_layers import Results
from carde_monai.napari_view import TABLE, Window, open_window

LAYERS = ["SE2", "InLens", "probability", "carbides"]


def main(picture: Path) -> None:
    """Check both micrographs, the table and a damaged file, and write a picture of the window."""
    print(f"napari {version('napari')}, {qtpy.API_NAME} {qtpy.QT_VERSION}, magicgui {version('magicgui')}")
    results = Results(Path("out"), Path("raw"))
    first, second = results.names
    window = open_window(results, first)
    window.viewer.window.resize(1500, 900)
    check(window, first, LAYERS)
    chooser = window.viewer.window.dock_widgets["carde-monai"][0]
    chooser.value = second
    check(window, second, LAYERS)
    check_table(window)
    settle()
    window.viewer.window.screenshot(str(picture), flash=False, canvas_only=False)
    assert told() == []
    (results.folder / f"{first}_probability.tif").write_bytes(b"no picture")
    chooser.value = first
    check(window, first, [name for name in LAYERS if name != "probability"])
    assert len(told()) == 1 and "probability.tif: cannot be read" in told()[0]
    print(f"told in the window: {told()[0]}")
    window.viewer.close()
    print(f"all is as it should be; the window: {picture}")


def check(window: Window, name: str, layers: list[str]) -> None:
    """The layers, their scale and features, and that the canvas shows something."""
    settle()
    viewer, pixel = window.viewer, window.results.pixel_size(name)
    assert [layer.name for layer in viewer.layers] == layers
    for layer in viewer.layers:
        assert np.allclose(layer.scale, pixel) and [str(unit) for unit in layer.units] == ["micrometer"] * 2
        assert layer.data.shape == (512, 768)
    carbides = viewer.layers["carbides"]
    area = carbides.features["area_um2"].to_numpy()
    pixels = np.bincount(carbides.data.ravel())
    assert len(area) == len(pixels) and np.allclose(area[1:], pixels[1:] * pixel**2, rtol=1e-4)
    assert viewer.canvas.overlays.scale_bar.visible and viewer.title.startswith(name)
    greys = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    assert greys.std() > 10
    count = f"{len(area) - 1} carbides in the table"
    print(f"{name}: {', '.join(layers)}; {1000 * pixel:.3g} nm a pixel; {count}")


def check_table(window: Window) -> None:
    """A row of napari's table chooses its carbide, whose figures are told under the mouse."""
    carbides = window.viewer.layers["carbides"]
    number = len(carbides.features) // 2
    docked: dict[str, Any] = dict(window.viewer.window.dock_widgets)
    table = next(widget for name, widget in docked.items() if TABLE in name).table
    table.selectRow(number)
    assert carbides.selected_label == number
    place = np.mean(np.argwhere(carbides.data == number), 0) * carbides.scale
    assert np.allclose(window.viewer.scene.camera.center[-2:], place, atol=1e-4)
    told = carbides.get_status(np.argwhere(carbides.data == number)[0] * carbides.scale, world=True)
    area = carbides.features["area_um2"][number]
    assert f"{number}; area_um2: {area:.3g}" in told["coordinates"]
    print(f"row {number} leads to carbide {number}; under the mouse: {told['coordinates'][:70]} ...")


def told() -> list[str]:
    """The messages that napari has shown."""
    return [one.message for one in notification_manager.records]


def settle() -> None:
    """Let Qt draw."""
    for _ in range(50):
        QApplication.processEvents()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
