// Measures for test_html_report.py whether page and dialog are wider than the window.
async function measure() {
  while (!document.querySelector("#carbides-table .grid")) await new Promise((done) => setTimeout(done, 50));
  const page = document.documentElement, found = { wider: [] };
  if (page.scrollWidth > page.clientWidth) {
    found.wider = [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > page.clientWidth)
      .map((one) => `${one.tagName} ${one.className}`);
  }
  document.querySelector("#fields-table tbody button").click();
  const viewer = document.getElementById("viewer"), stage = document.getElementById("stage").getBoundingClientRect();
  return { ...found, dialog: viewer.scrollWidth, stage: stage.height > 300 && stage.bottom < innerHeight };
}
measure().catch((error) => ({ error: String(error.stack) }))
  .then((found) => fetch("/", { method: "POST", body: JSON.stringify(found) }));
