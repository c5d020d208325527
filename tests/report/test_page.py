import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from uniapl.errors import InputError
from uniapl.health import FEWEST_STEPS, HealthWatch
from uniapl.report import build_report
from uniapl.report.arms import group_arms
from uniapl.report.gradients import gradient_charts
from uniapl.report.page import _embedded
from uniapl.report.reading import read_run
from uniapl.report.samples import MAX_CHARACTERS, MAX_PER_SET, sample_sets


class Elements(HTMLParser):
    """Collects the tags of a page and the text of its script elements."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self.inside: str | None = None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.text += data
        else:
            self.scripts[self.inside] = self.scripts.get(self.inside, "") + data


def page_of(*runs: Path, output: Path | None = None) -> Elements:
    return Elements(build_report(runs, output).read_text(encoding="utf-8"))


def embedded(page: Elements, name: str):
    return json.loads(page.scripts[name])


def test_default_places(finished_run, make_run, monkeypatch, tmp_path):
    other = make_run("other", seed=1)
    assert build_report([finished_run]) == finished_run / "report" / "index.html"
    monkeypatch.chdir(tmp_path)
    assert build_report([finished_run, other]) == Path("report/index.html")
    assert build_report([finished_run], tmp_path / "deep" / "a.html").is_file()
    assert build_report([finished_run], tmp_path / "folder") == tmp_path / "folder" / "index.html"
    leftovers = [path.name for path in (tmp_path / "folder").iterdir()]
    assert leftovers == ["index.html"]


def test_place_that_cannot_be_written_is_an_input_error(finished_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        build_report([finished_run], tmp_path / "file" / "a.html")


def test_same_run_gives_the_same_page(finished_run, tmp_path):
    first = build_report([finished_run], tmp_path / "1.html").read_bytes()
    assert build_report([finished_run], tmp_path / "2.html").read_bytes() == first


def test_page_refers_to_nothing_outside(finished_run):
    page = page_of(finished_run)
    for tag, attrs in page.tags:
        assert "src" not in attrs, (tag, attrs)
        assert (attrs.get("href") or "#").startswith(("#", "data:,"))
    assert page.scripts["plotly-source"].count("plotly.js v") == 1
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_without_plotly_one_line_says_what_to_install(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(InputError, match=r"needs plotly: pip install 'uniapl\[report\]'"):
        build_report([finished_run], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_every_metric_is_shown_with_its_meaning(finished_run):
    data = embedded(page_of(finished_run), "chart-data")
    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    measured = {k for row in rows for k, value in row.items() if k != "step" and value is not None}
    assert set(data["metrics"]) == measured
    assert {name for group in data["groups"] for name in group["metrics"]} == measured
    meanings = json.loads((finished_run / "definitions.json").read_text())
    assert all(data["metrics"][name]["definition"] == meanings[name] for name in measured)
    assert data["telling"][0]["metrics"] == [["reward/mean", ""]]


def test_tables_and_provenance_need_no_script(finished_run):
    text = " ".join(page_of(finished_run).text.split())
    assert "miniature, trained by UniAPL (SFT, GRPO and an adversarial term in one stage)" in text
    assert "Before training" in text
    assert "Prompts followed, strict" in text
    assert "98.5" in text
    assert "0123456789abcdef0123456789abcdef01234567" in text
    assert "uniapl train tiny.yaml seed=0" in text
    assert "torch 2.11.0" in text
    assert "demonstrations_per_step: 24" in text


def test_arms_bands_and_bases(make_run, tmp_path):
    runs = [make_run(f"{m}-{s}", method=m, seed=s) for m in ("grpo", "uniapl") for s in (0, 1)]
    data = embedded(page_of(*runs, output=tmp_path / "all.html"), "chart-data")
    assert data["arms"] == [{"name": "grpo", "runs": 2}, {"name": "uniapl", "runs": 2}]
    for series in data["metrics"]["reward/mean"]["series"]:
        for low, middle, high in zip(series["low"], series["y"], series["high"], strict=True):
            assert low <= middle <= high
    assert [s["arm"] for s in data["metrics"]["discriminator/accuracy"]["series"]] == [1]
    assert {tuple(chart["arms"]) for chart in data["health"]} == {(1,)}


def test_gradients_of_the_terms_are_a_chart_of_norms_and_one_of_cosines(make_run, tmp_path):
    runs = [make_run(method, method=method) for method in ("sft", "uniapl")]
    data = embedded(page_of(*runs, output=tmp_path / "two.html"), "chart-data")
    norms, cosines = data["gradients"]
    assert [label for _, label in norms["metrics"]] == ["sft", "grpo", "adversarial"]
    assert [label for _, label in cosines["metrics"]] == [
        "sft and grpo",
        "sft and adversarial",
        "grpo and adversarial",
    ]
    arms = {
        name: [one["arm"] for one in data["metrics"][name]["series"]]
        for name, _ in (*norms["metrics"], *cosines["metrics"])
    }
    assert arms.pop("objective/sft_grad_norm") == [0, 1]
    assert set(map(tuple, arms.values())) == {(1,)}


def test_no_gradients_no_charts(make_run):
    assert gradient_charts(["objective/sft", "optimizer/grad_norm"]) == []
    (chart,) = gradient_charts(["objective/sft_grad_norm"])  # one term has no angle
    assert chart["title"] == "Norm of each term's gradient"


def test_provenance_tells_each_time_the_run_went_on(finished_run):
    file = finished_run / "environment.json"
    first = json.loads(file.read_text())
    here = {key: first[key] for key in ("git_commit", "versions", "platform", "device", "threads")}
    moved = {"git_commit": "fedcba", "versions": {"torch": "2.13.0"}, "threads": 8}
    resumed = [
        {"step": 20, "created": "2025-11-24T08:00:00Z", **here},
        {"step": 40, "created": "2025-11-25T09:00:00Z", **here, **moved},
    ]
    file.write_text(json.dumps(first | {"resumed": resumed}))
    text = " ".join(page_of(finished_run).text.split())
    assert "from step 20, 2025-11-24T08:00:00Z" in text
    assert (
        "from step 40, 2025-11-25T09:00:00Z; other than at first: git commit fedcba, threads 8, "
        "versions torch 2.13.0"
    ) in text
    assert text.count("other than at first") == 1


def rewrite_metrics(folder: Path, change) -> list[dict]:
    path = folder / "metrics.jsonl"
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_health_words_are_those_of_the_terminal(finished_run):
    """What `uniapl train` says of these rows stands on the page, word for word."""
    off = {
        "discriminator/accuracy": 0.97,
        "discriminator/length_correlation": -0.7,
        "constraint/state": 1,
    }
    rows = rewrite_metrics(finished_run, lambda row: row | off)
    config = yaml.safe_load((finished_run / "config.yaml").read_text())
    config["discriminator"] = {"warmup_steps": 5}
    (finished_run / "config.yaml").write_text(yaml.safe_dump(config))
    watch = HealthWatch()
    said = [(row["step"], line) for row in rows for line in watch.warnings(row["step"], row, 10)]
    assert said[0][0] == 10 + FEWEST_STEPS
    assert len(said) == 6  # three metrics, at step 15 and 25 steps later
    page = page_of(finished_run)
    text = " ".join(page.text.split())
    for step, line in said:
        assert f"step {step}: {line}" in text
    for finding in watch.findings():
        assert finding.line in text
    notices = text.partition("Two completions")[0]
    assert all(f.line in notices for f in watch.findings() if f.state == "off")
    assert "tells expert and policy apart almost always" in notices
    assert "by being short" in notices
    assert "λ is at its maximum" in notices


def test_an_accuracy_of_a_half_and_noise_is_not_called_broken(finished_run):
    noise = random.Random(0)
    rewrite_metrics(
        finished_run, lambda row: row | {"discriminator/accuracy": noise.gauss(0.5, 0.1)}
    )
    text = " ".join(page_of(finished_run).text.split())
    assert re.search(r"discriminator/accuracy 0\.\d\d ± 0\.\d\d: cannot tell", text)
    assert "ranks the expert below the policy" not in text
    assert "warning:" not in text


def test_the_page_tells_its_story_in_order(finished_run):
    page = page_of(finished_run)
    ids = [a["id"] for t, a in page.tags if t in ("section", "details") and "id" in a]
    assert ids == [
        *("story", "completions", "curves", "results", "health", "expert", "instructions"),
        *("metrics", "samples", "provenance"),
    ]
    folded = [a["id"] for t, a in page.tags if t == "details" and "id" in a]
    assert folded == ids[3:]
    assert not [a for t, a in page.tags if a.get("id") in folded and "open" in a]
    text = " ".join(page.text.split())
    told = (
        "miniature, trained by UniAPL",
        "Prompts followed, strict %, higher is better",
        "95 % interval",
        "Of 40 prompts",
        "Strong lines are smoothed",
        "All results 40 prompts",
    )
    places = [text.index(words, text.index("Skip to")) for words in told]
    assert places == sorted(places)


def test_run_without_discriminator_has_nothing_of_it(make_run):
    page = page_of(make_run(method="grpo"))
    data = embedded(page, "chart-data")
    assert data["health"] == []
    shown = [chart["metrics"][0][0] for chart in data["telling"]]
    assert "objective/adversarial_weight" not in shown  # 0 all along
    assert "reward/mean" in shown
    assert "rollout/zero_std_group_fraction" in shown


def test_run_without_evaluations_still_has_a_page(finished_run):
    for path in sorted((finished_run / "evaluations").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    page = page_of(finished_run)
    assert "no evaluation yet" in page.text.lower()
    assert embedded(page, "chart-data")["lengths"] is None


def test_text_of_a_run_is_never_markup(poisoned_run, hostile, finished_run):
    page, clean = page_of(poisoned_run), page_of(finished_run)
    assert [tag for tag, _ in page.tags].count("script") == [t for t, _ in clean.tags].count(
        "script"
    )
    assert not [tag for tag, _ in page.tags if tag == "img"]
    samples = embedded(page, "sample-data")
    assert hostile in samples["texts"]
    assert "49" not in page.text.partition("Provenance")[0]


def test_embedded_json_cannot_end_its_element():
    text = _embedded({"a": "</SCRIPT><!--<script>&\u2028\ud800"})
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text)["a"].startswith("</SCRIPT><!--<script>&\u2028")


def test_samples_are_capped_and_say_so(make_run):
    folder = make_run(n=MAX_PER_SET + 20, steps=10)
    path = folder / "evaluations/step_000010/samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["response"] = "x" * (MAX_CHARACTERS + 5)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sample_sets(group_arms([read_run(folder, max_rollouts=300)]))
    last, first, rollouts = found["sets"]
    assert (last["step"], first["step"], rollouts["step"]) == (10, 0, None)
    assert (len(last["rows"]), last["total"]) == (MAX_PER_SET, MAX_PER_SET + 20)
    assert found["texts"][last["rows"][0]["policy"]].endswith("[5 more characters]")
    assert len(found["texts"]) == len(set(found["texts"]))


def test_a_page_of_long_texts_holds_fewer_of_them(make_run, monkeypatch):
    arms = group_arms([read_run(make_run(n=60, steps=10), max_rollouts=300)])
    full = sum(len(one["rows"]) for one in sample_sets(arms)["sets"])
    monkeypatch.setattr("uniapl.report.samples.MAX_CHARACTERS_IN_ALL", 12_000)
    found = sample_sets(arms)
    assert 0 < sum(len(one["rows"]) for one in found["sets"]) < full
    # texts are stored once, so their sum is below the budget that counts them every time
    assert sum(map(len, found["texts"])) < 12_000


def test_sample_rows_carry_the_checkers_words(finished_run):
    found = sample_sets(group_arms([read_run(finished_run, max_rollouts=300)]))
    sample = json.loads(
        (finished_run / "evaluations/step_000060/samples.jsonl").read_text().splitlines()[0]
    )
    row = found["sets"][0]["rows"][0]
    assert [check[0] for check in row["checks"]] == sample["instruction_id_list"]
    assert [check[2] for check in row["checks"]] == sample["follow_instruction_list_strict"]
    assert all("language" not in check[1] for check in row["checks"])  # null in the file
    assert row["passed"] == sample["follow_all_strict"]
    assert row["facts"]["completion_tokens"] == sample["completion_tokens"]
    rollout = found["sets"][2]["rows"][-1]
    assert rollout["step"] == 59
    assert rollout["facts"]["reward/instructions"] == 0.5


def test_report_imports_no_torch():
    code = "import sys, uniapl.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
