"""Randomness by name: the same names give the same number, whatever else is drawn."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY, NS_PER_MS
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.tiles import stream_keys


def test_a_number_depends_on_each_of_its_names_and_on_nothing_else(reference: ModuleType) -> None:
    names = [(1, 2, 3, 4), (2, 2, 3, 4), (1, 3, 3, 4), (1, 2, 4, 4), (1, 2, 3, 5), (1, 3, 2, 4)]
    draws = [reference.uniform(*name) for name in names]
    assert draws[0] == reference.uniform(1, 2, 3, 4)
    assert len(set(draws)) == 6


def test_the_draws_are_uniform(reference: ModuleType) -> None:
    draws = np.array([reference.uniform(7, s, a, t) for s in range(10) for a in range(10) for t in range(200)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square of 19 degrees, p about 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03


def test_the_keys_of_the_kernel_are_the_first_names_of_the_draw(reference: ModuleType) -> None:
    keys = stream_keys(7, np.array([[5], [2**40]]), np.array([[0, 3], [1, 2]])).view(np.uint64)
    for e, stream in enumerate((5, 2**40)):
        for a, asset in enumerate([[0, 3], [1, 2]][e]):
            key = 0
            for name in (7, stream, asset):
                key = reference.mix(((key ^ name) + 0x9E3779B97F4A7C15) & reference.MASK)
            assert int(keys[e, a]) == key


def test_latencies_fall_into_their_buckets_with_their_probabilities_in_any_batch(world: Any) -> None:
    cfg = replace(world.plain, latency_ms=(1.0, 2.0, 3.0), latency_prob=(0.2, 0.3, 0.5))

    def draw(streams: Any) -> Any:
        env = Environment(world.market(12, 1), len(streams), 1, NS_PER_DAY, cfg, world.free, world.wide)
        rows = np.arange(len(streams))
        env.reset(rows, np.full(len(streams), 9), np.zeros((len(streams), 1), np.int64), streams)
        return env.step(np.zeros((len(streams), 1))).latency[:, 0] // NS_PER_MS

    latency = draw(np.arange(5000))
    assert np.bincount(latency, minlength=4)[1:] / 5000 == pytest.approx([0.2, 0.3, 0.5], abs=0.03)
    some = np.array([17, 4000])
    assert np.array_equal(draw(some), latency[some])
