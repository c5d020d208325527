/* Charts: from the plain lists that page.py embeds to Plotly figures. Exposes `Charts`. */
"use strict";
const Charts = (() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const SVG_DASHES = { solid: "", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "10 3", longdashdot: "10 2 2 2" };
  const nonce = document.currentScript.nonce;
  const hidden = new Set();
  const charts = [];
  let smoothing = 0.8;

  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const color = (arm) => ink(`--arm-${arm % 8}`);
  // Up to four arms colour is enough; beyond that lines also differ in their dashes.
  const dash = (arm) => (data.arms.length > 4 ? DASHES[arm % 4] : "solid");
  const svgDash = (arm) => SVG_DASHES[dash(arm)];
  // Several metrics in one chart: colours tell them apart, or dashes where colours tell the arms apart.
  const labelsOf = (series) => [...new Set(series.map((one) => one.label).filter(Boolean))];
  const isByColor = (one) => one.label && data.arms.length === 1;
  const lineColor = (one, labels) => color(isByColor(one) ? labels.indexOf(one.label) : one.arm);
  const lineDash = (one, labels) => (!one.label ? dash(one.arm) : isByColor(one) ? "solid" : DASHES[labels.indexOf(one.label) % DASHES.length]);
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faded = (hex, alpha) => hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
  const shown = (items) => items.filter((item) => !hidden.has(item.arm));
  const armName = (arm) => data.arms[arm].name;

  function smooth(values) {
    if (!smoothing) return values;
    let average = 0, weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      average = smoothing * average + (1 - smoothing) * value;
      weight = smoothing * weight + (1 - smoothing);
      return average / weight;
    });
  }

  function format(value, percent) {
    if (value === null || value === undefined) return "–";
    if (percent) return (100 * value).toFixed(1) + " %";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    return value.toFixed(size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3).replace("-", "−");
  }

  function layout(extra) {
    const axis = {
      gridcolor: ink("--grid"), linecolor: ink("--line"), zerolinecolor: ink("--line"),
      tickcolor: ink("--line"), automargin: true, ticklabeloverflow: "allow",
    };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: ink("--sans"), size: 11.5, color: ink("--muted") },
      margin: { l: 44, r: 14, t: 8, b: 34 }, showlegend: false, hovermode: "x unified",
      hoverlabel: {
        bgcolor: ink("--surface"), bordercolor: ink("--line"), font: { color: ink("--ink"), size: 12 },
      },
      xaxis: { ...axis, ...extra.xaxis }, yaxis: { ...axis, ...extra.yaxis },
    };
    for (const one of [base.xaxis, base.yaxis]) one.title = { text: one.title || "", standoff: 4, font: { size: 11.5 } };
    return { ...base, ...extra, xaxis: base.xaxis, yaxis: base.yaxis };
  }

  function lineTraces(series, percent) {
    const traces = [], labels = labelsOf(series);
    for (const one of shown(series)) {
      const line = lineColor(one, labels);
      const name = armName(one.arm) + (one.label ? `, ${one.label}` : "");
      const pattern = lineDash(one, labels);
      const few = one.y.filter((value) => value !== null).length <= 15, raw = few || one.exact;
      if (one.low) {
        const keep = one.x.map((_, i) => i).filter((i) => one.low[i] !== null);
        const edge = { mode: "lines", line: { width: 0 }, hoverinfo: "skip", x: keep.map((i) => one.x[i]) };
        const drawn = (values) => { const all = raw ? values : smooth(values); return keep.map((i) => all[i]); };
        traces.push({ ...edge, y: drawn(one.low) });
        traces.push({ ...edge, y: drawn(one.high), fill: "tonexty", fillcolor: faded(line, 0.16) });
      }
      if (smoothing && !raw) {
        traces.push({ x: one.x, y: one.y, mode: "lines", line: { width: 1, color: faded(line, 0.3) }, hoverinfo: "skip", connectgaps: true });
      }
      traces.push({
        x: one.x, y: raw ? one.y : smooth(one.y), name, mode: few ? "lines+markers" : "lines", meta: "main",
        marker: { size: 5, color: line }, line: { width: 1.8, color: line, dash: pattern },
        connectgaps: true, // some metrics are not measured in every step
        text: one.y.map((value, i) => {
          const range = one.low ? ` (${format(one.low[i], percent)} to ${format(one.high[i], percent)})` : "";
          return format(value, percent) + range;
        }),
        hovertemplate: `%{text}<extra>${escape(name)}</extra>`,
      });
    }
    return traces;
  }

  // Plotly reads a little HTML in names; arms are named by configs, so nothing may pass as a tag.
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/%/g, "&#37;");

  function lines(spec) {
    const shapes = [], annotations = [];
    if (spec.line) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: spec.line.value, y1: spec.line.value,
        line: { width: 1.2, dash: "4px,3px", color: ink("--expert") } });
      annotations.push({ xref: "paper", x: 1, xanchor: "right", y: spec.line.value, yanchor: "bottom",
        text: spec.line.label, showarrow: false, font: { size: 11, color: ink("--expert") } });
    }
    const yaxis = { tickformat: spec.percent ? ".0%" : "", nticks: 6 };
    const values = spec.series.flatMap((one) => [...one.y, ...(one.low || []), ...(one.high || [])]).filter((v) => v !== null);
    if (spec.line) values.push(spec.line.value);
    // An open band is only drawn where the values are: its far edge would flatten them.
    if (spec.band && !spec.band.includes(null)) values.push(...spec.band);
    const low = Math.min(...values), high = Math.max(...values), pad = (high - low || Math.abs(high) || 1) * 0.07;
    yaxis.range = [low - pad, high + pad];
    if (spec.band) {
      const [from, to] = spec.band;
      shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: from ?? low - pad, y1: Math.min(to ?? Infinity, high + pad),
        fillcolor: ink("--sane"), line: { width: 0 }, layer: "below" });
    }
    const last = Math.max(...spec.series.flatMap((one) => one.x.slice(-1)));
    return [lineTraces(spec.series, spec.percent),
      layout({ shapes, annotations, yaxis, xaxis: { title: "step", nticks: 7, dtick: last <= 8 ? 1 : null } })];
  }

  // Later rollouts are stronger, so that a drift shows.
  function scatter(spec) {
    const steps = spec.arms.flatMap((one) => one.step), last = Math.max(...steps), first = Math.min(...steps);
    const traces = shown(spec.arms).map((one) => ({
      x: one.x, y: one.y, mode: "markers", type: "scatter", meta: "main", name: armName(one.arm),
      marker: { size: 6, color: color(one.arm), opacity: one.step.map((step) => 0.2 + 0.6 * (last > first ? (step - first) / (last - first) : 1)), line: { width: 0 } },
      customdata: one.step, hovertemplate: `${escape(armName(one.arm))}, step %{customdata}: %{x} words, reward %{y}<extra></extra>`,
    }));
    return [traces, layout({ hovermode: "closest", xaxis: { title: "words of a rollout", rangemode: "tozero", nticks: 7 }, yaxis: { nticks: 6 } })];
  }

  function histogram(spec) {
    const middles = spec.edges.slice(1).map((edge, i) => (edge + spec.edges[i]) / 2);
    const step = (values, name, line, fill) => ({
      x: spec.edges, y: [...values, values[values.length - 1]], name, mode: "lines", meta: "main",
      line: { shape: "hv", ...line }, fill: fill ? "tozeroy" : "none", fillcolor: fill,
      text: values.map((value) => format(value, true)), hovertemplate: `%{text}<extra>${escape(name)}</extra>`,
    });
    const traces = [step(spec.expert, "expert", { width: 1, color: ink("--expert") }, faded(ink("--expert"), 0.22))];
    const single = spec.arms.length === 1;
    for (const one of shown(spec.arms)) {
      if (single && one.before.length) traces.push(step(one.before, "before", { width: 1.5, color: ink("--before"), dash: "3px,2px" }));
      traces.push(step(one.after, single ? "after" : armName(one.arm), { width: 2, color: color(one.arm), dash: dash(one.arm) }));
    }
    return [traces, layout({
      xaxis: { title: spec.unit, range: [spec.edges[0], spec.edges[middles.length]] },
      yaxis: { title: "share of answers", tickformat: ".0%", rangemode: "tozero", nticks: 6 },
    })];
  }

  const KINDS = { lines, scatter, histogram };

  // A dashed line and what it stands for.
  function key(label, pattern) {
    const item = document.createElement("span");
    item.className = "key-line";
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", 26);
    svg.setAttribute("height", 8);
    const line = document.createElementNS(svg.namespaceURI, "line");
    for (const [name, value] of Object.entries({ x1: 0, y1: 4, x2: 26, y2: 4, stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": SVG_DASHES[pattern] })) line.setAttribute(name, value);
    svg.append(line);
    item.append(svg, " " + label);
    return item;
  }

  // One line under a title that says what a pointer would; of many arms the colours at the top and the pointer do.
  const MAX_TOLD = 6;
  function summary(spec, box) {
    const items = [];
    const say = (swatch, text, name) => {
      const item = document.createElement("span"), mark = document.createElement("b");
      mark.className = "swatch";
      mark.style.background = swatch;
      item.title = name;
      item.append(mark, text);
      items.push(item);
    };
    const error = (value, percent) => (value ? ` ± ${format(value, percent)}` : "");
    const arrow = (value, text) => (value === null || value === undefined ? "" : `${text} → `);
    if (spec.kind !== "lines") {
      for (const one of shown(spec.arms)) {
        if (spec.kind === "histogram") say(color(one.arm), `W1 ${arrow(one.w1_before, format(one.w1_before))}${format(one.w1_after)}`, armName(one.arm));
        else if (one.correlation !== null) say(color(one.arm), `correlation ${format(one.correlation)}${error(one.error)}`, armName(one.arm));
      }
    } else {
      const labels = labelsOf(spec.series);
      if (data.arms.length > 1) items.push(...labels.map((label, i) => key(label, DASHES[i % DASHES.length])));
      for (const one of shown(spec.series)) {
        const { first, last, error: spread } = one.ends;
        if (last === null || (data.arms.length > 1 && one.label)) continue;
        const start = data.arms.length > 2 ? "" : arrow(first, format(first, spec.percent));
        say(lineColor(one, labels), `${one.label ? one.label + " " : ""}${start}${format(last, spec.percent)}${error(spread, spec.percent)}`, armName(one.arm));
      }
    }
    box.replaceChildren(...(items.length > MAX_TOLD ? [] : items));
  }

  // Plotly's 5 MB take their time to run. The page is readable before, so they wait until it is painted.
  const plotly = new Promise((resolve) => {
    const run = () => {
      const script = document.createElement("script");
      script.nonce = nonce;
      script.textContent = document.getElementById("plotly-source").textContent;
      document.head.append(script);
      resolve();
    };
    addEventListener("load", () => requestAnimationFrame(() => setTimeout(run, 30)));
  });

  function draw(chart) {
    const [traces, figure] = KINDS[chart.spec.kind](chart.spec);
    Plotly.react(chart.plot, traces, figure, { displayModeBar: false, responsive: true });
    // Plotly forgoes a chart that was folded while the window changed.
    if (chart.plot.querySelector(".main-svg").clientWidth !== chart.plot.clientWidth) Plotly.Plots.resize(chart.plot);
    summary(chart.spec, chart.summary);
    setStale(chart, false);
  }

  // A stale chart, as all are at first, is drawn when it comes near; until then it is busy, also to a screen reader.
  function setStale(chart, isStale) {
    chart.stale = isStale;
    chart.plot.setAttribute("aria-busy", String(isStale));
  }

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((one) => one.plot === entry.target);
      chart.near = entry.isIntersecting;
      if (chart.near) plotly.then(() => { if (chart.near && chart.stale) draw(chart); });
    }
  }, { rootMargin: "300px" });

  // Walk along a focused chart with the arrow keys: Plotly's hover, without a pointer.
  function walk(chart, event) {
    if (!["ArrowLeft", "ArrowRight", "Escape"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") return Plotly.Fx.unhover(chart.plot);
    const traces = chart.plot.data.map((trace, i) => [trace, i]).filter(([trace]) => trace.meta === "main");
    if (!traces.length) return;
    const count = traces[0][0].x.length, move = event.key === "ArrowRight" ? 1 : -1;
    const stride = Math.max(1, Math.round(count / 60));
    chart.at = chart.at === undefined ? (move > 0 ? 0 : count - 1) : Math.min(count - 1, Math.max(0, chart.at + move * stride));
    Plotly.Fx.hover(chart.plot, traces.map(([, i]) => ({ curveNumber: i, pointNumber: chart.at })));
  }

  function add(parent, spec) {
    const make = (tag, name, text) => {
      const element = document.createElement(tag);
      element.className = name;
      if (text) element.textContent = text;
      return element;
    };
    const figure = make("figure", "chart"), head = make("div", "chart-head");
    const title = make("h3", spec.isName ? "name" : "", spec.title);
    const chart = { spec, plot: make("div", "plot"), summary: make("div", "summary") };
    figure.dataset.title = spec.title;
    setStale(chart, true);
    chart.plot.tabIndex = 0;
    chart.plot.setAttribute("role", "group");
    chart.plot.setAttribute("aria-label", `Chart of ${spec.title}`);
    if (spec.height) chart.plot.style.height = spec.height + "px";
    head.append(title, chart.summary);
    figure.append(head, chart.plot);
    const scale = [spec.unit, spec.better].filter(Boolean).join(", ");
    if (scale) title.append(make("small", "", scale));
    if (spec.definition) figure.append(make("figcaption", "", spec.definition));
    parent.append(figure);
    chart.plot.addEventListener("keydown", (event) => walk(chart, event));
    charts.push(chart);
    observer.observe(chart.plot);
  }

  addEventListener("resize", () => { for (const chart of charts) if (!chart.near) setStale(chart, true); });

  function refresh() {
    for (const chart of charts) {
      if (chart.stale) continue;
      if (chart.near) draw(chart); else setStale(chart, true);
    }
  }

  return {
    data, add, refresh, color, svgDash, isDark, format, hidden,
    setSmoothing: (value) => { smoothing = value; refresh(); },
    // Before paper: what is open is drawn now, however far from the window.
    drawAll: () => plotly.then(() => { for (const chart of charts) if (chart.plot.checkVisibility()) draw(chart); }),
  };
})();
