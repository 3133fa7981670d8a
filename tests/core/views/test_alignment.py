"""As-of alignment against looking through all rows."""

import numpy as np
import polars as pl

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.views import alignment, kernels

WHOLE = np.array([0, 100])


def frames(seed: int = 0) -> tuple[np.ndarray, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.choice(np.arange(100, 1500), 40, replace=False))
    source = pl.DataFrame({"ts_ns": ts, "known_ns": ts + rng.integers(0, 60, 40), "level": np.cumsum(rng.standard_normal(40))})
    return np.arange(0, 2000, 20) + 3, source


def test_each_decision_meets_the_newest_row_known() -> None:
    known_ns, source = frames()
    found = alignment.as_of(known_ns, WHOLE, source, 150)
    for i, known in enumerate(known_ns):
        seen = source.filter(pl.col("known_ns") <= known).sort("ts_ns").tail(1)
        value = found.values["level"][i]
        if seen.is_empty():
            assert found.staleness_ns[i] == -1 and np.isnan(value) and not found.stale[i]
            continue
        age = known - seen["ts_ns"][0]
        assert (found.staleness_ns[i], found.stale[i]) == (age, age > 150)
        assert np.isnan(value) if age > 150 else value == seen["level"][0]
    assert found.stale.sum() > 3


def test_a_value_that_has_expired_is_as_good_as_stale_and_no_older_one_stands_in() -> None:
    source = pl.DataFrame({"ts_ns": [0, 10, 20], "known_ns": [0, 10, 20], "expires_ns": [99, 14, None], "level": [1.0, 2.0, 3.0]})
    found = alignment.as_of(np.array([0, 10, 14, 15, 20, 90]), np.array([0, 6]), source, 1_000)
    np.testing.assert_array_equal(found.values["level"], [1.0, 2.0, 2.0, np.nan, 3.0, 3.0])
    assert list(found.values) == ["level"] and found.stale.tolist() == [False] * 3 + [True] + [False] * 2
    assert alignment.audit(found, "x", "etf")["num_stale"] == 1


def test_what_was_said_of_a_time_to_come_is_seen_and_not_old() -> None:
    source = pl.DataFrame({"ts_ns": [50, 100], "known_ns": [10, 60], "level": [1.0, 2.0]})
    found = alignment.as_of(np.array([0, 10, 20, 60, 100, 120]), np.array([0, 6]), source, 1_000)
    assert found.staleness_ns.tolist() == [-1, 0, 0, 0, 0, 20]
    assert alignment.audit(found, "x", "etf")["num_before"] == 1


def test_every_segment_starts_before_the_first_row() -> None:
    known_ns, source = frames()
    twice = alignment.as_of(np.concatenate([known_ns, known_ns]), np.array([0, 100, 200]), source, 150)
    once = alignment.as_of(known_ns, WHOLE, source, 150)
    for one, two in ((once.staleness_ns, twice.staleness_ns), (once.new, twice.new), (once.stale, twice.stale)):
        np.testing.assert_array_equal(np.concatenate([one, one]), two)


def test_a_source_without_rows_leaves_everything_missing() -> None:
    known_ns, source = frames()
    found = alignment.as_of(known_ns, WHOLE, source.clear(), 150)
    assert np.isnan(found.values["level"]).all() and (found.staleness_ns == -1).all() and not found.new.any()
    assert alignment.audit(found, "x", "etf")["num_before"] == 100


def test_nothing_is_filled_backward() -> None:
    known_ns, source = frames()
    level = alignment.as_of(known_ns, WHOLE, source, 10**9).values["level"]
    before = known_ns < source["known_ns"].min()
    assert before.sum() >= 5 and np.isnan(level[before]).all() and np.isfinite(level).sum() > 80


def test_a_return_is_counted_once_and_never_repeated() -> None:
    known_ns, source = frames()
    found = alignment.as_of(known_ns, WHOLE, source, 10**9)
    level = found.values["level"]
    change = kernels.step(level, WHOLE)
    there = level[np.isfinite(level)]
    assert abs(np.nansum(change) - (there[-1] - there[0])) < 1e-9
    carried = (found.staleness_ns >= 0) & ~found.new
    assert carried.sum() > 10 and set(change[carried]) == {0.0}


def test_the_audit_counts_every_row_once() -> None:
    known_ns, source = frames()
    found = alignment.as_of(known_ns, WHOLE, source, 150)
    audit = alignment.audit(found, "x", "etf")
    assert audit["num_rows"] == known_ns.size == sum(audit[name] for name in ("num_fresh", "num_carried", "num_stale", "num_before"))
    assert audit["num_before"] == (found.staleness_ns < 0).sum() and audit["num_stale"] == found.stale.sum()
    met = known_ns[:, None] >= source["known_ns"].to_numpy()
    last = np.where(met.any(axis=1), [source.filter(pl.col("known_ns") <= k)["ts_ns"].max() or -1 for k in known_ns], -1)
    assert audit["num_fresh"] == len(set(last[(last >= 0) & ~found.stale])) and audit["num_carried"] > 0
    assert audit["staleness_max_hours"] * NS_PER_HOUR == found.staleness_ns.max()
