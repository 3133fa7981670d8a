"""Ranks across symbols against a slow twin."""

import numpy as np
import pytest

from plusultra_core.features import ranks


@pytest.mark.parametrize("cells", [1 << 20, 20])
@pytest.mark.parametrize("late", [False, True])
def test_a_rank_is_the_share_below_among_what_is_known(late: bool, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_CELLS", cells)
    rng = np.random.default_rng(0)
    there = rng.random((9, 8)) < 0.8
    ts_ns = np.broadcast_to(10 * np.arange(8, dtype=np.int64), there.shape)[there]
    starts = np.append(0, np.cumsum(there.sum(axis=1)))
    known_ns = ts_ns + (rng.integers(0, 3, ts_ns.size) if late else 0)
    x = np.round(rng.standard_normal(ts_ns.size), 1)
    x[rng.random(x.size) < 0.2] = np.nan
    at = ranks.moments(ts_ns, known_ns, starts, np.unique(ts_ns))
    found = ranks.cross_rank(x, at, 3)
    for name in ("spread", "gather", "rank_rows"):
        monkeypatch.setattr(ranks, name, getattr(getattr(ranks, name), "py_func", getattr(ranks, name)))
    np.testing.assert_array_equal(found, ranks.cross_rank(x, at, 3))
    for i in range(x.size):
        peers = x[(ts_ns == ts_ns[i]) & (known_ns <= known_ns[i]) & ~np.isnan(x)]
        expected = (np.sum(peers < x[i]) + 0.5 * np.sum(peers == x[i])) / peers.size - 0.5 if peers.size >= 3 and x[i] == x[i] else np.nan
        np.testing.assert_allclose(found[i], expected)
    assert np.isfinite(found).sum() > 20


def test_nothing_has_no_rank() -> None:
    none, stamps = np.zeros(0), np.zeros(0, dtype=np.int64)
    assert ranks.cross_rank(none, ranks.moments(stamps, stamps, np.zeros(1, dtype=np.int64), stamps), 1).size == 0
