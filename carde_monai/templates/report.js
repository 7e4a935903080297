"use strict";
// Tables and large pictures of the report. Names of files come from anybody: they become text nodes only.
(() => {
const byId = (id) => document.getElementById(id);
const ROWS = 50; // a page of a table
// paper has room for these columns only
const MAIN = new RegExp("^(micrograph|sample|label|carbides|number_density_per_.m2|area_fraction|ecd_(mean|median)|mean_free_path"
  + "|nearest_neighbour_(mean|ratio)|area|equivalent_circle_diameter|aspect_ratio|orientation|circularity|feret_max"
  + "|nearest_neighbour|mean_probability)(_(um2?|px2?|deg))?$");

/** An element with properties and children; strings become text, never markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const count = (number) => number.toLocaleString("en-US");
/** A number with four significant digits, or with the decimals of its column. */
function show(value, decimals) {
  if (Number.isNaN(value)) return "–";
  const size = Math.abs(value), text = decimals === undefined ? "" : value.toFixed(decimals);
  if (Number.isInteger(value) && !decimals) return count(value);
  if (text && (Number(text) || !value) && size < 1e6) return text;
  return size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(3);
}

// ---- Data: columns {name, label, unit, kind, values}, and a rank for each row that sorts text

function textColumn(name, values) {
  const names = [...new Set(values)].sort(new Intl.Collator("en", { numeric: true }).compare);
  const rank = new Map(names.map((text, place) => [text, place]));
  return { name, label: name, unit: "", kind: "text", values, order: Float64Array.from(values, (text) => rank.get(text)) };
}
function numberColumn(column, values) {
  const numbers = Float64Array.from(values, (value) => value === null ? NaN : Number(value));
  return { ...column, values: numbers, order: numbers };
}
function cell(column, row) {
  if (column.kind === "text") return column.values[row];
  if (column.kind === "flag") return Number.isNaN(column.values[row]) ? "–" : column.values[row] ? "yes" : "no";
  return show(column.values[row], column.decimals);
}
const looks = (column) => (column.kind === "text" ? "text" : "") + (MAIN.test(column.name) ? "" : " minor");
const heading = (column) => column.unit ? `${column.label} (${column.unit})` : column.label;

const fieldData = JSON.parse(byId("data-fields").textContent);
const fields = fieldData.columns.map((column, place) => column.kind === "text"
  ? { ...textColumn(column.name, fieldData.values[place]), label: column.label }
  : numberColumn(column, fieldData.values[place]));
const pictures = JSON.parse(byId("data-pictures").textContent);
const pictureOfField = new Map(pictures.map((picture, place) => [picture.field, place]));
const find = (columns, name) => columns.find((column) => column.name === name);
const names = find(fields, "micrograph").values, sampleNames = find(fields, "sample").values;
const oneSample = new Set(sampleNames).size < 2;
let carbides = [], fieldOf = new Uint32Array(0), carbideTable = null;

/** base64 of gzipped JSON. */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// ---- A table that sorts, filters, turns pages and saves

const OPERATORS = {
  ">": (a, b) => a > b, "≥": (a, b) => a >= b, "<": (a, b) => a < b, "≤": (a, b) => a <= b,
  "=": (a, b) => a === b, "≠": (a, b) => a !== b && !Number.isNaN(a),
};
/** What a person types as a number: 0.5, 0,5, yes, no; NaN if it is none. */
function typed(text) {
  const known = { yes: 1, no: 0, true: 1, false: 0 }[text.trim().toLowerCase()];
  return known ?? (text.trim() ? Number(text.trim().replace(",", ".")) : NaN);
}

class Table {
  /** `open(row)` is called for the button in column `link`; rows are numbers 0 .. size - 1. */
  constructor(box, { columns, size, noun, link, open, canOpen, file }) {
    Object.assign(this, { box, columns, size, noun, link, open, canOpen, file });
    this.shown = columns.filter((column) => !(oneSample && column.name === "sample"));
    this.sorted = { column: null, down: false };
    this.page = 0;
    this.chosen = -1;
    this.conditions = [];
    this.build();
    this.addCondition();
    this.apply();
  }

  build() {
    this.search = make("input", { type: "search", placeholder: "name contains …", "aria-label": "Name of micrograph or sample contains" });
    this.search.addEventListener("input", () => this.apply());
    const more = make("button", { type: "button", className: "plain-button" }, "+ condition");
    more.addEventListener("click", () => this.addCondition());
    const clear = make("button", { type: "button", className: "plain-button" }, "Clear");
    clear.addEventListener("click", () => this.clear());
    this.filter = make("div", { className: "filter", role: "group", "aria-label": "Filter" }, this.search, more, clear);
    this.more = more;
    this.counter = make("span", { className: "count", role: "status" });
    const save = make("button", { type: "button", className: "plain-button" }, "Download rows as CSV");
    save.addEventListener("click", () => this.save());
    this.save_button = save;
    this.pager = make("span", { className: "pager" });
    this.head = make("tr");
    for (const column of this.shown) {
      const button = make("button", { type: "button", title: column.name }, column.label, make("small", {}, column.unit));
      button.addEventListener("click", () => this.sort(column));
      this.head.append(make("th", { scope: "col", "aria-sort": "none", className: looks(column) }, button));
    }
    this.body = make("tbody");
    const grid = make("table", { className: "grid" }, make("thead", {}, this.head), this.body);
    this.frame = make("div", { className: "grid-box", tabIndex: 0, role: "region", "aria-label": `Table of ${this.noun}` }, grid);
    this.box.replaceChildren(this.filter, make("div", { className: "status" }, this.counter, this.pager, save), this.frame);
  }

  addCondition() {
    const column = make("select", { "aria-label": "Column" });
    this.columns.forEach((one, place) => {
      if (one.kind !== "text") column.append(make("option", { value: place, title: one.name }, heading(one)));
    });
    const preferred = this.columns.findIndex((one) => /^(equivalent_circle_diameter|carbides$)/.test(one.name));
    if (preferred >= 0) column.value = preferred;
    const operator = make("select", { className: "operator", "aria-label": "Comparison" });
    for (const sign of Object.keys(OPERATORS)) operator.append(make("option", {}, sign));
    const value = make("input", { type: "text", inputMode: "decimal", placeholder: "value", "aria-label": "Value" });
    const remove = make("button", { type: "button", "aria-label": "Remove condition" }, "✕");
    const element = make("span", { className: "condition" }, column, operator, value, remove);
    const condition = { column, operator, value, element };
    remove.addEventListener("click", () => this.remove(condition));
    element.addEventListener("input", () => this.apply());
    this.conditions.push(condition);
    this.filter.insertBefore(element, this.more);
  }

  remove(condition) {
    condition.element.remove();
    this.conditions = this.conditions.filter((one) => one !== condition);
    if (!this.conditions.length) this.addCondition();
    this.apply();
  }

  clear() {
    this.search.value = "";
    for (const condition of this.conditions.splice(0)) condition.element.remove();
    this.addCondition();
    this.apply();
  }

  /** Filter, sort and draw from the first page. */
  apply() {
    const tests = [];
    for (const { column, operator, value } of this.conditions) {
      const number = typed(value.value);
      value.setAttribute("aria-invalid", String(value.value.trim() !== "" && Number.isNaN(number)));
      if (!Number.isNaN(number)) tests.push([this.columns[column.value].values, OPERATORS[operator.value], number]);
    }
    const wanted = this.search.value.trim().toLowerCase();
    const texts = this.columns.filter((column) => column.name === "micrograph" || column.name === "sample");
    const known = new Map(); // few names, many rows
    const named = (text) => {
      if (!known.has(text)) known.set(text, text.toLowerCase().includes(wanted));
      return known.get(text);
    };
    const view = new Uint32Array(this.size);
    let length = 0;
    for (let row = 0; row < this.size; row++) {
      if (tests.every(([values, test, number]) => test(values[row], number))
        && (!wanted || texts.some((column) => named(column.values[row])))) view[length++] = row;
    }
    this.view = view.subarray(0, length);
    this.order();
    this.page = 0;
    this.draw();
  }

  order() {
    if (!this.sorted.column) return;
    const values = this.sorted.column.order, sign = this.sorted.down ? -1 : 1;
    this.view.sort((a, b) => {
      const x = values[a], y = values[b];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b; // last either way
      return sign * (x - y) || a - b;
    });
  }

  sort(column) {
    const again = this.sorted.column === column;
    this.sorted = { column, down: again && !this.sorted.down };
    this.shown.forEach((one, place) => this.head.children[place].setAttribute(
      "aria-sort", one !== column ? "none" : this.sorted.down ? "descending" : "ascending"));
    this.order();
    this.page = 0;
    this.draw();
  }

  draw() {
    const pages = Math.max(1, Math.ceil(this.view.length / ROWS));
    this.page = Math.min(Math.max(0, this.page), pages - 1);
    const rows = this.view.subarray(this.page * ROWS, (this.page + 1) * ROWS);
    this.body.replaceChildren(...Array.from(rows, (row) => this.row(row)));
    this.counter.textContent = `${count(this.view.length)} of ${count(this.size)} ${this.noun}` + (this.view.length > rows.length
      ? `, rows ${count(this.page * ROWS + 1)}–${count(this.page * ROWS + rows.length)} shown` : " shown");
    this.drawPager(pages);
  }

  row(row) {
    const line = make("tr", { className: row === this.chosen ? "chosen" : "" });
    for (const column of this.shown) {
      const text = cell(column, row);
      const item = make("td", { className: looks(column), title: column.kind === "text" ? text : "" });
      if (column.name === this.link && this.canOpen(row)) {
        const button = make("button", { type: "button" }, text);
        button.addEventListener("click", () => this.open(row));
        item.append(button);
      } else item.append(text);
      line.append(item);
    }
    line.dataset.row = row;
    return line;
  }

  drawPager(pages) {
    this.pager.hidden = pages < 2;
    const step = (text, name, by) => {
      const button = make("button", { type: "button", "aria-label": name, disabled: this.page + by < 0 || this.page + by >= pages }, text);
      button.addEventListener("click", () => { this.page += by; this.draw(); });
      return button;
    };
    const place = make("input", { type: "text", inputMode: "numeric", value: this.page + 1, "aria-label": "Page" });
    place.addEventListener("change", () => { this.page = (Math.round(typed(place.value)) || 1) - 1; this.draw(); });
    this.pager.replaceChildren(step("←", "Previous page", -1), "page", place, `of ${count(pages)}`, step("→", "Next page", 1));
  }

  /** Turn to the page of a row, if the filter lets it through, and mark it. */
  choose(row) {
    this.chosen = row;
    const place = this.view.indexOf(row);
    if (place >= 0) this.page = Math.floor(place / ROWS);
    this.draw();
    return place >= 0;
  }

  save() {
    const quoted = (text) => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const plain = (column, row) => column.kind === "text" ? quoted(column.values[row])
      : Number.isNaN(column.values[row]) ? "" : column.kind === "flag" ? (column.values[row] ? "True" : "False") : String(column.values[row]);
    const lines = [this.columns.map((column) => column.name).join(",")];
    for (const row of this.view) lines.push(this.columns.map((column) => plain(column, row)).join(","));
    const link = make("a", { download: this.file, href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

// ---- One micrograph, large

const viewer = byId("viewer"), stage = byId("stage"), canvas = byId("canvas"), marks = byId("marks");
const state = { place: 0, zoom: 0, chosen: -1, rows: [] }; // zoom: screen pixels a micrograph pixel, 0: fit
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

function openPicture(place, carbide = -1) {
  const picture = pictures[place];
  Object.assign(state, { place, chosen: carbide, rows: rowsOf(picture.field) });
  byId("viewer-name").textContent = picture.name;
  byId("viewer-name").title = picture.name;
  byId("viewer-place").textContent = (oneSample ? "" : `${picture.sample} · `) + `${place + 1} of ${pictures.length}`
    + ` · ${picture.width} × ${picture.height} px` + (picture.pixel ? ` of ${show(1000 * picture.pixel)} nm` : ", pixel size unknown");
  byId("picture").src = "data:image/webp;base64," + byId(`picture-${place}`).textContent;
  byId("overlay").src = "data:image/png;base64," + byId(`overlay-${place}`).textContent;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === pictures.length - 1;
  for (const item of document.querySelectorAll("#legend .confidence")) item.hidden = !picture.confidence;
  marks.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  describeField(picture);
  describeCarbide();
  if (!viewer.open) { viewer.showModal(); stage.focus(); }
  layOut();
  if (carbide >= 0) centre(carbide);
}

function rowsOf(field) {
  const rows = [];
  fieldOf.forEach((one, row) => { if (one === field) rows.push(row); });
  const size = carbides.find((column) => column.name.startsWith("area_"));
  return size ? rows.sort((a, b) => size.values[b] - size.values[a]) : rows; // numbers of large carbides first
}

function definitions(pairs) {
  return pairs.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text)));
}

function describeField(picture) {
  const wanted = [/^carbides$/, /^number_density_per_/, /^area_fraction$/, /^ecd_median_/, /^mean_free_path_/, /^nearest_neighbour_mean_/];
  const pairs = [];
  for (const pattern of picture.field === null ? [] : wanted) {
    const column = fields.find((one) => pattern.test(one.name) && !Number.isNaN(one.values[picture.field]));
    if (!column) continue;
    const value = column.values[picture.field];
    pairs.push(column.name === "area_fraction" ? ["area fraction", `${show(Number((100 * value).toPrecision(3)))} %`]
      : [column.label, `${show(value)} ${column.unit.replace("1/", "per ")}`]);
  }
  byId("viewer-field").replaceChildren(...definitions(pairs));
}

function describeCarbide() {
  const box = byId("viewer-carbide");
  if (state.chosen < 0) return box.replaceChildren();
  const wanted = /^(equivalent_circle_diameter|aspect_ratio|orientation_deg|feret_max|nearest_neighbour|mean_probability|touches_border)/;
  const pairs = carbides.filter((column) => wanted.test(column.name) && !Number.isNaN(column.values[state.chosen]))
    .map((column) => [column.label, `${cell(column, state.chosen)} ${column.unit}`]);
  const label = find(carbides, "label");
  const button = make("button", { type: "button" }, "show in the table");
  button.addEventListener("click", () => {
    viewer.close();
    if (!carbideTable.choose(state.chosen)) { carbideTable.clear(); carbideTable.choose(state.chosen); }
    carbideTable.frame.scrollIntoView({ block: "center" });
    carbideTable.body.querySelector(".chosen")?.scrollIntoView({ block: "nearest" });
  });
  const list = make("dl", {}, ...definitions([["carbide", label ? cell(label, state.chosen) : ""], ...pairs]), button);
  box.replaceChildren(list);
}

/** A length of a carbide in pixels of the micrograph; 0 where it is not known. */
function pixels(base, row) {
  const direct = find(carbides, `${base}_px`), micron = find(carbides, `${base}_um`);
  if (direct && !Number.isNaN(direct.values[row])) return direct.values[row];
  const pixel = pictures[state.place].pixel;
  return micron && pixel ? micron.values[row] / pixel || 0 : 0;
}
/** Centre (the tables count from the middle of the first pixel), half axes and direction of a carbide. */
function shape(row) {
  const value = (name) => find(carbides, name)?.values[row] || 0;
  const a = pixels("major_axis", row) / 2, b = pixels("minor_axis", row) / 2, angle = value("orientation_deg");
  const turn = angle * Math.PI / 180;
  return { x: value("centroid_x_px") + 0.5, y: value("centroid_y_px") + 0.5, a, b, angle,
    halfWidth: Math.hypot(a * Math.cos(turn), b * Math.sin(turn)), halfHeight: Math.hypot(a * Math.sin(turn), b * Math.cos(turn)) };
}

const scale = () => {
  const { width, height } = pictures[state.place];
  return state.zoom || Math.min(stage.clientWidth / width, stage.clientHeight / height) || 1;
};

function layOut() {
  const { width, height } = pictures[state.place], zoom = scale();
  canvas.style.width = `${width * zoom}px`;
  canvas.style.height = `${height * zoom}px`;
  canvas.classList.toggle("pixels", zoom > 2.5);
  byId("overlay").style.display = byId("show-overlay").checked ? "" : "none";
  byId("legend").style.visibility = byId("show-overlay").checked ? "" : "hidden";
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.zoom) === state.zoom));
  }
  drawBar(zoom);
  drawMarks(zoom);
}

/** A bar of a round length nearest to a fifth of what is seen. */
function drawBar(zoom) {
  const { pixel, width } = pictures[state.place], unit = pixel || 1;
  const target = Math.min(stage.clientWidth, width * zoom) / 5 / zoom * unit;
  const decade = 10 ** Math.floor(Math.log10(target));
  const length = [1, 2, 5, 10].map((step) => step * decade)
    .reduce((best, one) => Math.abs(Math.log(one / target)) < Math.abs(Math.log(best / target)) ? one : best);
  byId("bar").style.width = `${length / unit * zoom}px`;
  byId("bar-text").textContent = !pixel ? `${Number(length.toPrecision(2))} px`
    : length >= 0.999 ? `${Number(length.toPrecision(2))} µm` : `${Number((1000 * length).toPrecision(2))} nm`;
}

/** Ring of the chosen carbide and numbers, beside the carbides: only where there is room at this magnification. */
function drawMarks(zoom) {
  marks.replaceChildren();
  const { width, height } = pictures[state.place], size = 11, step = 3;
  const columns = Math.ceil(width * zoom / step), lines = Math.ceil(height * zoom / step);
  const taken = new Uint8Array(columns * lines);
  const cells = (x, y, w, h, visit) => { // screen pixels; false as soon as a visit says so
    for (let row = Math.floor(y / step); row <= (y + h) / step; row++) {
      for (let column = Math.floor(x / step); column <= (x + w) / step; column++) {
        if (row < 0 || column < 0 || row >= lines || column >= columns || visit(row * columns + column) === false) return false;
      }
    }
    return true;
  };
  const mark = (place) => { taken[place] = 1; };
  const shapes = new Map(state.rows.map((row) => [row, shape(row)]));
  for (const one of shapes.values()) {
    cells(Math.max(0, (one.x - one.halfWidth) * zoom), Math.max(0, (one.y - one.halfHeight) * zoom),
      2 * one.halfWidth * zoom, 2 * one.halfHeight * zoom, mark);
  }
  if (state.chosen >= 0) {
    const one = shape(state.chosen), gap = 5 / zoom;
    marks.append(svg("ellipse", { cx: one.x, cy: one.y, rx: one.a + gap, ry: one.b + gap, transform: `rotate(${-one.angle} ${one.x} ${one.y})` }));
  }
  let drawn = 0;
  const label = find(carbides, "label");
  const order = state.chosen >= 0 ? [state.chosen, ...state.rows.filter((row) => row !== state.chosen)] : state.rows;
  for (const row of byId("show-numbers").checked && label ? order : []) {
    const one = shapes.get(row), text = String(label.values[row]), w = text.length * 6.4 + 2, h = size;
    const x = one.x * zoom, y = one.y * zoom, dx = one.halfWidth * zoom + step + 2, dy = one.halfHeight * zoom + step + 1;
    const places = [[x + dx, y - h / 2], [x - dx - w, y - h / 2], [x - w / 2, y - dy - h], [x - w / 2, y + dy],
      [x + dx * 0.8, y - dy * 0.8 - h], [x + dx * 0.8, y + dy * 0.8]];
    const free = places.find(([left, top]) => cells(left, top, w, h, (place) => !taken[place]));
    if (!free && row !== state.chosen) continue;
    const [left, top] = free || places[0];
    cells(left, top, w, h, mark);
    const element = svg("text", { x: (left + 1) / zoom, y: (top + h - 1.5) / zoom, "font-size": size / zoom, "stroke-width": 2.6 / zoom, "data-row": row });
    element.textContent = text;
    marks.append(element);
    drawn++;
  }
  byId("hint").textContent = byId("show-numbers").checked && drawn < state.rows.length
    ? `${count(drawn)} of ${count(state.rows.length)} numbers have room; magnify to see more` : "";
}

function centre(row) {
  const one = shape(row), zoom = scale();
  stage.scrollTo(one.x * zoom - stage.clientWidth / 2, one.y * zoom - stage.clientHeight / 2);
}

function choose(row) {
  state.chosen = row;
  describeCarbide();
  layOut();
}

/** Magnify and keep the same place in the middle. */
function setZoom(zoom, at) {
  const { width, height } = pictures[state.place], before = scale(), bounds = canvas.getBoundingClientRect(), frame = stage.getBoundingClientRect();
  const x = at ? at.x : (frame.left + stage.clientWidth / 2 - bounds.left) / before;
  const y = at ? at.y : (frame.top + stage.clientHeight / 2 - bounds.top) / before;
  state.zoom = zoom;
  layOut();
  if (state.chosen >= 0 && !at) return centre(state.chosen);
  stage.scrollTo(Math.min(width, x) * scale() - stage.clientWidth / 2, Math.min(height, y) * scale() - stage.clientHeight / 2);
}

const go = (by) => { if (pictures[state.place + by]) openPicture(state.place + by); };
const pointed = (event) => {
  const bounds = canvas.getBoundingClientRect();
  return { x: (event.clientX - bounds.left) / scale(), y: (event.clientY - bounds.top) / scale() };
};

function listen() {
  for (const card of document.querySelectorAll(".card")) {
    card.addEventListener("click", () => openPicture(Number(card.dataset.picture)));
  }
  byId("all-cards")?.addEventListener("click", (event) => {
    for (const card of document.querySelectorAll(".card[hidden]")) card.hidden = false;
    event.target.remove();
  });
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => setZoom(Number(button.dataset.zoom)));
  }
  byId("show-overlay").addEventListener("change", layOut);
  byId("show-numbers").addEventListener("change", layOut);
  byId("previous").addEventListener("click", () => go(-1));
  byId("next").addEventListener("click", () => go(1));
  byId("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") go(-1);
    else if (event.key === "ArrowRight") go(1);
    else if (event.key === "Escape") viewer.close();
    else return;
    event.preventDefault();
  });
  // a number, or the carbide itself: the nearest whose outline is at most some pixels away
  canvas.addEventListener("click", (event) => {
    const number = event.target.closest("text");
    if (number) return choose(Number(number.dataset.row));
    const { x, y } = pointed(event), near = (row) => {
      const one = shape(row);
      return Math.hypot(one.x - x, one.y - y) - (one.a + one.b) / 2;
    };
    let best = -1, least = 8 / scale();
    for (const row of state.rows) if (near(row) < least) { best = row; least = near(row); }
    choose(best);
  });
  canvas.addEventListener("dblclick", (event) => setZoom(state.zoom ? 0 : Math.max(2, 2 * Math.ceil(scale())), pointed(event)));
  window.addEventListener("resize", () => { if (viewer.open) layOut(); });
}

async function start() {
  listen();
  new Table(byId("fields-table"), {
    columns: fields, size: names.length, noun: "micrographs", link: "micrograph", file: "micrographs_filtered.csv",
    open: (row) => openPicture(pictureOfField.get(row)), canOpen: (row) => pictureOfField.has(row),
  });
  const data = await unpack(byId("data-carbides").textContent);
  byId("data-carbides").remove(); // its memory
  fieldOf = Uint32Array.from(data.field);
  carbides = data.columns.map((column, place) => numberColumn(column, data.values[place]));
  const columns = [textColumn("micrograph", data.field.map((field) => names[field])),
    textColumn("sample", data.field.map((field) => sampleNames[field])), ...carbides];
  carbideTable = new Table(byId("carbides-table"), {
    columns, size: fieldOf.length, noun: "carbides", link: "label", file: "particles_filtered.csv",
    open: (row) => openPicture(pictureOfField.get(fieldOf[row]), row), canOpen: (row) => pictureOfField.has(fieldOf[row]),
  });
}
start().catch((error) => {
  byId("carbides-table").replaceChildren(make("p", { className: "note" },
    `This browser cannot unpack the table (${error.message}); it is in particles.csv beside this report.`));
});
})();
