"""Makes checkable prompts: a seed prompt and one to five instructions that some response can follow.

Every made prompt is proved satisfiable: a response is constructed that its checkers accept.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from uniapl.errors import InputError
from uniapl.instructions.back_translation import derive_instructions
from uniapl.instructions.conflicts import CONSTRAINED, conflicting
from uniapl.instructions.constructing import construct
from uniapl.instructions.contamination import Overlaps
from uniapl.instructions.drawing import can_draw, draw_kwargs, suits
from uniapl.instructions.phrasings import HELD_OUT_TYPES, PHRASINGS, phrase
from uniapl.instructions.table import INSTRUCTIONS
from uniapl.types import Prompt
from uniapl.words import is_ended, is_latin

Wording = Literal["training", "held-out"]

MAX_INSTRUCTIONS = 5
_TRIES = 20
"""Draws for one seed before it is given up."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What made prompts are made of."""

    types: Sequence[str] = tuple(INSTRUCTIONS)
    """Types to draw from."""
    required: Sequence[str] = ()
    """Types of which every prompt has at least one."""
    wording: Wording = "training"
    """Which phrasings ask for them."""
    min_instructions: int = 1
    max_instructions: int = MAX_INSTRUCTIONS


HELD_OUT_SHARE = 10
"""One seed in so many goes to the held-out prompts."""


@dataclass(slots=True)
class Made:
    """Made prompts, and what became of the seeds."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """In IFEval's format: `key`, `prompt`, `instruction_id_list`, `kwargs`; and `seed_prompt`, `seed_id`."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Seeds without a prompt, by reason."""

    def types(self) -> Counter[str]:
        """Return how often each type is asked for."""
        return Counter(name for row in self.rows for name in row["instruction_id_list"])

    def lines(self) -> list[str]:
        """Return a summary for a terminal: kept, dropped, and how often each type is asked for."""
        kept, lost = len(self.rows), sum(self.dropped.values())
        lines = [f"{kept} prompts from {kept + lost} seeds"]
        lines += [f"  {count} dropped: {reason}" for reason, count in self.dropped.most_common()]
        lines += [f"  {count:6}  {name}" for name, count in self.types().most_common()]
        return lines


def make_prompts(
    seeds: Iterable[Prompt], recipe: Recipe, *, seed: int = 0, excluded: Overlaps | None = None
) -> Made:
    """Make one prompt from each seed prompt; the same seeds and number give the same prompts.

    Args:
        seed: Each seed prompt has random numbers of its own, from this number and its text: adding or
            dropping seeds changes no other prompt.
        excluded: Prompts with wording of these are dropped, or drawn again if the instructions have it.

    Raises:
        InputError: The recipe is impossible.
    """
    check_recipe(recipe)
    made = Made()
    seen: set[str] = set()
    for prompt in seeds:
        text = prompt.text.strip()
        if text in seen:
            made.dropped["the same as an earlier one"] += 1
            continue
        seen.add(text)
        if excluded is not None and text in excluded:
            made.dropped["overlaps with an excluded text"] += 1
            continue
        row = _make(text, recipe, random.Random(f"{seed}\0{text}"), excluded)
        if row is None:
            made.dropped["no satisfiable instructions found"] += 1
            continue
        made.rows.append({"key": len(made.rows), **row, "seed_prompt": text, "seed_id": prompt.id})
    return made


def back_translate(
    pairs: Iterable[Prompt], recipe: Recipe, *, seed: int = 0, excluded: Overlaps | None = None
) -> Made:
    """Add to each prompt instructions that its completion already follows: verified demonstrations.

    Args:
        pairs: Prompts whose column `completion` holds an expert's answer.
        seed: As in `make_prompts`.
        excluded: As in `make_prompts`, of prompts.

    Raises:
        InputError: The recipe is impossible.
    """
    check_recipe(recipe)
    made = Made()
    for prompt in pairs:
        text, completion = prompt.text.strip(), prompt.columns.get("completion")
        if not isinstance(completion, str) or not completion.strip():
            made.dropped["no completion"] += 1
            continue
        if excluded is not None and text in excluded:
            made.dropped["overlaps with an excluded text"] += 1
            continue
        rng = random.Random(f"{seed}\0{text}")
        followed = derive_instructions(text, completion, rng)
        wanted = rng.randint(recipe.min_instructions, recipe.max_instructions)
        ids = _compatible([], [name for name in recipe.types if name in followed], wanted, rng)
        if len(ids) < recipe.min_instructions:
            made.dropped["too few instructions that say anything about the completion"] += 1
            continue
        kwargs_list = [followed[name] for name in ids]
        made.rows.append(
            {
                "key": len(made.rows),
                "prompt": _worded(text, ids, kwargs_list, recipe.wording, rng),
                "completion": completion,
                "instruction_id_list": ids,
                "kwargs": kwargs_list,
                "seed_prompt": text,
                "seed_id": prompt.id,
            }
        )
    return made


def make_files(
    seeds: Sequence[Prompt],
    num_instructions: tuple[int, int] = (1, MAX_INSTRUCTIONS),
    *,
    seed: int = 0,
    excluded: Overlaps | None = None,
    is_held_out: bool = False,
) -> tuple[Made, Made]:
    """Make prompts for training and, if asked for, held-out ones for out-of-distribution tests.

    Held-out prompts come from seeds of their own. Their column `held_out` says what training does not
    show: `phrasings` (known types, other words) or `types` (at least one type that training lacks).

    Args:
        num_instructions: Least and most per prompt.
        is_held_out: False: training prompts are made from all seeds and all types; the second result is
            empty.

    Raises:
        InputError: The numbers are impossible.
    """
    low, high = num_instructions
    counts: dict[str, Any] = {"min_instructions": low, "max_instructions": high}
    if not is_held_out:
        recipe = Recipe(**counts)
        return make_prompts(seeds, recipe, seed=seed, excluded=excluded), Made()
    training = tuple(name for name in INSTRUCTIONS if name not in HELD_OUT_TYPES)
    recipes = {
        "phrasings": Recipe(training, wording="held-out", **counts),
        "types": Recipe(required=HELD_OUT_TYPES, **counts),
    }
    # by text, so that a seed that occurs twice is on one side
    order = {s.text.strip(): random.Random(f"{seed}\0split\0{s.text.strip()}") for s in seeds}
    sides = {text: rng.randrange(2 * HELD_OUT_SHARE) for text, rng in order.items()}
    made = make_prompts(
        [s for s in seeds if sides[s.text.strip()] > 1],
        Recipe(training, **counts),
        seed=seed,
        excluded=excluded,
    )
    held_out = Made()
    for side, (name, recipe) in enumerate(recipes.items()):
        part = [s for s in seeds if sides[s.text.strip()] == side]
        some = make_prompts(part, recipe, seed=seed, excluded=excluded)
        for row in some.rows:
            held_out.rows.append({**row, "key": len(held_out.rows), "held_out": name})
        held_out.dropped.update(some.dropped)
    return made, held_out


def check_recipe(recipe: Recipe) -> None:
    """Raise InputError where no prompt could come out."""
    low, high = recipe.min_instructions, recipe.max_instructions
    if not 1 <= low <= high <= MAX_INSTRUCTIONS:
        raise InputError(
            f"1 to {MAX_INSTRUCTIONS} instructions per prompt are possible, got {low}-{high}"
        )
    if unknown := [name for name in (*recipe.types, *recipe.required) if name not in INSTRUCTIONS]:
        raise InputError(f"unknown instruction type {unknown[0]!r}")
    if not recipe.types:
        raise InputError("no instruction types to draw from")


def _make(
    text: str, recipe: Recipe, rng: random.Random, excluded: Overlaps | None
) -> dict[str, Any] | None:
    for _ in range(_TRIES):
        ids = _draw_types(text, recipe, rng)
        if ids is None:
            continue
        kwargs_list = [draw_kwargs(name, text, rng) for name in ids]
        prompt = _worded(text, ids, kwargs_list, recipe.wording, rng)
        if excluded is not None and prompt in excluded:
            continue
        if construct(ids, kwargs_list) is not None:
            return {"prompt": prompt, "instruction_id_list": ids, "kwargs": kwargs_list}
    return None


def _draw_types(text: str, recipe: Recipe, rng: random.Random) -> list[str] | None:
    """Draw types that do not conflict; None where too few fit together."""
    wanted = rng.randint(recipe.min_instructions, recipe.max_instructions)
    open_types = [name for name in recipe.types if suits(name, text) and can_draw(name, text)]
    if wanted == 1 and not recipe.required and CONSTRAINED in open_types and rng.random() < 0.5:
        # It goes with few seeds and with no other type; drawn like the others it would hardly occur.
        return [CONSTRAINED]
    required = [name for name in recipe.required if can_draw(name, text)]
    if recipe.required and not required:
        return None
    first = [rng.choice(required)] if required else []
    chosen = _compatible(first, open_types, wanted, rng)
    return chosen if len(chosen) >= recipe.min_instructions else None


def _compatible(
    chosen: list[str], open_types: Sequence[str], wanted: int, rng: random.Random
) -> list[str]:
    """Add types that do not conflict, until there are as many as wanted or none is left."""
    closed = frozenset[str]().union(*map(conflicting, chosen))
    left = [name for name in open_types if name not in closed]
    while left and len(chosen) < wanted:
        chosen.append(rng.choice(left))
        left = [name for name in left if name not in conflicting(chosen[-1])]
    rng.shuffle(chosen)
    return chosen


def _worded(
    text: str,
    ids: Sequence[str],
    kwargs_list: Sequence[dict[str, Any]],
    wording: Wording,
    rng: random.Random,
) -> str:
    """Return the seed prompt with a sentence for each instruction."""
    sentences = []
    for name, kwargs in zip(ids, kwargs_list, strict=True):
        phrasings = PHRASINGS[name]
        options = phrasings.training if wording == "training" else phrasings.held_out
        sentences.append(phrase(rng.choice(options), kwargs))
    style = rng.choice(("sentences", "lines", "list"))
    glue = "\n" if style == "lines" else " "
    if "\n" in text:
        # what stands below a prompt is a text it is about, not a sentence to go on from
        glue = "\n\n"
    elif not is_ended(text) and text[-1] not in ":：":
        if is_latin(text):
            text += "."
        else:  # a period would be a foreign mark
            glue = "\n"
    if style == "list" and len(sentences) > 1:
        return f"{text}\n\n" + "\n".join(f"- {sentence}" for sentence in sentences)
    return text + glue + " ".join(sentences)
