"use strict";
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const one = (query, root = document) => root.querySelector(query);

  // Filters: the overview's rows and the scenarios below it carry the same data.
  const form = one("#filters");
  if (form) {
    const wanted = { verdict: "", target: "", fault: "", name: "" };
    const rows = all("tr.row"), items = all("details.scenario"), labels = all("td.cell-label");
    const passing = one("#passing");
    let folded = Boolean(passing);
    const buttons = all("[data-verdict]", form);
    const apply = () => {
      const name = wanted.name.trim().toLowerCase();
      const all = !wanted.verdict && !wanted.target && !wanted.fault && !name;
      const out = ({ dataset: has }) => Boolean((wanted.verdict && has.verdict !== wanted.verdict) || (wanted.target && has.target !== wanted.target)
        || (wanted.fault && has.fault !== wanted.fault) || !has.name.toLowerCase().includes(name));
      for (const row of rows) row.hidden = out(row) || (folded && all && row.dataset.verdict === "pass");
      for (const item of items) item.hidden = out(item);
      for (const label of labels) label.classList.toggle("off", out(label));
      for (const part of [one(".rows"), one(".rows-legend")]) part.hidden = rows.every((row) => row.hidden);
      if (passing) passing.hidden = !(folded && all);
      const shown = items.filter((item) => !item.hidden).length;
      one("#shown").value = shown === items.length ? "" : `${shown} of ${items.length} shown`;
      one("#none").hidden = shown > 0;
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.verdict === wanted.verdict));
    };
    const fields = { target: one("#by-target"), fault: one("#by-fault"), name: one("#by-name") };
    for (const button of buttons) button.addEventListener("click", () => { wanted.verdict = button.dataset.verdict; apply(); });
    for (const [key, field] of Object.entries(fields)) field.addEventListener("input", () => { wanted[key] = field.value; apply(); });
    if (passing) passing.addEventListener("click", () => { folded = false; apply(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    one("#reset").addEventListener("click", () => {
      wanted.verdict = "";
      for (const [key, field] of Object.entries(fields)) { field.value = ""; wanted[key] = ""; }
      apply();
    });
    form.hidden = false;
    for (const key of ["target", "fault", "name"]) wanted[key] = fields[key].value;
    apply();
  }

  // Folding. A link to a scenario unfolds it; a printed page has everything unfolded.
  const scenarios = all("details.scenario");
  const unfoldNamed = () => {
    const named = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (named && named.matches("details")) { named.open = true; named.scrollIntoView(); }
  };
  addEventListener("hashchange", unfoldNamed);
  for (const link of all('a[href^="#s"]')) link.addEventListener("click", () => setTimeout(unfoldNamed));
  unfoldNamed();
  const fold = one(".fold");
  if (fold) fold.hidden = false;
  for (const button of all("[data-fold]")) button.addEventListener("click", () => {
    for (const item of scenarios) item.open = button.dataset.fold === "open";
  });
  let before = [];
  addEventListener("beforeprint", () => { one("#passing")?.click(); before = scenarios.map((item) => item.open); for (const item of scenarios) item.open = true; });
  addEventListener("afterprint", () => scenarios.forEach((item, n) => { item.open = before[n]; }));

  // Copying, also where the page is a local file and the browser has no clipboard for it.
  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* the older way, below */ }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };
  for (const button of all(".copy")) {
    button.hidden = false;
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      button.textContent = await copy(one("code", button.parentElement).textContent) ? "copied" : "select and copy it by hand";
      button.focus();
      setTimeout(() => { button.textContent = "copy"; }, 1600);
    });
  }

  // Reading one moment of a timeline: the drawing is the data, undone through its two scales.
  const BOTTOM = 600, TOP = 90, WIDTH = 1000, COLUMN = 2, REACH = 25;
  const say = (ms) => ms < 9.95 ? `${ms.toPrecision(2)} ms` : ms < 999.5 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`;
  const columns = (series, kind) => {
    const path = one(`path.${kind}`, series);
    const found = new Map();
    if (path) for (const [, x, fast, slow] of path.getAttribute("d").matchAll(/M(\d+) (\d+)V(\d+)/g)) found.set(+x, [+fast, +slow]);
    return found;
  };
  for (const figure of all(".timeline")) {
    const cursor = one(".cursor", figure);
    const plot = one(".axis .plot", figure);
    const { start, end, floor, ceiling } = Object.fromEntries(Object.entries(figure.dataset).map(([k, v]) => [k, +v]));
    let drawn = null;
    let share = 0.5;
    const show = () => {
      drawn ??= all(".series", figure).map((series) => ({
        output: one("output", series), good: columns(series, "good"), late: columns(series, "late"),
        failed: columns(series, "failed"), wrong: columns(series, "wrong"),
      }));
      const box = plot.getBoundingClientRect(), frame = figure.getBoundingClientRect();
      cursor.hidden = false;
      cursor.style.left = `${box.left - frame.left + share * box.width}px`;
      cursor.classList.toggle("flip", share > 0.85);
      cursor.dataset.at = `${(start + share * (end - start)).toFixed(2)} s`;
      const middle = Math.floor(share * WIDTH / COLUMN) * COLUMN + COLUMN / 2;
      const latency = (y) => 1000 * floor * 10 ** ((BOTTOM - y) / (BOTTOM - TOP) * Math.log10(ceiling / floor));
      for (const series of drawn) {
        let text = "no probe here";
        for (let away = 0; away <= 12; away += COLUMN) {
          const at = [middle - away, middle + away].find((x) => ["good", "late", "failed", "wrong"].some((kind) => series[kind].has(x)));
          if (at === undefined) continue;
          if (series.failed.has(at)) text = "no answer";
          else if (series.wrong.has(at)) text = "another answer";
          else text = say(latency(series.late.has(at) ? Math.min(...series.late.get(at)) + REACH : Math.min(...series.good.get(at))));
          break;
        }
        series.output.value = text;
      }
    };
    const hide = () => { cursor.hidden = true; for (const series of drawn ?? []) series.output.value = ""; };
    figure.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      share = (event.clientX - box.left) / box.width;
      if (share < 0 || share > 1) hide(); else show();
    });
    figure.addEventListener("pointerleave", hide);
    figure.addEventListener("blur", hide);
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.01, ArrowRight: 0.01 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      share = Math.min(1, Math.max(0, share + (event.shiftKey ? 10 : 1) * step));
      show();
    });
  }
  document.documentElement.dataset.ready = "true";
})();
