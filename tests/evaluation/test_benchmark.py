"""`uniapl evaluate`: scoring responses, letting a model answer, and the two files that come out."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Tiny

from uniapl import cli
from uniapl.errors import InputError
from uniapl.evaluation import Decoding, Selection, evaluate_benchmark

NO_COMMA, QUOTES, WORDS = (
    "punctuation:no_comma",
    "startend:quotation",
    "length_constraints:number_words",
)
PROMPTS: list[dict[str, Any]] = [
    {"key": 1, "prompt": "A", "instruction_id_list": [NO_COMMA], "kwargs": [{}]},
    {"key": "b", "prompt": "B", "instruction_id_list": [NO_COMMA, QUOTES], "kwargs": [{}, {}]},
    {
        "key": 3,
        "prompt": "C",
        "instruction_id_list": [WORDS, NO_COMMA],
        "kwargs": [{"num_words": 2, "relation": "less than", "num_bullets": None}, {}],
    },
]
RESPONSES: list[dict[str, Any]] = [
    {"prompt": "C", "response": None},
    {"key": 1, "response": "red blue"},
    {"key": "b", "response": 'Sure, here:\n"red blue"'},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    prompts = write(tmp_path / "prompts.jsonl", PROMPTS)
    return prompts, write(tmp_path / "responses.jsonl", RESPONSES)


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = (folder / "samples.jsonl").read_text().splitlines()
    return json.loads((folder / "results.json").read_text()), [json.loads(row) for row in rows]


def score(prompts: Path, responses: Path, folder: Path, *words: str) -> int:
    words = ("--prompts", str(prompts), "--responses", str(responses), *words)
    return cli.main(["evaluate", "--benchmark", "ifeval", "--output", str(folder), *words])


def test_responses_are_scored_without_torch(files: tuple[Path, Path], tmp_path: Path):
    folder = tmp_path / "scores"
    words = ["evaluate", "--benchmark", "ifeval", "--prompts", str(files[0])]
    words += ["--responses", str(files[1]), "--output", str(folder)]
    code = f"from uniapl.cli import main; import sys; status = main({words})\n"
    code += "print('LOADED', status, [m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "LOADED 0 []", done.stdout + done.stderr
    assert done.stdout.startswith("prompt_level_strict_acc 0.3333 ± 0.3333\n")
    results, rows = read(folder)
    assert [row["key"] for row in rows] == [1, "b", 3]
    assert [row["response"] for row in rows] == ["red blue", RESPONSES[2]["response"], None]
    strict = [row["follow_instruction_list_strict"] for row in rows]
    assert strict == [[True], [False, False], [False, False]]
    assert [row["follow_instruction_list_loose"] for row in rows] == [
        [True],
        [True, True],
        [False, False],  # a missing response fails even "less than 2 words"
    ]
    assert [row["follow_all_strict"] for row in rows] == [True, False, False]
    assert [row["follow_all_loose"] for row in rows] == [True, True, False]
    assert results["prompt_level_strict_acc"] == pytest.approx(1 / 3)
    assert results["prompt_level_loose_acc"] == pytest.approx(2 / 3)
    assert results["inst_level_strict_acc"] == pytest.approx(1 / 5)
    assert results["inst_level_loose_acc"] == pytest.approx(3 / 5)
    assert results["by_instruction"][NO_COMMA] == {"strict": 1 / 3, "loose": 2 / 3, "n": 3}
    assert results["n"] == 3
    assert results["num_missing"] == 0
    assert results["settings"]["reading"] == "official"
    assert results["versions"].keys() >= {"python", "uniapl", "langdetect"}


def test_a_missing_response_is_an_error_unless_partial(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts, _ = files
    responses = write(tmp_path / "two.jsonl", [*RESPONSES[:2], {"key": 99, "response": "?"}])
    assert score(prompts, responses, tmp_path / "out") == 2
    assert "no response to 1 of 3 prompts (key b)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert score(prompts, responses, tmp_path / "out", "--partial") == 0
    printed = capsys.readouterr()
    assert "prompts                 2 (1 without a response left out)" in printed.out
    assert printed.err == "warning: 1 responses answer none of the prompts\n"
    results, rows = read(tmp_path / "out")
    assert [row["key"] for row in rows] == [1, 3]
    assert (results["n"], results["num_missing"]) == (2, 1)
    none = write(tmp_path / "none.jsonl", [{"key": 99, "response": "?"}])
    assert score(prompts, none, tmp_path / "out", "--partial") == 2


def test_the_reading_decides_what_a_keyword_is(tmp_path: Path):
    row = {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": ["a.c"]}]}
    prompts = write(tmp_path / "p.jsonl", [{"key": 1, "prompt": "A", **row}])
    responses = write(tmp_path / "r.jsonl", [{"key": 1, "response": "abc"}])
    given: dict[str, Any] = {"prompts": prompts, "responses": responses}

    def accuracy(benchmark: Any, **more: Any) -> float:
        output = tmp_path / f"{benchmark}-{more}"
        done = evaluate_benchmark(benchmark, **given, **more, output=output)
        return done.results["inst_level_strict_acc"]

    assert accuracy("ifeval") == accuracy("custom", reading="official") == 1
    assert accuracy("custom") == accuracy("ifeval", reading="sound") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a model, or --responses"),
        ({"model": "m", "responses": "r"}, "give a model, or --responses"),
        ({"model": "m"}, r"--benchmark ifeval needs --prompts: .*google/IFEval"),
        (
            {"model": "m", "prompts": "p", "selection": Selection(is_partial=True)},
            "--partial is for --responses",
        ),
        ({"responses": "r", "prompts": "p", "decoding": Decoding()}, "decoding options"),
        ({"responses": "r", "prompts": "no.jsonl"}, "no such file: no.jsonl"),
        ({"benchmark": "ifbench", "responses": "r", "reading": "sound"}, "--reading has no effect"),
        ({"benchmark": "mine", "responses": "r"}, "--benchmark must be one of"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, Any], message: str):
    arguments = {"benchmark": "ifeval", **arguments}
    with pytest.raises(InputError, match=message):
        evaluate_benchmark(**arguments)


def test_instructions_are_checked_before_anything_else(tmp_path: Path):
    rows = [{**PROMPTS[0], "kwargs": [{"words": 1}]}, {**PROMPTS[1], "kwargs": [{}, {"x": 1}]}]
    responses = write(tmp_path / "r.jsonl", RESPONSES)
    for prompts, message in (
        (rows, "prompt 1: punctuation:no_comma: unknown kwarg .*\n.*prompt b: startend:quotation"),
        ([{"key": 1, "prompt": "A"}], "no prompt has an `instruction_id_list`"),
    ):
        file = write(tmp_path / "p.jsonl", prompts)
        with pytest.raises(InputError, match=message):
            evaluate_benchmark("custom", prompts=file, responses=responses)


def test_a_model_answers(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["evaluate", str(tiny.model), "--benchmark", "custom", "--prompts", tiny.task["test"]]
    folder = tmp_path / "answers"
    assert cli.main([*words, "--max-tokens", "12", "--output", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "12 of 12 prompts answered" in err
    results, rows = read(folder)
    cut, error = results["truncated_fraction"], results["truncated_fraction_stderr"]
    assert f"truncated_fraction      {cut:.4f} ± {error:.4f}\n" in out
    length, error = results["completion_tokens_mean"], results["completion_tokens_mean_stderr"]
    assert f"completion_tokens_mean  {length:.4f} ± {error:.4f} tokens\n" in out
    assert results["n"] == len(rows) == 12
    assert results["settings"]["temperature"] == 0
    assert results["settings"]["max_completion_tokens"] == 12
    assert results["settings"]["reading"] == "sound"
    assert results["versions"].keys() >= {"torch", "transformers"}
    assert rows[0]["key"] == 0
    # What was written can be scored again, and gives the same.
    again = evaluate_benchmark(
        "custom",
        prompts=tiny.task["test"],
        responses=folder / "samples.jsonl",
        output=tmp_path / "again",
    )
    for name in ("prompt_level_strict_acc", "inst_level_loose_acc"):
        assert again.results[name] == results[name]
    assert 0 < results["inst_level_strict_acc"] < 1 or len({r["response"] for r in rows}) > 1


def test_a_limit_takes_the_first_prompts_and_is_recorded(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["evaluate", str(tiny.model), "--benchmark", "custom", "--prompts", tiny.task["test"]]
    words += ["--max-tokens", "4", "--output", str(tmp_path / "few")]
    assert cli.main([*words, "--limit", "3"]) == 0
    assert "prompts                 3 (the first 3)" in capsys.readouterr().out
    results, rows = read(tmp_path / "few")
    assert [row["key"] for row in rows] == [0, 1, 2]
    assert results["settings"]["limit"] == 3
    # results of other prompts are not replaced, in either direction, also where they knew no limit yet
    assert cli.main(words) == 2
    assert "limit was 3 and is None" in capsys.readouterr().err
    del results["settings"]["limit"]
    (tmp_path / "few/results.json").write_text(json.dumps(results))
    assert cli.main([*words, "--limit", "3"]) == 2
    assert "limit was None and is 3" in capsys.readouterr().err
    assert cli.main([*words, "--limit", "0"]) == 2
    assert "--limit must be at least 1, got 0" in capsys.readouterr().err


def test_responses_beyond_the_limit_are_neither_scored_nor_unknown(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert score(*files, tmp_path / "two", "--limit", "2") == 0
    out, err = capsys.readouterr()
    assert "prompts                 2 (the first 2)" in out
    assert err == ""
    assert [row["key"] for row in read(tmp_path / "two")[1]] == [1, "b"]


def test_a_run_is_its_policy(tiny: Tiny, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"output_dir: {run}\nmodel: {{path: x}}\ntraining: {{steps: 1}}\n"
        "data: {demonstrations: d, prompts: p, system_prompt: now}\n"
    )
    with pytest.raises(InputError, match="the run has no policy/ yet"):
        evaluate_benchmark("custom", run, prompts=tiny.task["test"])
    (run / "policy").symlink_to(tiny.model)
    decoding = Decoding(max_completion_tokens=4, temperature=1.0, seed=3)
    done = evaluate_benchmark("custom", run, prompts=tiny.task["test"], decoding=decoding)
    assert done.folder == run / "evaluations/custom"
    assert (done.folder / "results.json").exists()
    assert done.results["settings"]["system_prompt"] == "now"
    assert done.results["settings"]["dtype"] == "float32"


def test_ifbench_through_the_command(tmp_path: Path):
    pytest.importorskip("if_verifiable")
    data = os.environ.get("UNIAPL_DATA")
    if not data:
        pytest.skip("UNIAPL_DATA is not set: no NLTK data, no IFBench prompts")
    done = subprocess.run(
        [sys.executable, "-m", "uniapl.cli", "evaluate", "--benchmark", "ifbench", "--prompts",
         f"{data}/ifbench_test_294.jsonl", "--responses", f"{data}/ifbench_sample_output.jsonl.gz",
         "--output", str(tmp_path)],
        env={**os.environ, "NLTK_DATA": f"{data}/nltk_data"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Error loading" not in done.stderr  # nothing was asked of the network
    results, rows = read(tmp_path)
    assert {type(row["key"]) for row in rows} == {str}
    assert len(results["by_instruction"]) == 57
    # What if-verifiable 0.1.2 gives on the same responses, but for one that it trims first.
    assert 294 * results["prompt_level_strict_acc"] == pytest.approx(77)
    assert 294 * results["prompt_level_loose_acc"] == pytest.approx(88)
    assert 335 * results["inst_level_strict_acc"] == pytest.approx(93)


def test_gpt4_has_its_published_accuracies(tmp_path: Path):
    data = os.environ.get("UNIAPL_DATA")
    if not data:
        pytest.skip("UNIAPL_DATA is not set: no published responses")
    folder = Path(data)
    responses = folder / "ifeval_input_response_data_gpt4_20231107_145030.jsonl.gz"
    # One prompt was reworded later; its response answers none of today's.
    assert score(folder / "ifeval_input_data.jsonl", responses, tmp_path, "--partial") == 0
    results, rows = read(tmp_path)
    assert results["n"] == len(rows) == 540
    assert {type(row["key"]) for row in rows} == {int}
    published = {"strict": (77.22, 83.77), "loose": (79.63, 85.58)}
    for name, (prompt_level, instruction_level) in published.items():
        ours = 100 * results[f"prompt_level_{name}_acc"], 100 * results[f"inst_level_{name}_acc"]
        assert ours == pytest.approx((prompt_level, instruction_level), abs=0.2)


def test_results_of_others_are_not_replaced(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts, responses = files
    out = tmp_path / "out"
    assert score(prompts, responses, out) == 0
    assert score(prompts, responses, out) == 0  # the same again is the same
    before = (out / "results.json").read_text()
    rows = [json.loads(line) for line in responses.read_text().splitlines()]
    others = write(tmp_path / "others.jsonl", rows)
    for words in ((prompts, others, out), (prompts, responses, out, "--reading", "sound")):
        capsys.readouterr()
        assert score(*words) == 2
        assert f"--output: {out} holds other results" in capsys.readouterr().err
    write(responses, [{**row, "response": "other"} for row in rows])
    assert score(prompts, responses, out) == 2
    assert "responses_sha256 was" in capsys.readouterr().err
    assert (out / "results.json").read_text() == before
    # samples.jsonl may be scored, and is not its own output
    assert score(prompts, out / "samples.jsonl", out) == 2
    assert "would overwrite --responses" in capsys.readouterr().err
    assert score(prompts, out / "samples.jsonl", tmp_path / "again") == 0


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "samples.jsonl").write_text("mine")
    for name, message in (("file", "Not a directory"), ("mine", "belongs to no evaluation")):
        words = ("evaluate", "no-model", "--benchmark", "ifeval", "--prompts", str(files[0]))
        assert cli.main([*words, "--output", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--temperature", "nan"), "--temperature must be a number of at least 0, got nan"),
        (("--temperature", "inf"), "--temperature must be a number of at least 0, got inf"),
        (("--temperature", "-1"), "--temperature must be a number of at least 0, got -1"),
        (("--max-tokens", "0"), "--max-tokens must be at least 1, got 0"),
        (("--max-rows", "0"), "--max-rows must be at least 1, got 0"),
        (("--seed", str(2**64)), "--seed must be between 0 and 2^63 - 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_a_model_is_loaded(
    files: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
):
    given = ("evaluate", "no-model", "--benchmark", "ifeval", "--prompts", str(files[0]))
    assert cli.main([*given, *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
