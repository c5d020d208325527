"""Responses that were written elsewhere, matched to the prompts they answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from uniapl.data.columns import renamed
from uniapl.data.sources import Problems, read_rows
from uniapl.errors import InputError
from uniapl.files import check_text
from uniapl.types import Prompt


@dataclass(frozen=True, slots=True)
class Matched:
    """What a file of responses says about a benchmark's prompts."""

    prompts: list[Prompt]
    """Those with a response, in the benchmark's order."""
    responses: list[str | None]
    """One per prompt; None is a response too, and a failed one."""
    missing: list[str]
    """Ids of the prompts without a response."""
    unknown: list[str]
    """Places of the responses that answer none of the prompts."""

    def of(self, prompts: Sequence[Prompt]) -> "Matched":
        """Return what the file says about some of the prompts."""
        wanted = {prompt.id for prompt in prompts}
        kept = [n for n, prompt in enumerate(self.prompts) if prompt.id in wanted]
        return Matched(
            prompts=[self.prompts[n] for n in kept],
            responses=[self.responses[n] for n in kept],
            missing=[id_ for id_ in self.missing if id_ in wanted],
            unknown=self.unknown,
        )


def match_responses(
    prompts: Sequence[Prompt], source: str | Path, columns: Mapping[str, str] | None = None
) -> Matched:
    """Read responses and join them to prompts.

    Args:
        source: Rows with `response` (text or null) and `key`, the prompt's, or else `prompt`, its exact
            text (but for blanks around it). Keys are compared as text, so 17 is "17".
        columns: `key`, `prompt` and `response` → what the file calls them, where it is otherwise.

    Raises:
        InputError: Rows are malformed, two answer the same prompt differently, or a row's key and prompt
            belong to different prompts: one line each.
    """
    by_text: dict[str, list[str]] = {}
    for prompt in prompts:
        by_text.setdefault(prompt.text.strip(), []).append(prompt.id)
    texts = {prompt.id: prompt.text for prompt in prompts}
    problems = Problems()
    found: dict[str, tuple[str | None, str]] = {}
    unknown: list[str] = []
    for row in read_rows(source, problems):
        with problems.at(row.where):
            values = renamed(row.values, columns or {})
            response = _response(values)
            ids = _prompt_ids(values, texts, by_text)
            if not ids:
                unknown.append(row.where)
            for prompt_id in ids:
                if prompt_id in found and found[prompt_id][0] != response:
                    raise InputError(
                        f"a second response to prompt {prompt_id}, after {found[prompt_id][1]}"
                    )
                found[prompt_id] = (response, row.where)
    problems.raise_any()
    answered = [prompt for prompt in prompts if prompt.id in found]
    return Matched(
        prompts=answered,
        responses=[found[prompt.id][0] for prompt in answered],
        missing=[prompt.id for prompt in prompts if prompt.id not in found],
        unknown=unknown,
    )


def _response(row: Mapping[str, Any]) -> str | None:
    if "response" not in row:
        close = get_close_matches("response", list(row), n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise InputError(f"no column `response`{hint} (the row has: {', '.join(row)})")
    response = row["response"]
    if response is not None and not isinstance(response, str):
        raise InputError(f"`response` must be text or null, got {type(response).__name__}")
    return None if response is None else check_text(response, "`response`")


def _prompt_ids(
    row: Mapping[str, Any], texts: Mapping[str, str], by_text: Mapping[str, list[str]]
) -> list[str]:
    """Return the ids of the prompts a row answers; none if it answers none of them."""
    key, text = row.get("key"), row.get("prompt")
    if key is None and not isinstance(text, str):
        raise InputError("neither `key` nor `prompt` says which prompt this answers")
    if key is None:
        assert isinstance(text, str)
        return by_text.get(text.strip(), [])
    if isinstance(key, float) and key.is_integer():  # as row_key reads it
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise InputError(f"`key` must be a string or a whole number, got {key!r}")
    if str(key) not in texts:
        return []
    # blanks at the ends get lost on the way through other tools
    if isinstance(text, str) and text.strip() != texts[str(key)].strip():
        raise InputError(f"`prompt` is not the prompt of key {key}: responses to another file?")
    return [str(key)]
