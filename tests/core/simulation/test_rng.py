"""Randomness by name: the same names give the same number, whatever else is drawn."""

import numpy as np
import pytest

from plusultra_core.simulation.tiles import draw_bucket, draw_uniform


def test_a_number_depends_on_each_of_its_names_and_on_nothing_else() -> None:
    base = draw_uniform(1, 2, 3, 4)
    others = [
        draw_uniform(2, 2, 3, 4),
        draw_uniform(1, 3, 3, 4),
        draw_uniform(1, 2, 4, 4),
        draw_uniform(1, 2, 3, 5),
        draw_uniform(1, 3, 2, 4),
    ]
    assert base == draw_uniform(1, 2, 3, 4)
    assert len({base, *others}) == 6


def test_the_draws_are_uniform() -> None:
    draws = np.array([draw_uniform(7, s, a, t) for s in range(10) for a in range(10) for t in range(200)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square of 19 degrees, p about 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


def test_latencies_fall_into_their_buckets_with_their_probabilities() -> None:
    cumulative = np.array([0.2, 0.5, 1.0])
    buckets = [draw_bucket(7, stream, 0, 9, cumulative) for stream in range(5000)]
    assert np.bincount(buckets, minlength=3) / 5000 == pytest.approx([0.2, 0.3, 0.5], abs=0.03)


def test_the_compiled_draw_is_its_python() -> None:
    slow = getattr(draw_uniform, "py_func", draw_uniform)
    with np.errstate(over="ignore"):
        assert [slow(7, 1, 2, t) for t in range(20)] == [draw_uniform(7, 1, 2, t) for t in range(20)]
