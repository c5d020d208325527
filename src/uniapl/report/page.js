/* The page: puts charts where the template wants them; arms, smoothing and theme. */
"use strict";
(() => {
  const data = Charts.data;
  const metric = (name) => ({ kind: "lines", title: name, isName: true, ...data.metrics[name] });
  // Several metrics in one chart; a chart may be about some of the arms only.
  const joined = (chart) => {
    const series = ([name, label]) => data.metrics[name].series
      .filter((one) => !chart.arms || chart.arms.includes(one.arm))
      .map((one) => ({ ...one, label: chart.metrics.length > 1 ? label : "" }));
    const meaning = ([name, label]) => (label && chart.metrics.length > 1 ? label + ": " : "") + data.metrics[name].definition;
    return { kind: "lines", title: chart.title, band: chart.band, line: chart.line,
      definition: chart.definition || chart.metrics.map(meaning).join(" "), series: chart.metrics.flatMap(series) };
  };
  const BUILDERS = {
    comparison: () => data.comparison.map((spec) => ({ kind: "points", height: 74 + 24 * data.arms.length, ...spec })),
    evaluations: () => Object.values(data.evaluations).map((spec) => ({ kind: "lines", ...spec })),
    headline: () => data.headline.map(metric),
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
    instructions: () => {
      const single = data.arms.length === 1;
      return [{ kind: "instructions", title: "Strict accuracy", height: 70 + 26 * data.instructions.ids.length, ...data.instructions,
        definition: `Ring: before training. ${single ? "Dot: after." : "Dots: arms after training."} Bar: expert, where it is known. Small number: how often the instruction occurs.` }];
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
    for (const dot of document.querySelectorAll("[data-dot]")) {
      dot.style.background = data.arms.length > 1 ? Charts.color(+dot.dataset.dot) : "transparent";
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
    document.getElementById("all-arms").addEventListener("click", () => {
      for (const box of arms.querySelectorAll("input")) box.checked = true;
      showArms();
    });
  }

  document.getElementById("smoothing").addEventListener("change", (event) => Charts.setSmoothing(+event.target.value));
  for (const fold of document.querySelectorAll("details")) {
    fold.addEventListener("toggle", () => { if (fold.open) fold.querySelectorAll("[data-charts]").forEach(fill); });
  }

  document.querySelectorAll("[data-charts]").forEach((box) => { if (!box.closest("details:not([open])")) fill(box); });
  repaint();
})();
