"""Worlds stand side by side in one market and begin where the stress begins: the draws of latency know them by their own names."""

from dataclasses import replace
from typing import Any

import numpy as np

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation.engine import Environment


def test_a_part_of_a_market_beside_another_draws_as_the_whole_market_does(world: Any) -> None:
    market = world.market(30, 2)
    hours = 3_600_000.0
    cfg = replace(world.plain, latency_ms=(0.0, 30 * hours, 60 * hours), latency_prob=(0.4, 0.3, 0.3))
    request = np.random.default_rng(0).uniform(-1, 1, (12, 1, 2))

    def run(market: Any, t: int, columns: list[int], names: Any, first_bar: int) -> Any:
        env = Environment(market, 1, 2, NS_PER_DAY, cfg, world.costly, world.wide, first_bar=first_bar)
        zero = np.zeros(1, np.int64)
        env.reset(zero, zero + t, np.array([columns]), zero + 5, names)
        books = np.zeros((12, 1, 4))
        env.run(request, None, books)
        return books

    whole = run(market, 15, [0, 1], None, 0)
    arrays = [(name, getattr(market, name)) for name in market._fields]
    part = {name: np.ascontiguousarray(array[10:]) for name, array in arrays if array.shape[0] == 30}
    end = {"end": market.end - 10}
    part = {name: np.ascontiguousarray(np.hstack((array, array))) if array.ndim == 2 else array for name, array in part.items()}
    terms = {name: np.tile(array, 2) for name, array in {**dict(arrays), **end}.items() if array.shape == (2,)}
    beside = market._replace(**{**part, **terms})
    assert np.array_equal(run(beside, 5, [2, 3], np.array([[0, 1]]), 10), whole)
    assert not np.array_equal(run(beside, 5, [2, 3], None, 10), whole)
    assert not np.array_equal(run(beside, 5, [2, 3], np.array([[0, 1]]), 0), whole)
