"""Which demonstrations and prompts each step gets: seeded, without repetition, restorable.

Each kind of data is a stream of its own, so that runs which draw as many of one kind see the same ones
at the same seed, whatever they draw of the other.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from uniapl.errors import InputError
from uniapl.types import Demonstration, MixedBatch, PreferencePair, Prompt

T = TypeVar("T")


class Stream(Generic[T]):
    """Endless draws from a data set: each epoch is a new permutation, no draw holds an item twice.

    The permutation depends on seed, name and epoch alone, so a few numbers restore the stream.
    """

    def __init__(self, name: str, items: Sequence[T], seed: int) -> None:
        """Start at the first epoch.

        Args:
            name: Tells streams of the same seed apart, and appears in messages.
        """
        self.name = name
        self._items = items
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._head: list[int] = []
        self._order = self._permutation()

    @property
    def epochs(self) -> float:
        """Passes over the data so far."""
        return self._epoch + self._position / len(self._items) if self._items else 0.0

    def take(self, count: int) -> tuple[T, ...]:
        """Return the next items, all different.

        At the end of an epoch the draw goes on in the next one, which then starts with items that the
        draw does not hold yet.

        Raises:
            InputError: there are fewer items than that.
        """
        if count > len(self._items):
            raise InputError(
                f"a step needs {count} {self.name}, but there are only {len(self._items)}; "
                "lower the number per step or bring more data"
            )
        drawn = self._order[self._position : self._position + count]
        self._position += len(drawn)
        missing = count - len(drawn)
        if missing:
            self._epoch += 1
            self._head = []
            held = set(drawn)
            self._head = [item for item in self._permutation() if item not in held][:missing]
            self._order = self._permutation()
            self._position = missing
            drawn = drawn + self._head
        return tuple(self._items[index] for index in drawn)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, as JSON takes it."""
        return {
            "seed": self._seed,
            "size": len(self._items),
            "contents": self._contents,
            "epoch": self._epoch,
            "position": self._position,
            "head": list(self._head),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where a saved stream stood.

        Raises:
            InputError: it was saved with another seed, or with other items, if only in another order.
        """
        now = {"seed": self._seed, "size": len(self._items)}
        for key, meaning in (("size", "number"), ("seed", "seed")):
            if state[key] != now[key]:
                raise InputError(
                    f"cannot resume: the {meaning} of {self.name} was {state[key]} and is now {now[key]}"
                )
        if state.get("contents", self._contents) != self._contents:
            raise InputError(
                f"cannot resume: the {self.name} are not those that the checkpoint knows, or stand in another order; "
                "bring them back, or start a new run in another output_dir, with the checkpoint's policy as model.path"
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._head = list(state["head"])
        self._order = self._permutation()

    @cached_property
    def _contents(self) -> str:
        """What changes with the items and their order: tokens, texts and columns, but no ids, which may be paths."""
        found = hashlib.sha256()
        for item in self._items:
            found.update(repr(_content(item)).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def _permutation(self) -> list[int]:
        """Return the order of the current epoch: the head, then the rest as the seed has it."""
        order = permutation(len(self._items), self._seed, self.name, self._epoch)
        first = set(self._head)
        return self._head + [index for index in order if index not in first]


def _content(item: object) -> object:
    """Return what an item teaches, as values whose text is the same in every process."""
    if isinstance(item, Prompt):
        return item.token_ids, sorted(item.columns.items(), key=lambda column: column[0])
    if isinstance(item, Demonstration):
        return _content(item.prompt), item.token_ids
    if isinstance(item, PreferencePair):
        return _content(item.prompt), item.chosen_ids, item.rejected_ids
    return item


def random_words(count: int, seed: int, name: str, number: int) -> Any:
    """Return an array of random 64-bit words, which seed, name and number alone decide.

    Raw words, since numpy keeps only the bit stream the same across its versions.
    """
    entropy = [seed, zlib.crc32(name.encode()), number]
    return np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(count)


def permutation(size: int, seed: int, name: str, number: int) -> list[int]:
    """Return the indices below `size` in an order that seed, name and number alone decide."""
    return np.argsort(random_words(size, seed, name, number), kind="stable").tolist()


class Mixture:
    """The batches of a run, from one stream per kind of data.

    Example:
        mixture = Mixture(demonstrations, prompts, seed=0)
        batch = mixture.next_batch(num_demonstrations=24, num_prompts=14)
    """

    def __init__(
        self,
        demonstrations: Sequence[Demonstration],
        prompts: Sequence[Prompt],
        pairs: Sequence[PreferencePair] = (),
        *,
        seed: int,
    ) -> None:
        self._demonstrations = Stream("demonstrations", demonstrations, seed)
        self._prompts = Stream("prompts", prompts, seed)
        self._pairs, self._num_pairs = Stream("pairs", pairs, seed), len(pairs)

    @property
    def demonstration_epoch(self) -> float:
        """Passes over the demonstrations so far."""
        return self._demonstrations.epochs

    def next_batch(
        self, num_demonstrations: int, num_prompts: int, num_pairs: int = 0
    ) -> MixedBatch:
        """Return the data of the next step; a stream from which nothing is drawn stays where it is.

        Of pairs there may be fewer, if the data has fewer.

        Raises:
            InputError: a number is larger than its data set.
        """
        return MixedBatch(
            demonstrations=self._demonstrations.take(num_demonstrations),
            prompts=self._prompts.take(num_prompts),
            pairs=self._pairs.take(min(num_pairs, self._num_pairs)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return where the streams stand, as JSON takes it."""
        return {
            "demonstrations": self._demonstrations.state_dict(),
            "prompts": self._prompts.state_dict(),
            "pairs": self._pairs.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where a saved mixture stood.

        Raises:
            InputError: it was saved with another seed or other items.
        """
        self._demonstrations.load_state_dict(state["demonstrations"])
        self._prompts.load_state_dict(state["prompts"])
        if "pairs" in state:  # a checkpoint from before there were pairs has none to restore
            self._pairs.load_state_dict(state["pairs"])


def hold_out(
    demonstrations: Sequence[Demonstration], count: int, *, trains_every_turn: bool = False
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Return the demonstrations to train on, and at least `count` that share no prompt with them.

    Prompts are held out from the end of the list, each with all of its demonstrations: as many prompts as hold
    `count` of them. Where no prompt repeats these are the last `count`.

    Args:
        trains_every_turn: Earlier assistant turns are learned too, so the messages before each of them are
            prompts as well.

    Raises:
        InputError: nothing would be left to train on.
    """
    taught = [_prompts_in(d, trains_every_turn) for d in demonstrations]
    teaching: dict[str, list[int]] = {}
    for index, prompts in enumerate(taught):
        for prompt in prompts:
            teaching.setdefault(prompt, []).append(index)
    held: set[int] = set()
    for last in reversed(range(len(demonstrations))):
        if len(held) >= count:
            break
        to_hold = [last]
        while to_hold:
            index = to_hold.pop()
            if index not in held:
                held.add(index)
                to_hold += teaching[taught[index][0]]
    if count and len(held) == len(demonstrations):
        shared = "" if count >= len(held) else f", and {len(held) - count} more share their prompts"
        raise InputError(
            f"held_out_demonstrations {count} leaves nothing to train on: "
            f"there are {len(demonstrations)} demonstrations{shared}"
        )
    kept = [d for index, d in enumerate(demonstrations) if index not in held]
    return kept, [demonstrations[index] for index in sorted(held)]


def _prompts_in(demonstration: Demonstration, trains_every_turn: bool) -> list[str]:
    """Return what the demonstration teaches to answer, as comparable text; its own prompt comes first."""
    turns = [sorted(turn.items()) for turn in demonstration.prompt.messages]
    ends = [len(turns)]
    if trains_every_turn:
        roles = [turn["role"] for turn in demonstration.prompt.messages]
        ends += [place for place, role in enumerate(roles) if role == "assistant"]
    return [json.dumps(turns[:end]) for end in ends]
