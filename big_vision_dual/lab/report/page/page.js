"use strict";
// The charts of a report. The data is that of page/model.py; texts in it are already safe for plotly.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const COLOURS = 8;
  const HEAT_RANGE = 3; // octaves to either side of 1 that the colours tell apart, or more where 5 % lie beyond
  const SEEDED = data.runs.length > data.groups.length;

  // ---- What is shown: kept while the page is open, so that a running run's page may load itself again.
  const KEY = "bvd-report " + document.title;
  const state = {
    hidden: [], axis: "steps", smoothing: 0, seeds: SEEDED, linear: {},
    theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light",
    ...stored(),
  };

  function stored() {
    try { return JSON.parse(sessionStorage.getItem(KEY)) || {}; } catch { return {}; }
  }
  function keep() {
    try { sessionStorage.setItem(KEY, JSON.stringify(state)); } catch { /* a browser that keeps nothing */ }
  }
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const markOf = (index) => ({ color: colour("--run" + (index % COLOURS)), dash: DASHES[Math.floor(index / COLOURS) % 4] });
  const visible = () => data.runs.map((_, i) => i).filter((i) => !state.hidden.includes(toggleOf(i)));
  const toggleOf = (run) => (state.seeds ? data.groups[data.runs[run].group] : data.runs[run].label);
  const toggles = () => [...new Set(data.runs.map((_, i) => toggleOf(i)))];

  // ---- Curves
  function interpolated([xs, ys], x) {
    if (!xs.length) return null;
    let high = xs.findIndex((value) => value >= x);
    if (high === -1) high = xs.length - 1;
    const low = Math.max(high - 1, 0);
    const part = xs[high] === xs[low] ? 1 : (x - xs[low]) / (xs[high] - xs[low]);
    return ys[low] + part * (ys[high] - ys[low]);
  }
  function onAxis(run, steps) {
    if (state.axis === "examples") return run.batch ? steps.map((step) => step * run.batch) : [];
    if (state.axis === "hours") return run.hours[0].length ? steps.map((step) => interpolated(run.hours, step)) : [];
    return steps;
  }
  function smoothed(values, weight) { // exponential moving average without the bias of its start
    let sum = 0, mass = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + (1 - weight) * value;
      mass = weight * mass + (1 - weight);
      return sum / mass;
    });
  }
  function curve(index, metric) {
    const run = data.runs[index];
    if (!(metric in run.series)) return null;
    const [steps, values] = run.series[metric];
    const x = onAxis(run, steps);
    return x.length ? { x, y: values } : null;
  }
  function lines(metric) {
    const groups = state.seeds ? data.groups.map((label, g) => ({ label, mark: g, runs: visible().filter((i) => data.runs[i].group === g) }))
      : visible().map((i) => ({ label: data.runs[i].label, mark: i, runs: [i] }));
    return groups.flatMap(({ label, mark, runs }) => {
      const curves = runs.map((i) => curve(i, metric)).filter(Boolean);
      if (!curves.length) return [];
      return curves.length > 1 ? meanAndBand(label, mark, curves) : single(label, mark, curves[0]);
    });
  }
  function single(label, index, { x, y }) {
    const style = markOf(index);
    const mode = y.length < 40 ? "lines+markers" : "lines";
    if (!state.smoothing) return [{ x, y, name: label, mode, line: style, marker: { size: 4, color: style.color } }];
    return [
      { x, y, mode: "lines", line: { ...style, width: 1 }, opacity: 0.3, hoverinfo: "skip", showlegend: false, name: label },
      { x, y: smoothed(y, state.smoothing), name: label, mode: "lines", line: style },
    ];
  }
  function meanAndBand(label, index, curves) {
    const style = markOf(index);
    // steps are shared by seeds of one config; hours are not, so they are averaged
    const shared = new Map();
    curves.forEach(({ x, y }) => y.forEach((value, i) => {
      const found = shared.get(i) || shared.set(i, { x: [], y: [] }).get(i);
      if (value !== null) { found.x.push(x[i]); found.y.push(value); }
    }));
    const points = [...shared.values()].filter((point) => point.y.length);
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const x = points.map((point) => mean(point.x));
    const soft = (values) => smoothed(values, state.smoothing);
    const low = soft(points.map((point) => Math.min(...point.y)));
    const high = soft(points.map((point) => Math.max(...point.y)));
    return band(label, style, x, soft(points.map((point) => mean(point.y))), low, high, curves.length);
  }
  function band(label, style, x, mean, low, high, n) {
    const edge = { x, mode: "lines", line: { width: 0, color: style.color }, hoverinfo: "skip", showlegend: false };
    const line = { x, y: mean, name: n > 1 ? `${label} (${n} seeds)` : label, mode: "lines", line: style };
    if (x.length < 40) Object.assign(line, { mode: "lines+markers", marker: { size: 4, color: style.color } });
    if (n < 2) return [line];
    return [{ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: style.color + "33" }, line];
  }

  // ---- Drawing
  const AXIS_TITLES = { steps: "step", examples: "examples seen", hours: "hours" };
  const CONFIG = { displayModeBar: false, responsive: true };
  function layout(more) {
    const axis = { gridcolor: colour("--line"), zeroline: false, linecolor: colour("--line"), automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--text"), size: 12 },
      margin: { l: 52, r: 12, t: 8, b: 40 }, showlegend: true, legend: { orientation: "h", y: -0.22, font: { size: 11 }, traceorder: "normal" },
      hovermode: "x unified", hoverlabel: { bgcolor: colour("--panel"), font: { color: colour("--text") } },
      ...more, xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
    };
  }
  function drawCurves(figure) {
    const metric = figure.dataset.metric;
    const log = data.charts[metric].log && !state.linear[metric];
    const plot = figure.querySelector(".plot");
    const traces = lines(metric);
    if (!traces.length) return empty(plot, "No run that is shown has this" + (state.axis === "steps" ? "." : ` by ${state.axis}.`));
    render(plot, traces, layout({
      xaxis: { title: { text: AXIS_TITLES[state.axis], standoff: 6 } },
      yaxis: log ? logarithmic(traces) : { type: "linear", exponentformat: "power" },
    }));
    plot.on("plotly_hover", (event) => together(plot, event.points[0].x));
    plot.on("plotly_unhover", () => together(plot, null));
    plot.on("plotly_relayout", (change) => zoomed(plot, change));
  }
  function logarithmic(traces) { // 0 has no place on it; over one to three decades the ticks are 1, 2, 5, ...
    traces.forEach((trace) => { trace.y = trace.y.map((y) => (y > 0 ? y : null)); });
    const known = traces.flatMap((trace) => trace.y.filter((y) => y !== null));
    const low = Math.min(...known), high = Math.max(...known);
    if (!(high / low > 6 && high / low < 1000)) return { type: "log", exponentformat: "power" };
    const tickvals = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e += 1) tickvals.push(...[1, 2, 5].map((digit) => +`${digit}e${e}`));
    return { type: "log", tickvals, ticktext: tickvals.map(String) };
  }
  function labelsBeside(figure) { // of all charts of a section, so that a label has one colour in them
    const charts = all(".chart[data-study]", figure.parentElement).map((other) => data.studies[other.dataset.study]);
    return [...new Set(charts.flatMap((chart) => chart.lines.map((line) => line.label)))];
  }
  function drawStudy(figure) {
    const chart = data.studies[figure.dataset.study], labels = labelsBeside(figure);
    const traces = chart.lines.flatMap((line) => band(
      line.label, markOf(labels.indexOf(line.label)), line.x, line.mean, line.low, line.high, line.n));
    render(figure.querySelector(".plot"), traces, layout({
      xaxis: { title: { text: chart.x_title, standoff: 6 }, type: chart.x_log ? "log" : "linear" },
      yaxis: { title: { text: chart.y_title }, type: chart.y_log ? "log" : "linear" },
      legend: { orientation: "h", y: -0.3, font: { size: 10 }, traceorder: "normal" },
    }));
  }
  function render(plot, traces, shape) {
    plot.replaceChildren();
    plot.classList.remove("empty");
    if (plot.removeAllListeners) plot.removeAllListeners();
    Plotly.newPlot(plot, traces, shape, CONFIG);
  }
  function empty(plot, text) {
    Plotly.purge(plot);
    plot.classList.add("empty");
    plot.textContent = text;
  }

  // ---- Heat maps: panels of layers against steps, one colour scale
  function drawHeat(figure) {
    const run = data.runs[+figure.dataset.run], heat = run.heats[+figure.dataset.heat];
    const plot = figure.querySelector(".plot");
    const columns = Math.max(1, Math.min(4, Math.floor(plot.clientWidth / 270)));
    const ROW = 13, HEAD = 22, FOOT = 16, LEFT = 96;
    const bands = [];
    for (let i = 0; i < heat.panels.length; i += columns) bands.push(heat.panels.slice(i, i + columns));
    const heights = bands.map((panels) => HEAD + FOOT + ROW * Math.max(...panels.map((panel) => panel.rows.length)));
    const octave = Math.ceil(reach(heat) / 3), ticks = [-3, -2, -1, 0, 1, 2, 3].map((tick) => tick * octave);
    const legend = 58, total = heights.reduce((a, b) => a + b, 0) + legend;
    const shape = layout({
      height: total, margin: { l: 4, r: 4, t: 0, b: 0 }, showlegend: false, hovermode: "closest", annotations: [],
      coloraxis: {
        cmin: ticks[0], cmax: ticks[6], colorscale: [[0, colour("--low")], [0.5, colour("--middle")], [1, colour("--high")]],
        colorbar: {
          orientation: "h", y: 1, yanchor: "top", x: 0, xanchor: "left", thickness: 10, len: Math.min(1, 420 / plot.clientWidth),
          tickvals: ticks, ticktext: ticks.map((tick) => (tick < 0 ? "1/" : "") + (2 ** Math.abs(tick)).toLocaleString("en")),
          title: { text: heat.unit, side: "top", font: { size: 12 } },
        },
      },
    });
    delete shape.xaxis; delete shape.yaxis;
    const traces = [];
    let top = legend, number = 0;
    const x = onAxis(run, heat.steps);
    bands.forEach((panels, b) => {
      panels.forEach((panel, c) => {
        number += 1;
        const id = number === 1 ? "" : number, width = plot.clientWidth;
        const left = (c * width / columns + LEFT) / width, right = ((c + 1) * width / columns - 6) / width;
        const from = 1 - (top + HEAD) / total, to = from - ROW * panel.rows.length / total;
        const style = { gridcolor: "rgba(0,0,0,0)", zeroline: false, tickfont: { size: 9 }, fixedrange: true };
        shape["xaxis" + id] = { ...style, domain: [left, right], anchor: "y" + id, nticks: 4, ticks: "" };
        shape["yaxis" + id] = {
          ...style, domain: [to, from], anchor: "x" + id, autorange: "reversed", type: "category",
          tickvals: panel.rows.map((_, i) => i), ticktext: panel.rows.map(shortened), nticks: panel.rows.length,
        };
        shape.annotations.push({
          text: "<b>" + panel.title + "</b>", x: left, y: from, xref: "paper", yref: "paper", xanchor: "left",
          yanchor: "bottom", showarrow: false, font: { size: 11 },
        });
        traces.push({
          type: "heatmap", x: x.length ? x : heat.steps, y: panel.rows, z: panel.log2_RxT, coloraxis: "coloraxis",
          xaxis: "x" + id, yaxis: "y" + id, hoverongaps: false, customdata: panel.log2_RxT.map((row) => row.map(factor)),
          hovertemplate: "%{y}, " + AXIS_TITLES[x.length ? state.axis : "steps"] + " %{x}: %{customdata}<extra></extra>",
        });
      });
      top += heights[b];
    });
    plot.style.height = total + "px";
    render(plot, traces, { ...shape, plot_bgcolor: colour("--absent") });
  }
  function reach(heat) {
    const known = heat.panels.flatMap((panel) => panel.log2_RxT.flat()).filter((value) => value !== null);
    const sizes = known.map(Math.abs).sort((a, b) => a - b);
    return Math.max(HEAT_RANGE, sizes[Math.floor(0.95 * (sizes.length - 1))] || 0);
  }
  const factor = (log2) => (log2 === null ? "" : log2 >= 0 ? "x" + (2 ** log2).toPrecision(3) : "/" + (2 ** -log2).toPrecision(3));
  const shortened = (name) => {
    const layer = name.match(/^[^ ]*?_(\d+)$/);
    return layer ? layer[1] : name.length > 17 ? "…" + name.slice(-16) : name;
  };

  // ---- Charts that act together
  let following = false;
  const drawn = () => all(".chart[data-metric] .plot").filter((plot) => plot.data && plot.offsetParent);
  function together(source, x) {
    if (following) return;
    following = true;
    drawn().filter((plot) => plot !== source).forEach((plot) => {
      if (x === null) Plotly.Fx.unhover(plot); else Plotly.Fx.hover(plot, { xval: +x }, ["xy"]);
    });
    following = false;
  }
  function zoomed(source, change) {
    if (following) return;
    const range = change["xaxis.autorange"] ? { "xaxis.autorange": true }
      : "xaxis.range[0]" in change ? { "xaxis.range": [change["xaxis.range[0]"], change["xaxis.range[1]"]] } : null;
    if (!range) return;
    following = true;
    Promise.all(drawn().filter((plot) => plot !== source).map((plot) => Plotly.relayout(plot, range)))
      .finally(() => { following = false; });
  }

  // ---- Controls
  function drawToggles() {
    byId("runs").replaceChildren(...toggles().map((label, index) => {
      const toggle = button("", "Show or hide in all charts", () => {
        state.hidden = state.hidden.includes(label) ? state.hidden.filter((other) => other !== label) : [...state.hidden, label];
        draw();
      });
      toggle.innerHTML = label; // escaped by page/html.py
      toggle.style.setProperty("--mark", markOf(index).color);
      toggle.setAttribute("aria-pressed", String(!state.hidden.includes(label)));
      return toggle;
    }));
  }
  function hideOthers() {
    const shown = new Set(visible());
    all("[data-run]").forEach((element) => { element.hidden = !shown.has(+element.dataset.run); });
    if (!state.seeds) return;
    // of several seeds the first one's heat maps stand for all
    const seen = new Set();
    all(".heat").forEach((figure) => {
      const key = data.runs[+figure.dataset.run].group + " " + figure.dataset.heat;
      if (figure.hidden || seen.has(key)) figure.hidden = true; else seen.add(key);
    });
  }
  function draw() {
    root.dataset.theme = state.theme;
    byId("axis").value = state.axis;
    byId("smoothing").value = state.smoothing;
    byId("smoothing-shown").value = state.smoothing;
    byId("seeds").checked = state.seeds;
    byId("seeds-control").hidden = !SEEDED;
    drawToggles();
    hideOthers();
    all(".chart[data-metric]").forEach(drawCurves);
    all(".chart[data-study]").forEach(drawStudy);
    all(".heat").filter((figure) => !figure.hidden).forEach(drawHeat);
    keep();
  }
  function button(text, title, act) {
    const made = document.createElement("button");
    Object.assign(made, { type: "button", textContent: text, title });
    made.addEventListener("click", () => act(made));
    return made;
  }
  function chartButtons() {
    all("figure").forEach((figure) => {
      const metric = figure.dataset.metric, buttons = document.createElement("div");
      if (metric && data.charts[metric].log) {
        const scale = () => (state.linear[metric] ? "linear" : "log");
        buttons.append(button(scale(), "Scale of the vertical axis", (made) => {
          state.linear[metric] = !state.linear[metric];
          made.textContent = scale();
          drawCurves(figure);
          keep();
        }));
      }
      buttons.append(button("PNG", "Save this chart as a picture", () => {
        const filename = figure.querySelector("figcaption").firstChild.textContent.trim();
        Plotly.downloadImage(figure.querySelector(".plot"), { format: "png", scale: 2, filename });
      }));
      figure.querySelector("figcaption").append(buttons);
    });
  }

  byId("axis").addEventListener("change", (event) => { state.axis = event.target.value; draw(); });
  byId("smoothing").addEventListener("input", (event) => { state.smoothing = +event.target.value; draw(); });
  byId("seeds").addEventListener("change", (event) => { state.seeds = event.target.checked; state.hidden = []; draw(); });
  byId("theme").addEventListener("click", () => { state.theme = state.theme === "dark" ? "light" : "dark"; draw(); });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    all(".heat").filter((figure) => !figure.hidden).forEach(drawHeat);
  });
  const theme = state.theme;
  function printed(paper, colours) { // charts are drawn for the width that they have on paper
    document.documentElement.classList.toggle("paper", paper);
    state.theme = colours;
    draw();
  }
  addEventListener("beforeprint", () => printed(true, "light"));
  addEventListener("afterprint", () => printed(false, theme));
  if (!data.runs.length) all(".runs, .controls label").forEach((element) => { element.hidden = true; });
  chartButtons();
  draw();
})();
