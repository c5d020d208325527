import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from uniapl.report import build_report
from uniapl.report.arms import group_arms
from uniapl.report.gradients import gradient_charts
from uniapl.report.page import _embedded
from uniapl.report.reading import read_run
from uniapl.report.samples import MAX_CHARACTERS, MAX_PER_SET, sample_sets
from uniapl.types import InputError


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


def test_every_metric_is_shown_with_its_meaning(finished_run):
    data = embedded(page_of(finished_run), "chart-data")
    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    measured = {k for row in rows for k, value in row.items() if k != "step" and value is not None}
    assert set(data["metrics"]) == measured
    assert {name for group in data["groups"] for name in group["metrics"]} == measured
    meanings = json.loads((finished_run / "definitions.json").read_text())
    assert all(data["metrics"][name]["definition"] == meanings[name] for name in measured)
    assert data["headline"][0] == "reward/mean"


def test_tables_and_provenance_need_no_script(finished_run):
    text = " ".join(page_of(finished_run).text.split())
    assert "uniapl on miniature" in text
    assert "before training" in text
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
    assert [point["arm"] for point in data["comparison"][0]["points"]] == [0, 1]
    assert data["comparison"][0]["expert"] == 0.985
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


def test_health_says_what_is_off(finished_run):
    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"discriminator/accuracy": 0.97, "discriminator/length_correlation": -0.6}
        row |= {"constraint/state": 1}
    (finished_run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page_of(finished_run).text
    assert "Accuracy 0.97 is above 0.85" in text
    assert "takes short completions for the expert's" in text
    assert "λ is at its maximum" in text


def test_run_without_discriminator_has_no_health_section(make_run):
    page = page_of(make_run(method="grpo"))
    assert not [a for _, a in page.tags if a.get("id") == "health"]
    headline = embedded(page, "chart-data")["headline"]
    assert "objective/adversarial_weight" not in headline  # 0 all along


def test_run_without_evaluations_still_has_a_page(finished_run):
    for path in sorted((finished_run / "evaluations").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    page = page_of(finished_run)
    assert "no evaluation yet" in page.text
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
