/* Charts: from the plain lists that page.py embeds to Plotly figures. Exposes `Charts`. */
"use strict";
const Charts = (() => {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  // Okabe and Ito's colours, made darker or lighter for their ground; order by contrast of neighbours.
  const PALETTE = {
    light: ["#0067a8", "#c8500a", "#00805e", "#a8468a", "#8f6a00", "#3d8fc7", "#7d2248", "#5b6068"],
    dark: ["#58aef0", "#ff9457", "#38c9a2", "#e88fcb", "#e3b53f", "#a9d8ff", "#e07a9f", "#b9bfc7"],
  };
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const SVG_DASHES = { solid: "", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "10 3", longdashdot: "10 2 2 2" };
  const nonce = document.currentScript.nonce;
  const hidden = new Set();
  const charts = [];
  let smoothing = 0;

  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const color = (arm) => PALETTE[isDark() ? "dark" : "light"][arm % 8];
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
      const few = one.y.filter((value) => value !== null).length <= 15;
      if (one.low) {
        const keep = one.x.map((_, i) => i).filter((i) => one.low[i] !== null);
        const edge = { mode: "lines", line: { width: 0 }, hoverinfo: "skip", x: keep.map((i) => one.x[i]) };
        traces.push({ ...edge, y: keep.map((i) => one.low[i]) });
        traces.push({ ...edge, y: keep.map((i) => one.high[i]), fill: "tonexty", fillcolor: faded(line, 0.16) });
      }
      if (smoothing && !one.low && !few) {
        traces.push({ x: one.x, y: one.y, mode: "lines", line: { width: 1, color: faded(line, 0.3) }, hoverinfo: "skip" });
      }
      traces.push({
        x: one.x, y: few ? one.y : smooth(one.y), name, mode: few ? "lines+markers" : "lines", meta: "main",
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
    if (spec.band) {
      shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: spec.band[0], y1: spec.band[1],
        fillcolor: ink("--sane"), line: { width: 0 }, layer: "below" });
    }
    if (spec.line) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: spec.line.value, y1: spec.line.value,
        line: { width: 1.2, dash: "4px,3px", color: ink("--expert") } });
      annotations.push({ xref: "paper", x: 1, xanchor: "right", y: spec.line.value, yanchor: "bottom",
        text: spec.line.label, showarrow: false, font: { size: 11, color: ink("--expert") } });
    }
    const yaxis = { tickformat: spec.percent ? ".0%" : "", nticks: 6 };
    const values = spec.series.flatMap((one) => [...one.y, ...(one.low || []), ...(one.high || [])]).filter((v) => v !== null);
    for (const edge of [...(spec.band || []), ...(spec.line ? [spec.line.value] : [])]) values.push(edge);
    const low = Math.min(...values), high = Math.max(...values), pad = (high - low || Math.abs(high) || 1) * 0.07;
    yaxis.range = [low - pad, high + pad];
    const last = Math.max(...spec.series.flatMap((one) => one.x.slice(-1)));
    return [lineTraces(spec.series, spec.percent),
      layout({ shapes, annotations, yaxis, xaxis: { title: "step", nticks: 7, dtick: last <= 8 ? 1 : null } })];
  }

  function points(spec) {
    const visible = shown(spec.points);
    if (!visible.length) return [[], layout({})];
    const rows = visible.map((point) => armName(point.arm));
    const shapes = [["base", "--before", "solid"], ["expert", "--expert", "4px,3px"]]
      .filter(([key]) => spec[key] !== null)
      .map(([key, name, pattern]) => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: spec[key], x1: spec[key], layer: "between",
        line: { width: 1.5, color: ink(name), dash: pattern } }));
    const trace = {
      x: visible.map((point) => point.value), y: rows.map((_, i) => i), mode: "markers", type: "scatter", meta: "main",
      marker: { size: 10, color: visible.map((point) => color(point.arm)) },
      error_x: { type: "data", array: visible.map((p) => p.error || 0), thickness: 1.5, width: 0, color: ink("--muted") },
      text: visible.map((p) => `${format(p.value, spec.percent)}${p.error ? " ± " + format(p.error, spec.percent) : ""}`),
      customdata: rows.map(escape), hovertemplate: "%{customdata}: %{text}<extra></extra>",
    };
    const edges = visible.flatMap((p) => [p.value - (p.error || 0), p.value + (p.error || 0)]);
    for (const key of ["base", "expert"]) if (spec[key] !== null) edges.push(spec[key]);
    const low = Math.min(...edges), high = Math.max(...edges), pad = (high - low || 1) * 0.06;
    return [[trace], layout({
      hovermode: "closest", shapes,
      xaxis: { range: [low - pad, high + pad], tickformat: spec.percent ? ".0%" : "", nticks: 6, zeroline: false,
        title: spec.percent ? "" : spec.unit },
      yaxis: { tickvals: rows.map((_, i) => i), ticktext: rows.map(escape), range: [rows.length - 0.5, -0.5], showgrid: false, zeroline: false },
    })];
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

  function instructions(spec) {
    const rows = spec.ids.map((_, i) => i), visible = shown(spec.arms), traces = [], shapes = [];
    const single = spec.arms.length === 1;
    const marks = (name, x, marker, text) => ({
      x, y: rows, name, mode: "markers", marker, text, meta: "main", cliponaxis: false,
      customdata: spec.ids.map((id, i) => `${escape(id)} (n = ${spec.n[i]})`),
      hovertemplate: `%{customdata}<br>${escape(name)}: %{text}<extra></extra>`,
    });
    const percents = (values) => values.map((value) => format(value, true));
    if (single && visible.length) {
      rows.forEach((row) => {
        const [from, to] = [spec.base[row], visible[0].strict[row]];
        if (from !== null && to !== null) {
          shapes.push({ type: "line", x0: from, x1: to, y0: row, y1: row, layer: "between",
            line: { width: 4, color: faded(color(visible[0].arm), 0.3) } });
        }
      });
    }
    traces.push(marks("expert", spec.expert, { symbol: "line-ns-open", size: 13, color: ink("--expert"), line: { width: 2 } }, percents(spec.expert)));
    traces.push(marks("before", spec.base, { symbol: "circle-open", size: 8, color: ink("--before"), line: { width: 2 } }, percents(spec.base)));
    visible.forEach((one) => {
      const text = one.strict.map((value, i) => `${format(value, true)}, loose ${format(one.loose[i], true)}`);
      traces.push(marks(single ? "after" : armName(one.arm), one.strict, { size: 10, color: color(one.arm), opacity: 0.92 }, text));
    });
    return [traces, layout({
      hovermode: "closest", shapes, margin: { l: 44, r: 14, t: 26, b: 30 },
      xaxis: { range: [-0.02, 1.02], tickformat: ".0%", side: "top", zeroline: false },
      yaxis: { tickvals: rows, ticktext: spec.ids.map((id, i) => `${escape(id)}  <span style="opacity:.6">${spec.n[i]}</span>`),
        range: [rows.length - 0.4, -0.6], zeroline: false },
    })];
  }

  const KINDS = { lines, points, histogram, instructions };

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

  // One line under a title that says what a pointer would: the last value of every arm.
  function summary(spec, box) {
    box.hidden = !["lines", "histogram"].includes(spec.kind);
    const items = [];
    const say = (arm, text, ink = color(arm)) => {
      const item = document.createElement("span");
      item.style.color = ink;
      item.title = armName(arm);
      item.textContent = text;
      items.push(item);
    };
    if (spec.kind === "histogram") {
      for (const one of shown(spec.arms)) {
        const before = one.w1_before === null ? "" : format(one.w1_before) + " → ";
        say(one.arm, `${data.arms.length > 1 ? armName(one.arm) : "W1"} ${before}${format(one.w1_after)}`);
      }
    } else if (spec.kind === "lines") {
      const labels = labelsOf(spec.series);
      if (data.arms.length > 1) items.push(...labels.map((label, i) => key(label, DASHES[i % DASHES.length])));
      for (const one of shown(spec.series)) {
        const known = one.y.filter((value) => value !== null);
        if (!known.length) continue;
        if (data.arms.length > 1 && one.label) continue;
        const last = format(known[known.length - 1], spec.percent), label = one.label ? one.label + " " : "";
        say(one.arm, data.arms.length > 1 ? last : `${label}${format(known[0], spec.percent)} → ${last}`, lineColor(one, labels));
      }
    }
    box.replaceChildren(...items);
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
    const title = make("h4", spec.isName ? "name" : "", spec.title);
    const chart = { spec, plot: make("div", "plot"), summary: make("div", "summary") };
    setStale(chart, true);
    chart.plot.tabIndex = 0;
    chart.plot.setAttribute("role", "group");
    chart.plot.setAttribute("aria-label", `Chart of ${spec.title}`);
    if (spec.height) chart.plot.style.height = spec.height + "px";
    head.append(title, chart.summary);
    figure.append(head, chart.plot);
    if (spec.definition) figure.append(make("figcaption", "", spec.definition));
    parent.append(figure);
    chart.plot.addEventListener("keydown", (event) => walk(chart, event));
    charts.push(chart);
    observer.observe(chart.plot);
  }

  function refresh() {
    for (const chart of charts) {
      if (chart.stale) continue;
      if (chart.near) draw(chart); else setStale(chart, true);
    }
  }

  return {
    data, add, refresh, color, svgDash, isDark, format, hidden,
    setSmoothing: (value) => { smoothing = value; refresh(); },
  };
})();
