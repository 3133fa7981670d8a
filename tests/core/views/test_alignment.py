"""As-of alignment against looking through all rows."""

import numpy as np
import polars as pl

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.views import alignment


def frames(seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    grid_ts = np.arange(0, 2000, 20)
    grid = pl.DataFrame({"ts_ns": grid_ts, "known_ns": grid_ts + 3})
    ts = np.sort(rng.choice(np.arange(100, 1500), 40, replace=False))
    source = pl.DataFrame({"ts_ns": ts, "known_ns": ts + rng.integers(0, 60, 40), "level": np.cumsum(rng.standard_normal(40))})
    return grid, source


def test_each_decision_meets_the_newest_row_known() -> None:
    grid, source = frames()
    found = alignment.as_of(grid, source, 150)
    assert found.select("ts_ns", "known_ns").equals(grid)
    for row in found.iter_rows(named=True):
        seen = source.filter(pl.col("known_ns") <= row["known_ns"]).sort("ts_ns").tail(1)
        if seen.is_empty():
            assert row["source_ts_ns"] is None and row["level"] is None and not row["stale"]
            continue
        age = row["known_ns"] - seen["ts_ns"][0]
        assert (row["source_ts_ns"], row["staleness_ns"], row["stale"]) == (seen["ts_ns"][0], age, age > 150)
        assert row["level"] == (None if age > 150 else seen["level"][0])
    assert found["stale"].sum() > 3


def test_nothing_is_filled_backward() -> None:
    grid, source = frames()
    found = alignment.as_of(grid, source, 10**9)
    before = found.filter(pl.col("known_ns") < source["known_ns"].min())
    assert before.height >= 5 and before["level"].count() == 0 and found["level"].count() > 80


def test_a_return_is_counted_once_and_never_repeated() -> None:
    grid, source = frames()
    aligned = alignment.as_of(grid, source, 10**9)
    change = aligned.select(alignment.difference("level")).to_series()
    first, last = aligned["level"].drop_nulls()[0], aligned["level"].drop_nulls()[-1]
    assert abs(change.sum() - (last - first)) < 1e-9
    carried = aligned["source_ts_ns"] == aligned["source_ts_ns"].shift(1)
    assert carried.sum() > 10 and set(change.filter(carried.fill_null(False))) == {0.0}


def test_the_audit_counts_every_row_once() -> None:
    grid, source = frames()
    aligned = alignment.as_of(grid, source, 150)
    audit = alignment.audit(aligned, "x", "etf").row(0, named=True)
    assert audit["num_rows"] == grid.height == sum(audit[name] for name in ("num_fresh", "num_carried", "num_stale", "num_before"))
    assert audit["num_before"] == aligned["source_ts_ns"].null_count() and audit["num_stale"] == aligned["stale"].sum()
    fresh = aligned.filter(~pl.col("stale"))["source_ts_ns"].drop_nulls().n_unique()
    assert audit["num_fresh"] == fresh and audit["num_carried"] > 0
    assert audit["staleness_max_hours"] * NS_PER_HOUR == aligned["staleness_ns"].max()
