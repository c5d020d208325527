/* The page: puts charts where the template wants them; arms, smoothing, theme, folds and paper. */
"use strict";
(() => {
  const data = Charts.data;
  const metric = (name) => ({ kind: "lines", title: name, isName: true, ...data.metrics[name] });
  // Several metrics in one chart; a chart may be about some of the arms only.
  const joined = (chart) => {
    const series = ([name, label]) => data.metrics[name].series
      .filter((one) => !chart.arms || chart.arms.includes(one.arm))
      .map((one) => ({ ...one, label: chart.metrics.length > 1 ? label : "" }));
    const meaning = ([name, label]) => `${label && chart.metrics.length > 1 ? label : name}: ${data.metrics[name].definition}`;
    return { kind: "lines", ...chart, band: chart.band, line: chart.line,
      definition: chart.definition || chart.metrics.map(meaning).join(" "), series: chart.metrics.flatMap(series) };
  };
  const evaluation = (spec) => ({ kind: "lines", ...spec });
  const BUILDERS = {
    open: () => {
      const [evaluations, steps] = [data.evaluations.slice(0, data.num_open).map(evaluation), data.telling.map(joined)];
      const scatter = data.scatter ? [{ kind: "scatter", ...data.scatter, definition: "Logged rollouts, the later the stronger; the correlation is Pearson's. A reward that rises with length may be paid for length." }] : [];
      return [...evaluations, ...steps.slice(0, 2), ...scatter, ...steps.slice(2)];
    },
    evaluations: () => data.evaluations.map(evaluation),
    group: (box) => data.groups[box.dataset.group].metrics.map(metric),
    distributions: () => {
      const lines = data.arms.length === 1 ? "Dashed: policy before. Solid: policy after." : "Lines: policies after training.";
      const key = (unit) => `Filled: expert. ${lines} Above: W1 to the expert before → after, ${unit}. The outer bins hold what lies beyond.`;
      const specs = [];
      if (data.lengths) specs.push({ kind: "histogram", title: "Completion length", height: 270, ...data.lengths,
        definition: key(data.lengths.unit) });
      if (data.logprobs) specs.push({ kind: "histogram", title: "Log-prob per token under the policy", height: 270, ...data.logprobs,
        definition: `${key(data.logprobs.unit)} The expert's answers are scored by the policy that is compared; drawn: by the trained one.` });
      if (data.base_logprobs) specs.push({ kind: "histogram", title: "Log-prob per token under the model before training", height: 270, ...data.base_logprobs,
        definition: `${key(data.base_logprobs.unit)} One judge for all: how likely the model before training finds the answers and the expert's.` });
      return specs;
    },
    gradients: () => data.gradients.map(joined),
    health: () => data.health.map(joined),
  };

  function fill(box) {
    if (box.dataset.filled) return;
    box.dataset.filled = "yes";
    for (const spec of BUILDERS[box.dataset.charts](box)) Charts.add(box, spec);
  }

  function paintSwatches() {
    for (const line of document.querySelectorAll("[data-swatch]")) {
      line.setAttribute("stroke", Charts.color(+line.dataset.swatch));
      line.setAttribute("stroke-width", "2.5");
      line.setAttribute("stroke-dasharray", Charts.svgDash(+line.dataset.swatch));
    }
  }

  function repaint() {
    const name = document.getElementById("theme-name");
    name.textContent = Charts.isDark() ? "Dark" : "Light";
    paintSwatches();
    Charts.refresh();
  }

  document.getElementById("theme").addEventListener("click", () => {
    const next = Charts.isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("uniapl-theme", next); } catch (_) { /* a file may have no storage */ }
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  function showArms() {
    Charts.hidden.clear();
    for (const box of document.querySelectorAll("#arms input")) if (!box.checked) Charts.hidden.add(+box.value);
    for (const row of document.querySelectorAll("[data-arm]")) row.hidden = Charts.hidden.has(+row.dataset.arm);
    Charts.refresh();
    document.dispatchEvent(new Event("arms"));
  }
  const arms = document.getElementById("arms");
  if (arms) {
    arms.addEventListener("change", showArms);
    for (const [id, checked] of [["all-arms", true], ["no-arms", false]]) {
      document.getElementById(id).addEventListener("click", () => {
        for (const box of arms.querySelectorAll("input")) box.checked = checked;
        showArms();
      });
    }
  }

  document.getElementById("smoothing").addEventListener("change", (event) => Charts.setSmoothing(+event.target.value));

  // A link to a folded section unfolds it.
  function unfold() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS" && !target.open) { target.open = true; target.scrollIntoView(); }
  }
  addEventListener("hashchange", unfold);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("a[href^='#']")) setTimeout(unfold);
  });

  // Paper is white, and cannot unfold.
  let before = null;
  addEventListener("beforeprint", () => {
    const folds = [...document.querySelectorAll("details[data-print]:not(#metrics):not([open])")];
    before = { folds, theme: document.documentElement.dataset.theme };
    for (const fold of folds) fold.open = true;
    fillOpen();
    document.documentElement.dataset.theme = "light";
    repaint();
    Charts.drawAll();
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    for (const fold of before.folds) fold.open = false;
    document.documentElement.dataset.theme = before.theme;
    before = null;
    repaint();
  });

  for (const fold of document.querySelectorAll("details")) {
    fold.addEventListener("toggle", () => { if (fold.open) fillOpen(); });
  }

  function fillOpen() {
    document.querySelectorAll("[data-charts]").forEach((box) => { if (!box.closest("details:not([open])")) fill(box); });
  }
  fillOpen();
  repaint();
  unfold();
})();
