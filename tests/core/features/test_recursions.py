"""Recursions: against slow twins, and continued where another build stopped."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from plusultra_core.features import recursions
from plusultra_core.features.recursions import Recursions, Trace, join_traces, part_of_traces

STARTS = np.array([0, 40, 41, 41, 100], dtype=np.int64)
Array = np.ndarray[Any, Any]
KINDS: dict[str, Callable[[Recursions, Array], Array]] = {
    "ewma": lambda r, x: r.ewma("a", x, 0.2, 5),
    "cumulative": lambda r, x: r.cumulative("a", x),
    "follow": lambda r, x: r.follow("a", x, np.abs(np.sin(x))),
}


@pytest.fixture(scope="module")
def x() -> Array:
    rng = np.random.default_rng(1)
    values = 100.0 + rng.standard_normal(100)
    values[rng.random(100) < 0.15] = np.nan
    return values


def fresh(starts: Array = STARTS) -> Recursions:
    return Recursions(starts, np.zeros(starts.size - 1, dtype=np.int64), {})


def test_ewma_is_that_of_pandas(x: Array) -> None:
    pieces = [pd.Series(x[a:b]) for a, b in itertools.pairwise(STARTS)]
    parts = [piece.ewm(alpha=0.2, adjust=True, ignore_na=True, min_periods=5).mean() for piece in pieces if len(piece)]
    np.testing.assert_allclose(KINDS["ewma"](fresh(), x), np.concatenate([part.to_numpy() for part in parts]), rtol=1e-12)


def test_running_sum_is_that_of_pandas(x: Array) -> None:
    parts = [pd.Series(x[a:b]).fillna(0.0).cumsum() for a, b in itertools.pairwise(STARTS)]
    np.testing.assert_allclose(KINDS["cumulative"](fresh(), x), np.concatenate(parts), rtol=1e-12)


def test_an_average_at_its_own_pace_is_that_of_a_loop(x: Array) -> None:
    expected = []
    for first, last in itertools.pairwise(STARTS):
        y = np.nan
        for value in x[first:last]:
            if not np.isnan(value):
                y = value if np.isnan(y) else y + abs(np.sin(value)) * (value - y)
            expected.append(y)
    np.testing.assert_allclose(KINDS["follow"](fresh(), x), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["ewma_on", "cumulative_on", "follow_on"])
def test_the_compiled_kernel_says_what_its_source_says(x: Array, name: str) -> None:
    kernel = getattr(recursions, name)
    more: dict[str, tuple[Any, ...]] = {"ewma_on": (0.2, 5), "cumulative_on": (), "follow_on": ()}
    inputs = (x, np.full(x.size, 0.3)) if name == "follow_on" else (x,)
    found = []
    for one in (kernel, getattr(kernel, "py_func", kernel)):
        out, state = np.full(x.size, np.nan), np.zeros((STARTS.size - 1, 3 if name == "ewma_on" else 1))
        one(*inputs, STARTS, np.zeros(STARTS.size - 1, dtype=np.int64), *more[name], state, out)
        found.append((out, state))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_recursion_that_is_continued_is_the_whole_one_to_the_last_bit(x: Array, kind: str) -> None:
    whole = fresh()
    expected = KINDS[kind](whole, x)
    for cut in (1, 17, 39):
        head, tail = np.array([0, cut]), np.array([0, 40 - cut + 1])
        first = fresh(head)
        KINDS[kind](first, x[:cut])
        values = np.append(expected[cut - 1 : cut], np.full(40 - cut, np.nan))
        later = Recursions(tail, np.array([1]), {"a": Trace(values, first.made["a"].state)})
        np.testing.assert_array_equal(KINDS[kind](later, x[cut - 1 : 40]), expected[cut - 1 : 40])
        np.testing.assert_array_equal(later.made["a"].state, whole.made["a"].state[:1])


def test_a_name_is_computed_once(x: Array) -> None:
    one = fresh()
    assert one.ewma("a", x, 0.2, 5) is one.ewma("a", x, 0.2, 5)


def test_traces_of_groups_are_joined_and_parted(x: Array) -> None:
    whole = fresh()
    KINDS["ewma"](whole, x)
    parts = [part_of_traces(whole.made, slice(0, 1), slice(0, 40)), part_of_traces(whole.made, slice(1, 4), slice(40, 100))]
    joined = join_traces(parts)
    np.testing.assert_array_equal(joined["a"].values, whole.made["a"].values)
    np.testing.assert_array_equal(joined["a"].state, whole.made["a"].state)
    assert join_traces([]) == {}
