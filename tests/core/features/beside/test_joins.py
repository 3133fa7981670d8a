"""The one-pass join beside the rule of data.side_tables."""

import numpy as np
import polars as pl
import pytest

from plusultra_core.data import side_tables
from plusultra_core.features.beside import joins


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("by_symbol", [True, False])
def test_a_walk_finds_what_the_as_of_join_finds(by_symbol: bool, shuffled: bool) -> None:
    rng = np.random.default_rng(3)
    keys = pl.DataFrame({"symbol": np.repeat(["A", "B", "D"], 30), "known_ns": np.sort(rng.integers(0, 300, (3, 30)), axis=1).ravel()})
    ts_ns = rng.integers(0, 280, 60)
    rows = pl.DataFrame(
        {
            "symbol": rng.choice(["A", "B", "C"], 60) if by_symbol else np.full(60, "A"),
            "ts_ns": ts_ns,
            "known_ns": ts_ns + rng.integers(0, 60, 60),
            "value": pl.Series(rng.standard_normal(60)).set(pl.Series(rng.random(60) < 0.1), None),
            "expires_ns": pl.Series(ts_ns + 90).set(pl.Series(rng.random(60) < 0.5), None),
        }
    ).unique(["symbol", "ts_ns", "known_ns"], maintain_order=True)
    rows = rows.sample(fraction=1.0, shuffle=True, seed=1) if shuffled else rows.sort("symbol", "known_ns", "ts_ns")
    at = joins.keys_of(keys)
    table = joins.beside(at, rows, None)
    mine = (joins.own_rows if by_symbol else joins.wide_rows)(table, np.arange(table.owner.size))
    found = joins.take(mine.value, joins.newest(at, mine, 45))
    expected = side_tables.as_of(keys, rows, by_symbol, 45)["value"].to_numpy()
    np.testing.assert_array_equal(found, expected)
    assert 10 < np.isfinite(found).sum() < 90


@pytest.mark.parametrize("seed", range(20))
def test_what_no_longer_counts_can_be_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = joins.keys_of(pl.DataFrame({"symbol": ["A"] * 9 + ["B"] * 9, "known_ns": [*range(200, 245, 5)] * 2}))
    ts_ns = rng.integers(0, 240, 80)
    known_ns = ts_ns + np.where(rng.random(80) < 0.9, 3, rng.integers(0, 120, 80))  # now and then a late revision
    rows = pl.DataFrame({"symbol": rng.choice(["A", "B"], 80), "ts_ns": ts_ns, "known_ns": known_ns, "value": rng.standard_normal(80)})
    rows = rows.unique(["symbol", "ts_ns", "known_ns"], maintain_order=True)
    tables = [joins.beside(keys, rows, limit) for limit in (None, 30)]
    found = [joins.own_rows(table, np.arange(table.owner.size)) for table in tables]
    values = [joins.take(mine.value, joins.newest(keys, mine, 30)) for mine in found]
    np.testing.assert_array_equal(*values)
    assert found[1].value.size <= found[0].value.size and np.isfinite(values[0]).any()


def test_kernels_say_what_their_sources_say() -> None:
    keys = pl.DataFrame({"symbol": ["A", "A", "B"], "known_ns": [3, 2, 9]})
    starts = np.array([0, 2, 3])
    for kernel in (joins.latest, getattr(joins.latest, "py_func", joins.latest)):
        assert kernel(keys["known_ns"].to_numpy(), starts).tolist() == [3, 3, 9]
    for lowest in (joins.lowest, getattr(joins.lowest, "py_func", joins.lowest)):
        assert lowest(np.array([-1, 4, -1]), starts, np.array([0, 5, 9])).tolist() == [4, 9]
    stamps = np.array([1, 5, 4])
    for walk in (joins.walk, getattr(joins.walk, "py_func", joins.walk)):
        found = walk(starts, np.array([1, 4, 4]), np.array([0, 2, 3]), stamps, stamps, np.full(3, joins.NEVER_NS), 2)
        assert found.tolist() == [0, -1, 2]
