"""How likely the answers of several arms are as text, whatever they answer, under one model.

    python -m benchmarks.fluency --model FOLDER before=FILE grpo=FILE uniapl=FILE

FILE holds an evaluation's rows (`evaluations/step_N/samples.jsonl` of a run). An answer's log-prob per token
is taken after an assistant turn's bare beginning, without prompt or system prompt: so it tells fluent text from odd
text and not whether the prompt was followed. Answers that loop, were cut off or are short do not count, for a model
finds loops likely and short answers are hard to compare; how many count is reported. The expert's answers in the first
file's rows are an arm as well. Intervals are over prompts, 95 %, of one seed; differences are of the last arm to each
other one, on the prompts where both count.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import print_table
from uniapl.data.chat import Chat
from uniapl.errors import InputError
from uniapl.evaluation.answering import load_answering_model
from uniapl.evaluation.bootstrap import draw, interval, mean
from uniapl.experts import repetition_fraction, words
from uniapl.files import write_text
from uniapl.models.packing import TokenSequence, completion_offsets, pack

MOST_REPEATED = 0.2
"""Share of 3-grams that occurred before: an answer with as many loops."""
FEWEST_TOKENS = 20
MICRO_BATCH_TOKENS = 4096
EXPERT = "expert"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one arm answered to one prompt."""

    key: str
    text: str
    is_cut_off: bool

    def counts(self, num_tokens: int) -> bool:
        """Return whether it is comparable text."""
        loops = repetition_fraction(words(self.text)) >= MOST_REPEATED
        return num_tokens >= FEWEST_TOKENS and not loops and not self.is_cut_off


def read_arms(named: Sequence[str]) -> dict[str, list[Answer]]:
    """Return the answers of each `NAME=FILE`, and the expert's.

    Raises:
        InputError: A file cannot be read or is no evaluation's.
    """
    arms: dict[str, list[Answer]] = {}
    for each in named:
        name, _, path = each.partition("=")
        if not name or not path:
            raise InputError(f"{each}: write NAME=FILE")
        try:
            rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
            arms[name] = [
                Answer(str(row["key"]), row["response"], row["finish_reason"] == "length")
                for row in rows
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no evaluation's rows: {error!r}") from error
        if len(arms) == 1:
            experts = [
                Answer(str(row["key"]), row["expert_completion"], is_cut_off=False)
                for row in rows
                if row.get("expert_completion")
            ]
    return {**({EXPERT: experts} if experts else {}), **arms}


def bare_beginning(chat: Chat) -> tuple[int, ...]:
    """Return the tokens that the chat template puts before an answer, those of the prompt left out.

    Raises:
        InputError: The template begins no assistant turn.
    """
    turn = [{"role": "user", "content": "x"}]
    texts = [
        str(chat.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=begins))
        for begins in (False, True)
    ]
    ids = chat.tokenizer(texts[1][len(texts[0]) :], add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError("the chat template begins no assistant turn")
    return tuple(ids)  # type: ignore[arg-type]


def likelihoods(folder: str, arms: dict[str, list[Answer]]) -> dict[str, dict[str, float]]:
    """Return each arm's log-prob per token, nats, of the answers that count, by prompt."""
    model = load_answering_model(folder)
    beginning = bare_beginning(model.chat)
    found: dict[str, dict[str, float]] = {}
    for name, answers in arms.items():
        encoded = [(a, model.chat.encode_completion(a.text)) for a in answers]
        counted = [(a.key, ids) for a, ids in encoded if a.counts(len(ids))]
        sequences = [TokenSequence(beginning, ids) for _, ids in counted]
        offsets = completion_offsets(sequences)
        packed = [p.to(model.policy.device) for p in pack(sequences, MICRO_BATCH_TOKENS)]
        with model.policy.autocast():
            flat = model.policy.flat_logprobs(packed, offsets[-1])
        means = [flat[a:b].mean().item() for a, b in pairwise(offsets)]
        found[name] = {key: value for (key, _), value in zip(counted, means, strict=True)}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fluency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder of the model that judges")
    parser.add_argument("--without-expert", action="store_true", help="leave its answers out")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON")
    parser.add_argument("arms", nargs="+", metavar="NAME=FILE")
    options = parser.parse_args(arguments)
    try:
        arms = read_arms(options.arms)
        if options.without_expert:
            arms.pop(EXPERT, None)
        found = likelihoods(options.model, arms)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.output is not None:
        write_text(options.output, json.dumps(found) + "\n")
    last = list(found)[-1]
    rows: list[list[Any]] = []
    for name, values in found.items():
        common = [key for key in found[last] if key in values]
        gaps = [found[last][key] - values[key] for key in common]
        same = name == last
        difference = ["", ""] if same else [len(common), _with_interval(gaps)]
        rows.append([name, len(values), len(arms[name]), _with_interval(list(values.values()))])
        rows[-1] += difference
    columns = ["arm", "counted", "of", "log-prob per token as text", "common"]
    print_table("fluency", [*columns, f"{last} − arm, on these"], rows)
    return 0


def _with_interval(values: Sequence[float]) -> str:
    if not values:
        return "–"
    found = interval([np.asarray([values])], mean, draw(1, len(values)))
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
