/* The browser of completions. Every text goes in as a text node: what a model wrote is never markup. */
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  if (!byId("samples")) return;
  const list = byId("sample-list"), detail = byId("sample-detail"), filter = byId("sample-text");
  const setBox = byId("sample-set"), stepBox = byId("sample-step"), instructionBox = byId("sample-instruction");
  const outcomeBox = byId("sample-outcome");
  let samples = null, current = null, rows = [], at = 0, lowered = [];

  const text = (index) => (index === null ? "" : samples.texts[index]);
  function make(tag, name, ...children) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children);
    return element;
  }
  const option = (value, label) => { const one = make("option", "", label); one.value = value; return one; };

  // Parsing waits until the reader comes near: the page opens as fast with many runs as with one.
  function start() {
    if (samples) return;
    samples = JSON.parse(byId("sample-data").textContent);
    lowered = new Array(samples.texts.length);
    const groups = new Map();
    samples.sets.forEach((set, index) => {
      if (!groups.has(set.run)) groups.set(set.run, make("optgroup", ""));
      groups.get(set.run).label = set.run;
      groups.get(set.run).append(option(index, set.label));
    });
    setBox.append(...(groups.size > 1 ? groups.values() : [...groups.values()].flatMap((group) => [...group.children])));
    chooseSet();
  }

  function refill(box, values, all) {
    const before = box.value;
    box.replaceChildren(option("", all), ...values.map((value) => option(value, String(value))));
    if (values.map(String).includes(before)) box.value = before;
  }

  function chooseSet() {
    current = samples.sets[+setBox.value || 0];
    const ids = new Set(current.rows.flatMap((row) => row.checks.map((check) => check[0])));
    refill(instructionBox, [...ids].sort(), "all");
    const steps = current.step === null ? [...new Set(current.rows.map((row) => row.step))] : [];
    refill(stepBox, steps.reverse(), "all");
    byId("sample-step-label").hidden = !steps.length;
    apply();
  }

  function contains(index, wanted) {
    if (index === null) return false;
    if (lowered[index] === undefined) lowered[index] = samples.texts[index].toLowerCase();
    return lowered[index].includes(wanted);
  }

  function apply() {
    const wanted = filter.value.trim().toLowerCase(), id = instructionBox.value, step = stepBox.value;
    const outcome = { passed: true, failed: false }[outcomeBox.value];
    rows = current.rows.filter((row) => {
      const checks = id ? row.checks.filter((check) => check[0] === id) : null;
      if (checks && !checks.length) return false;
      // With an instruction chosen, the outcome is that instruction's.
      const passed = checks ? checks.every((check) => check[2]) : row.passed;
      if (outcome !== undefined && passed !== outcome) return false;
      if (step && String(row.step) !== step) return false;
      return !wanted || [row.prompt, row.policy, row.expert].some((index) => contains(index, wanted));
    });
    const shown = current.rows.length;
    const rest = current.total === null ? `${shown} of more` : current.total > shown ? `${shown} of ${current.total}` : "";
    byId("sample-count").textContent = `${rows.length} of ${shown} completions` + (rest ? `. This page holds ${rest} that the run wrote.` : ".");
    list.replaceChildren(...rows.map(entry));
    select(0, false);
  }

  function entry(row, index) {
    const mark = row.passed === null ? "·" : row.passed ? "✓" : "✗";
    const sign = make("b", row.passed === null ? "" : row.passed ? "yes" : "no", mark);
    const button = make("button", "", sign, make("span", "", text(row.prompt).slice(0, 160)), make("small", "", row.key));
    button.type = "button";
    button.addEventListener("click", () => select(index, false));
    return button;
  }

  function select(index, scroll) {
    list.children[at]?.removeAttribute("aria-current");
    at = Math.min(Math.max(index, 0), rows.length - 1);
    if (at < 0) { at = 0; detail.replaceChildren(make("p", "note", "Nothing matches these filters.")); return; }
    const button = list.children[at];
    button.setAttribute("aria-current", "true");
    if (scroll) {
      const top = button.offsetTop - list.offsetTop;
      if (top < list.scrollTop || top + button.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top - 60;
    }
    show(rows[at]);
  }

  function marked(value) {
    const wanted = filter.value.trim().toLowerCase(), box = make("div", "text");
    if (!value) { box.append(make("i", "", "(empty)")); return box; }
    // Lower-casing may change a text's length (İ); then positions would be wrong, so nothing is marked.
    const low = value.toLowerCase();
    if (!wanted || low.length !== value.length) { box.append(value); return box; }
    let from = 0;
    for (let found = low.indexOf(wanted); found >= 0; found = low.indexOf(wanted, from)) {
      box.append(value.slice(from, found), make("mark", "", value.slice(found, found + wanted.length)));
      from = found + wanted.length;
    }
    box.append(value.slice(from));
    return box;
  }

  function pane(title, value, className, facts) {
    const head = make("h3", "", title);
    const small = facts.filter(Boolean).join(" · ");
    if (small) head.append(make("small", "", small));
    return make("div", "pane " + className, head, marked(value));
  }

  const number = (value) => (typeof value === "number" ? String(+value.toPrecision(4)).replace("-", "−") : String(value));

  function checkList(checks) {
    const items = checks.map(([id, kwargs, strict, loose]) => {
      const mark = strict === null ? "·" : strict ? "✓" : "✗";
      const item = make("li", strict ? "yes" : "no", make("b", "", mark), make("code", "", id));
      item.firstChild.setAttribute("aria-label", strict ? "followed" : "not followed");
      const given = Object.entries(kwargs).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
      if (given) item.append(make("span", "", given));
      if (loose && !strict) item.append(make("em", "", "passes the loose check"));
      return item;
    });
    return make("ul", "checks", ...items);
  }

  // The same prompt before training, or in another run: what a table cannot show.
  function others(row) {
    const found = [];
    samples.sets.forEach((set) => {
      if (set === current || set.step === null || Charts.hidden.has(set.arm)) return;
      const other = set.rows.find((one) => one.key === row.key && one.prompt === row.prompt);
      if (other) found.push([set, other]);
    });
    const own = found.filter(([set]) => set.run === current.run), rest = found.filter(([set]) => set.run !== current.run && set.step === current.step);
    return [...own, ...rest].slice(0, 12);
  }

  function show(row) {
    const facts = { ...row.facts }, take = (name) => { const value = facts[name]; delete facts[name]; return value; };
    const tokens = take("completion_tokens"), expertTokens = take("expert_completion_tokens"), finish = take("finish_reason");
    const logprob = take("logprob_mean"), expertLogprob = take("expert_logprob_mean");
    const words = (value) => `${value.split(/\s+/).filter(Boolean).length} words`;
    const nats = (value) => value !== undefined && `${number(value)} nats/token`;
    const position = make("span", "note", `${at + 1} / ${rows.length}`);
    const move = (label, name, by) => {
      const button = make("button", "", label);
      button.type = "button";
      button.setAttribute("aria-label", name);
      button.addEventListener("click", () => select(at + by, true));
      return button;
    };
    const head = make("div", "detail-head", make("code", "", row.key), position, move("←", "Previous completion", -1), move("→", "Next completion", 1));
    const policyTitle = current.step === 0 ? "Policy before training" : `Policy, step ${current.step ?? row.step}`;
    const policy = pane(policyTitle, text(row.policy), "policy",
      [tokens !== undefined ? `${tokens} tokens` : words(text(row.policy)), finish === "length" && "cut off", nats(logprob)]);
    const panes = make("div", "panes", policy);
    if (row.expert !== null) {
      panes.append(pane("Expert", text(row.expert), "expert", [expertTokens !== undefined ? `${expertTokens} tokens` : words(text(row.expert)), nats(expertLogprob)]));
    }
    detail.replaceChildren(head, make("div", "prompt", make("h3", "", "Prompt"), marked(text(row.prompt))));
    if (row.checks.length) detail.append(checkList(row.checks));
    const chips = Object.entries(facts).map(([name, value]) => make("span", "", `${name} `, make("b", "", number(value))));
    if (chips.length) detail.append(make("div", "chips", ...chips));
    detail.append(panes);
    const elsewhere = current.step === null ? [] : others(row);
    if (elsewhere.length) {
      const label = (set) => (set.run === current.run ? (set.step === 0 ? "before training" : `step ${set.step}`) : set.run);
      const folded = elsewhere.map(([set, other]) => {
        const fold = make("details", "fold inner");
        const sign = make("b", other.passed ? "yes" : "no", other.passed === null ? "·" : other.passed ? "✓" : "✗");
        fold.append(make("summary", "", sign, " ", label(set)), marked(text(other.policy)), checkList(other.checks));
        return fold;
      });
      detail.append(make("h3", "elsewhere", "The same prompt elsewhere"), ...folded);
    }
  }

  setBox.addEventListener("change", chooseSet);
  for (const box of [stepBox, instructionBox, outcomeBox]) box.addEventListener("change", apply);
  filter.addEventListener("input", apply);
  document.addEventListener("arms", () => { if (rows.length) show(rows[at]); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === filter && event.key === "Escape") {
      event.preventDefault(); // a search field would empty itself
      filter.blur();
      return;
    }
    if (event.target.closest?.("input, select, textarea")) return;
    if (event.key === "/") {
      event.preventDefault();
      byId("samples").open = true;
      start();
      filter.focus();
      byId("samples").scrollIntoView({ block: "start" });
    } else if ((event.key === "j" || event.key === "k") && byId("samples").open) {
      start();
      select(at + (event.key === "j" ? 1 : -1), true);
    }
  });
  new IntersectionObserver((entries, observer) => {
    if (entries.some((one) => one.isIntersecting)) { observer.disconnect(); start(); }
  }, { rootMargin: "600px" }).observe(byId("samples"));
})();
