"""How sure a number is that was measured on some prompts and some seeds; pure functions of arrays.

Runs that differ only in their seed answer the same prompts, and so do two arms of a comparison. A
replicate therefore draws seeds with replacement, then prompts with replacement, the same prompts for
all seeds and the same seeds and prompts for both arms of a difference. Whatever makes a prompt easy
or a seed lucky for both arms cancels in their difference; that is what a paired interval gains.

With few seeds the interval is a little too wide where prompts make most of the noise, and too narrow
where seeds make far more of it than prompts do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Statistic = Callable[..., Array]
"""Turns columns [..., prompts] into one value [...]; NaN marks a prompt without a value."""

LEVEL = 0.95
NUM_REPLICATES = 2000
BLOCK_VALUES = 1_000_000
"""Resampled values that exist at a time."""


def mean(values: Array) -> Array:
    """Mean over the prompts that have a value."""
    return ratio(values, np.where(np.isnan(values), np.nan, 1.0))


def ratio(numerators: Array, denominators: Array) -> Array:
    """Sum over sum: a mean over something finer than prompts, such as instructions or tokens."""
    with np.errstate(invalid="ignore", divide="ignore"):  # no prompt with a value: NaN
        return np.nansum(numerators, axis=-1) / np.nansum(denominators, axis=-1)


def wasserstein(values: Array, others: Array) -> Array:
    """Wasserstein-1 distance of two samples of equal size: the mean gap of their order statistics."""
    is_known = ~(np.isnan(values) | np.isnan(others))
    first = np.sort(np.where(is_known, values, np.nan), axis=-1)
    second = np.sort(np.where(is_known, others, np.nan), axis=-1)
    return mean(np.abs(first - second))


def kolmogorov_smirnov(values: Array, others: Array) -> Array:
    """Greatest gap of two empirical distribution functions."""
    flat = zip(
        values.reshape(-1, values.shape[-1]), others.reshape(-1, others.shape[-1]), strict=True
    )
    return np.array([_greatest_gap(a, b) for a, b in flat]).reshape(values.shape[:-1])


def _greatest_gap(values: Array, others: Array) -> float:
    is_known = ~(np.isnan(values) | np.isnan(others))
    first, second = np.sort(values[is_known]), np.sort(others[is_known])
    if not len(first):
        return np.nan
    points = np.concatenate([first, second])
    gaps = np.searchsorted(first, points, "right") - np.searchsorted(second, points, "right")
    return float(np.abs(gaps).max() / len(first))


def standard_error(
    numerators: Sequence[float], denominators: Sequence[float] | None = None
) -> float | None:
    """Return the standard error of a mean over prompts, or of sum over sum, if other prompts had been drawn.

    Args:
        numerators: One value per prompt.
        denominators: What the sum is divided by, such as tokens; None: the number of prompts. The ratio is then
            linearised: a prompt's part is its numerator minus the ratio times its denominator.

    Returns:
        None for fewer than two prompts.
    """
    n = len(numerators)
    if n < 2:
        return None
    parts = [1.0] * n if denominators is None else denominators
    total = math.fsum(parts)
    centre = math.fsum(numerators) / total
    squares = math.fsum((a - centre * b) ** 2 for a, b in zip(numerators, parts, strict=True))
    return math.sqrt(squares * n / (n - 1)) / total


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds; `low` to `high` holds it in 95 of 100 repetitions of the experiment."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Draws:
    """Which seeds and prompts each replicate uses."""

    seeds: npt.NDArray[np.int64]
    """[replicates, seeds]"""
    prompts: npt.NDArray[np.int64]
    """[replicates, prompts]"""


def draw(num_seeds: int, num_prompts: int, num_replicates: int = NUM_REPLICATES) -> Draws:
    """Return the same draws for the same numbers, so that a table repeats digit by digit."""
    generator = np.random.default_rng(0)
    return Draws(
        generator.integers(num_seeds, size=(num_replicates, num_seeds)),
        generator.integers(num_prompts, size=(num_replicates, num_prompts)),
    )


def value_by_seed(columns: Sequence[Array], statistic: Statistic) -> Array:
    """Return the statistic of each seed; columns are [seeds, prompts]."""
    return statistic(*columns)


def replicates(columns: Sequence[Array], statistic: Statistic, draws: Draws) -> Array:
    """Return the mean over the drawn seeds of the statistic of the drawn prompts [replicates]."""
    num_blocks = 1 + draws.prompts.size // BLOCK_VALUES
    blocks = np.array_split(draws.prompts, num_blocks)
    by_seed = [
        np.concatenate([statistic(*(values[block] for values in seed)) for block in blocks])
        for seed in zip(*columns, strict=True)
    ]
    return np.take_along_axis(np.stack(by_seed, axis=1), draws.seeds, axis=1).mean(axis=1)


def interval(columns: Sequence[Array], statistic: Statistic, draws: Draws) -> Interval:
    """Return the mean over seeds of one arm with its interval; columns are [seeds, prompts]."""
    centre = value_by_seed(columns, statistic).mean()
    return _percentiles(float(centre), replicates(columns, statistic, draws))


def paired_difference(
    columns: Sequence[Array], baseline: Sequence[Array], statistic: Statistic, draws: Draws
) -> Interval:
    """Return arm minus baseline; rows and columns of both are the same seeds and prompts."""
    gaps = value_by_seed(columns, statistic) - value_by_seed(baseline, statistic)
    ours, theirs = (replicates(c, statistic, draws) for c in (columns, baseline))
    return _percentiles(float(gaps.mean()), ours - theirs)


def _percentiles(centre: float, values: Array) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(centre, float(low), float(high))
