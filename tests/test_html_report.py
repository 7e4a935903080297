from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_data import HOSTILE, Study, study

from carde_monai.errors import Failure, printable
from carde_monai.figures import FigureFile, write_figures
from carde_monai.html_report import rounded, write_report
from carde_monai.report_text import column_text, number, quantity, sentence, summary_rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 3"><text y="2">d</text></svg>'


def report(path: Path, data: Study, **changes: Any) -> str:
    content: dict[str, Any] = {
        "title": "Steel",
        "summaries": data.summaries,
        "micrographs": data.micrographs,
        "particles": data.particles,
        "figures": [],
        "gallery": data.gallery,
        "facts": {"program": "carde_monai 1", "date": "2026-01-02 03:04"},
        "warnings": [],
        "failures": [],
    }
    write_report(path, **{**content, **changes})
    return path.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """What a browser would make of the page: elements, their attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str, str] = {}
        self.script: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.script = dict(attrs).get("id") or "code"
            self.scripts[self.script] = ""

    def handle_endtag(self, tag: str) -> None:
        self.script = None if tag == "script" else self.script

    def handle_data(self, data: str) -> None:
        if self.script is not None:
            self.scripts[self.script] += data
        elif text := data.strip(" \n"):
            self.texts.append(text)


def carbides_of(html: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(
        gzip.decompress(base64.b64decode(Elements(html).scripts["data-carbides"]))
    )
    return data


@pytest.fixture(scope="module")
def two() -> Study:
    names = [("steel A", "a1"), ("steel A", "a2"), ("steel B", HOSTILE), ("steel B", "b2")]
    return study(names, saltykov=True)


# The file


def test_one_file_that_loads_nothing(two: Study, tmp_path: Path) -> None:
    figures = write_figures(two.samples, two.summaries, tmp_path / "figures")
    page = Elements(report(tmp_path / "report.html", two, figures=figures))
    assert not [tag for tag, _ in page.tags if tag in {"link", "iframe", "object", "base", "form"}]
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, name, value)
    code = page.scripts["code"].replace("http://www.w3.org/2000/svg", "")
    assert "http" not in code and "@import" not in code and "url(" not in code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]


def test_figures_stand_in_the_file_as_svg(two: Study, tmp_path: Path) -> None:
    svg = tmp_path / "a.svg"
    svg.write_text(SVG, encoding="utf-8")
    figure = FigureFile("Sizes <b>", "n = 3 & more.", tmp_path / "a.png", svg)
    page = Elements(report(tmp_path / "r.html", two, figures=[figure]))
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img" and attributes.get("src")]
    assert base64.b64decode(sources[0].partition(",")[2]).decode() == SVG
    assert "Sizes <b>." in page.texts and "n = 3 & more." in page.texts


def test_only_the_reports_own_script_may_run(two: Study, tmp_path: Path) -> None:
    page = Elements(report(tmp_path / "r.html", two))
    kinds = [attributes.get("type") for tag, attributes in page.tags if tag == "script"]
    assert kinds.count(None) == 1 and set(kinds) == {None, "application/json", "text/plain"}
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy and "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    odd = study([(f"S{HOSTILE}", f"M{HOSTILE}"), ("</title></style>", "]]>--><img src=x onerror=alert(1)>")])
    html = report(
        tmp_path / "r.html",
        odd,
        title=f"T{HOSTILE}",
        facts={f"F{HOSTILE}": f"V{HOSTILE}"},
        warnings=[f"W{HOSTILE}"],
        failures=[Failure(f"N{HOSTILE}", f"R{HOSTILE}")],
    )
    page = Elements(html)
    assert "<script>alert" not in html and "<img src=x" not in html
    for letter in "TFVWNR":
        told = printable(HOSTILE) if letter in "NR" else HOSTILE  # of a failure, one line
        assert any(f"{letter}{told}" in text for text in page.texts), letter
    assert json.loads(page.scripts["data-pictures"])[0]["name"] == f"M{HOSTILE}"
    assert json.loads(page.scripts["data-fields"])["values"][0][0] == f"M{HOSTILE}"
    for script in ("data-pictures", "data-fields"):
        assert not set(page.scripts[script]) & set("<>&'") and page.scripts[script].isascii()


def test_names_that_are_no_text_do_not_stop_the_report(two: Study, tmp_path: Path) -> None:
    failures = [Failure("bad\udcff.tif", "unreadable")]
    assert "bad\\udcff.tif" in report(tmp_path / "r.html", two, failures=failures)


def test_a_report_that_fails_leaves_the_old_one(two: Study, tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match="no row among the micrographs"):
        report(path, two, micrographs=two.micrographs[1:])
    assert path.read_text(encoding="utf-8") == "old" and len(list(tmp_path.iterdir())) == 1


# The data of the tables


def test_carbides_are_kept_by_column_with_four_digits(two: Study, tmp_path: Path) -> None:
    data = carbides_of(report(tmp_path / "r.html", two))
    names = [column["name"] for column in data["columns"]]
    assert names == [name for name in two.particles if name not in ("sample", "micrograph")]
    assert len(data["field"]) == len(two.particles) and set(data["field"]) == {0, 1, 2, 3}
    for name, values in zip(names, data["values"], strict=True):
        expected = two.particles[name].astype(float)
        assert np.allclose(np.array(values, float), expected, rtol=5.1e-4, equal_nan=True), name
    ecd = data["columns"][names.index("equivalent_circle_diameter_um")]
    assert (ecd["label"], ecd["unit"], ecd["kind"]) == ("ECD", "µm", "number")
    assert data["columns"][names.index("touches_border")]["kind"] == "flag"


def test_columns_without_any_value_are_left_out(tmp_path: Path) -> None:
    data = carbides_of(report(tmp_path / "r.html", study([("s", "m")], images=False)))
    assert not [one["name"] for one in data["columns"] if one["name"].startswith(("mean_grey", "mean_prob"))]


def test_tables_that_were_read_back_give_the_same_report(two: Study, tmp_path: Path) -> None:
    two.micrographs.to_csv(tmp_path / "m.csv", index=False)
    two.particles.to_csv(tmp_path / "p.csv", index=False)
    again = two._replace(
        micrographs=pd.read_csv(tmp_path / "m.csv"), particles=pd.read_csv(tmp_path / "p.csv")
    )
    assert carbides_of(report(tmp_path / "a.html", two)) == carbides_of(report(tmp_path / "b.html", again))


@given(st.floats(min_value=1e-9, max_value=1e9), st.sampled_from([-1, 1]))
def test_rounding_to_four_digits(size: float, sign: int) -> None:
    value = sign * size
    found = float(rounded(np.array([value]))[0])
    if value == round(value):
        assert found == value
    else:
        assert abs(found - value) <= 0.50001 * 10 ** (np.floor(np.log10(size)) - 3)
        assert found == float(f"{found:.4g}")  # the shortest decimal


def test_rounding_knows_nothing_of_infinity() -> None:
    found = rounded(np.array([np.inf, np.nan, 0.0, 0.123456, 123456.0, 0.00012346]))
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [0.0, 0.1235, 123456.0, 0.0001235]


# Words and numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((4.8307, 4.342, 5.237), ("4.83", "4.34–5.24")),
        ((0.09503, 0.08774, 0.10125), ("0.0950", "0.0877–0.1013")),
        ((1234.5, 1100.0, 1400.0), ("1,234", "1,100–1,400")),
        ((0.01, -0.06, 0.12), ("0.010", "−0.060 to 0.120")),
        ((0.0, 0.0, 0.44), ("0.00", "0.00–0.44")),
        ((0.00012345, 0.00011, 0.00014), ("1.23 × 10⁻⁴", "1.10–1.40 × 10⁻⁴")),
        ((3.14159, None, None), ("3.14", "")),
        ((5.0, 5.0, 5.0), ("5.00", "5.00–5.00")),
        ((0.0, None, None), ("0", "")),
        ((None, None, None), ("–", "")),
        ((float("nan"), None, None), ("–", "")),
    ],
)
def test_the_interval_decides_on_the_digits(value: tuple[Any, Any, Any], expected: tuple[str, str]) -> None:
    assert number(*value) == expected


def test_shares_are_in_per_cent_and_units_are_words() -> None:
    entry = {"value": 0.05375, "low": 0.04, "high": 0.0694, "unit": ""}
    assert quantity("area_fraction", entry) == {"value": "5.4", "interval": "4.0–6.9", "unit": "%"}
    entry = {"value": 4.83, "low": None, "high": None, "unit": "1/µm²"}
    assert quantity("number_density", entry) == {"value": "4.83", "interval": "", "unit": "per µm²"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("equivalent_circle_diameter_um", ("ECD", "µm")),
        ("number_density_at_0.025_per_um2", ("number density at 0.025", "1/µm²")),
        ("area_px2", ("area", "px²")),
        ("centroid_x_px", ("centroid x", "px")),
        ("orientation_deg", ("orientation", "°")),
        ("mean_grey_se2", ("mean grey SE2", "")),
        ("ecd_mean_um", ("ECD mean", "µm")),
    ],
)
def test_columns_are_named_for_people(name: str, expected: tuple[str, str]) -> None:
    assert column_text(name) == expected


def test_one_micrograph_has_no_interval(tmp_path: Path) -> None:
    one = study([("s", "m")])
    page = Elements(report(tmp_path / "r.html", one))
    assert page.texts.count("one micrograph: no interval") == 1
    assert "95 %:" not in " ".join(page.texts)
    assert re.match(r"1 micrograph of [\d.]+ µm² shows \d+ carbides: [^(]*$", sentence(one.summaries[0]))


def test_every_quantity_has_a_row_and_an_explanation(two: Study) -> None:
    rows = {row["name"]: row for group in summary_rows(two.summaries) for row in group["rows"]}
    for entry in two.summaries[0]["quantities"].values():
        assert rows[entry["name"]]["explanation"] and len(rows[entry["name"]]["cells"]) == 2
    assert "nm" in rows["smallest counted"]["cells"][0]["detail"]
    assert "±" in rows["area fraction after ASTM E562"]["cells"][0]["value"]
    assert "–" in rows["area fraction, by threshold"]["cells"][0]["value"]


def test_volume_estimate_states_its_assumption(two: Study, tmp_path: Path) -> None:
    page = Elements(report(tmp_path / "r.html", two))
    assert two.summaries[0]["saltykov"]["assumption"] in page.texts
    assert "number per µm³" in page.texts


def test_unknown_pixel_size_is_said_first(two: Study, tmp_path: Path) -> None:
    html = report(tmp_path / "r.html", study([("s", "m1"), ("s", "m2")], pixel_size_um=None))
    assert html.index("Pixel size unknown") < html.index('id="summary"')
    assert "All lengths and areas in this report are in pixels" in html
    assert "µm" not in " ".join(text for text in Elements(html).texts if "to get" not in text).replace(
        "2 µm", ""
    )
    assert "Pixel size unknown" not in report(tmp_path / "k.html", two)


def test_known_and_unknown_pixel_sizes_in_one_report(two: Study, tmp_path: Path) -> None:
    unknown = study([("steel C", "c1"), ("steel C", "c2")], pixel_size_um=None)
    both = Study(
        pd.concat([two.micrographs, unknown.micrographs], ignore_index=True),
        pd.concat([two.particles, unknown.particles], ignore_index=True),
        [*two.gallery, *unknown.gallery],
        [*two.samples, *unknown.samples],
        [*two.summaries, *unknown.summaries],
    )
    html = report(tmp_path / "r.html", both)
    assert re.search(r"All lengths and areas of\s+<q>steel C</q>\s+are in pixels", html)
    assert {"area_um2", "area_px2"} <= {one["name"] for one in carbides_of(html)["columns"]}


def test_no_carbides_no_pictures_no_figures(tmp_path: Path) -> None:
    empty = study([("s", "m1"), ("s", "m2")], count=0)
    html = report(tmp_path / "r.html", empty, gallery=[])
    assert "no carbides were found" in html and 'id="gallery"' not in html
    assert carbides_of(html)["field"] == []


def test_40_micrographs_show_24_at_first(tmp_path: Path) -> None:
    many = study([("s", f"m{i}") for i in range(40)], count=2)
    page = Elements(report(tmp_path / "r.html", many))
    cards = [a for tag, a in page.tags if tag == "button" and a.get("class") == "card"]
    assert len(cards) == 40 and sum("hidden" in card for card in cards) == 16
    images = [
        a for tag, a in page.tags if tag == "img" and (a.get("src") or "").startswith("data:image/webp")
    ]
    assert len(images) == 40 and {image["loading"] for image in images} == {"lazy"}


def test_many_warnings_are_folded_at_the_top_and_complete_below(two: Study, tmp_path: Path) -> None:
    page = Elements(report(tmp_path / "r.html", two, warnings=[f"warning {i}" for i in range(20)]))
    assert page.texts.count("warning 3") == 2 and page.texts.count("warning 15") == 1
    assert "12 more warnings" in page.texts


# In a browser

STEPS, FITTING = (Path(__file__).with_name(name) for name in ("report_steps.js", "report_fitting.js"))


def browse(html: str, steps: Path, folder: Path, width: int = 1280) -> dict[str, Any]:
    """Take steps in a page of this width in a headless Chromium, and return what the steps send back.

    The page's policy stays in force; it also allows the steps. The frame may be narrower than
    a window of the browser.
    """
    code = steps.read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    html = html.replace("script-src '", f"connect-src 'self'; script-src 'sha256-{allowed}' '", 1)
    html = html.replace("</body>", f"<script>{code}</script></body>")
    frame = (
        f'<body style="margin:0"><iframe src="page" style="border:0;width:{width}px;height:880px"></iframe>'
    )
    pages = {"/": frame, "/page": html}
    assert CHROMIUM
    answers: queue.Queue[bytes] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,900"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = f"http://127.0.0.1:{server.server_port}/"
        # without a port for a debugger a headless Chromium ends as soon as it has loaded the page
        command = [CHROMIUM, *options, f"--user-data-dir={folder}", "--remote-debugging-port=0", page]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            result: dict[str, Any] = json.loads(answers.get(timeout=90))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            server.shutdown()
    assert "error" not in result, result["error"]
    return result


@pytest.fixture(scope="module")
def outcome(two: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened when the steps were taken in the report."""
    folder = tmp_path_factory.mktemp("browser")
    return browse(report(folder / "report.html", two), STEPS, folder / "user")


def floats(texts: list[str]) -> list[float]:
    return [float(text) for text in texts if text != "–"]


@browser
def test_sorting(outcome: dict[str, Any]) -> None:
    assert (outcome["ariaUp"], outcome["ariaDown"]) == ("ascending", "descending")
    up, down = floats(outcome["ascending"]), floats(outcome["descending"])
    assert up == sorted(up) and down == sorted(down, reverse=True) and len(up) > 20
    assert outcome["names"] == [HOSTILE, "a1", "a2", "b2"]


@browser
def test_filtering(two: Study, outcome: dict[str, Any]) -> None:
    diameters = two.particles["equivalent_circle_diameter_um"]
    total, large = len(diameters), int((diameters > 0.08).sum())
    assert outcome["column"] == "equivalent_circle_diameter_um"
    assert 0 < large < total and len(outcome["filtered"]) == large
    assert outcome["some"] == f"{large} of {total} carbides shown"
    assert outcome["all"] == outcome["cleared"] == f"{total} of {total} carbides shown"
    assert outcome["invalid"] == "true" and outcome["searched"] == ["a1"]


@browser
def test_saving_the_filtered_rows(two: Study, outcome: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "saved.csv").write_text(outcome["csv"], encoding="utf-8")
    saved = pd.read_csv(tmp_path / "saved.csv").sort_values("label", ignore_index=True)
    expected = two.particles[two.particles["micrograph"] == "a1"].sort_values("label", ignore_index=True)
    assert set(saved) == set(two.particles)
    assert saved["touches_border"].tolist() == expected["touches_border"].tolist()
    assert np.allclose(saved["area_um2"], expected["area_um2"], rtol=1e-3)


@browser
def test_opening_a_micrograph(two: Study, outcome: dict[str, Any]) -> None:
    rows = two.particles[two.particles["micrograph"] == HOSTILE]
    assert outcome["opened"] and outcome["title"] == HOSTILE
    assert outcome["place"].startswith("steel B · 3 of 4 · 128 × 96 px")
    assert outcome["size"] == [128, 256]
    assert 0 < len(outcome["numbers"]) <= len(rows)
    assert set(outcome["numbers"]) <= set(rows["label"].astype(str))
    assert outcome["bar"].endswith(("nm", "µm")) and f"carbides{len(rows)}" in outcome["field"]
    assert outcome["overlay"] == "none" and outcome["noNumbers"] == 0 and outcome["width"] == "256px"


@browser
def test_keys_of_the_dialog(outcome: dict[str, Any]) -> None:
    assert (outcome["next"], outcome["last"], outcome["back"]) == ("b2", "b2", "a2")
    assert outcome["closed"] and outcome["focus"]


@browser
def test_rows_and_numbers_are_linked(outcome: dict[str, Any]) -> None:
    name, label = outcome["row"]
    assert outcome["rowOpened"] == [name, 1] and f"carbide{label}" in outcome["described"]
    assert "carbide2" in outcome["chosen"]
    assert outcome["marked"] == [name, "2", False]


@browser
def test_nothing_of_a_name_ran(outcome: dict[str, Any]) -> None:
    assert outcome["alerts"] == 0 and outcome["injected"] == 0


@browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_screen(width: int, tmp_path: Path) -> None:
    long = study([("A sample with quite a long name", "x" * 120), ("B" * 80, "y"), ("C", "z")], saltykov=True)
    figures = write_figures(long.samples, long.summaries, tmp_path)
    facts = {"command": "carde-monai " + "z" * 300}
    html = report(tmp_path / "r.html", long, figures=figures, facts=facts, warnings=["w" * 300])
    found = browse(html, FITTING, tmp_path / "user", width)
    assert found == {"wider": [], "dialog": width, "stage": True}
