"""Which demonstrations and prompts each step gets: seeded, without repetition, restorable.

Each kind of data is a stream of its own, so that runs which draw as many of one kind see the same ones
at the same seed, whatever they draw of the other.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from uniapl.types import Demonstration, InputError, MixedBatch, PreferencePair, Prompt

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
            "epoch": self._epoch,
            "position": self._position,
            "head": list(self._head),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go where a saved stream stood.

        Raises:
            InputError: it was saved with another seed or another number of items.
        """
        now = {"seed": self._seed, "size": len(self._items)}
        for key, meaning in (("size", "number"), ("seed", "seed")):
            if state[key] != now[key]:
                raise InputError(
                    f"cannot resume: the {meaning} of {self.name} was {state[key]} and is now {now[key]}"
                )
        self._epoch, self._position = state["epoch"], state["position"]
        self._head = list(state["head"])
        self._order = self._permutation()

    def _permutation(self) -> list[int]:
        """Return the order of the current epoch: the head, then the rest as the seed has it."""
        entropy = [self._seed, zlib.crc32(self.name.encode()), self._epoch]
        # raw draws and a stable sort: numpy keeps only the bit stream the same across versions
        keys = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(len(self._items))
        shuffled = np.argsort(keys, kind="stable").tolist()
        first = set(self._head)
        return self._head + [index for index in shuffled if index not in first]


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
        self._pairs = Stream("pairs", pairs, seed)

    @property
    def demonstration_epoch(self) -> float:
        """Passes over the demonstrations so far."""
        return self._demonstrations.epochs

    def next_batch(
        self, num_demonstrations: int, num_prompts: int, num_pairs: int = 0
    ) -> MixedBatch:
        """Return the data of the next step; a stream from which nothing is drawn stays where it is.

        Raises:
            InputError: a number is larger than its data set.
        """
        return MixedBatch(
            demonstrations=self._demonstrations.take(num_demonstrations),
            prompts=self._prompts.take(num_prompts),
            pairs=self._pairs.take(num_pairs),
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
            InputError: it was saved with another seed or other numbers of items.
        """
        self._demonstrations.load_state_dict(state["demonstrations"])
        self._prompts.load_state_dict(state["prompts"])
        if "pairs" in state:  # a checkpoint from before there were pairs has none to restore
            self._pairs.load_state_dict(state["pairs"])


def hold_out(
    demonstrations: Sequence[Demonstration], count: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Return the demonstrations to train on and the last `count`, which nothing trains on.

    Raises:
        InputError: nothing would be left to train on.
    """
    if count >= len(demonstrations):
        raise InputError(
            f"held_out_demonstrations {count} leaves nothing to train on: "
            f"there are {len(demonstrations)} demonstrations"
        )
    split = len(demonstrations) - count
    return list(demonstrations[:split]), list(demonstrations[split:])
