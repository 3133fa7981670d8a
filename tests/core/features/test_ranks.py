"""Ranks across symbols against a slow twin."""

import numpy as np
import pytest

from plusultra_core.features import ranks


@pytest.mark.parametrize("late", [False, True])
def test_a_rank_is_the_share_below_among_what_is_known(late: bool) -> None:
    rng = np.random.default_rng(0)
    ts_ns = np.repeat(np.arange(8), 9)[rng.permutation(72)].astype(np.int64)
    known_ns = ts_ns + (rng.integers(0, 3, 72) if late else 0)
    x = np.round(rng.standard_normal(72), 1)
    x[rng.random(72) < 0.2] = np.nan
    at = ranks.moments(ts_ns)
    found = ranks.cross_rank(x, known_ns, at.order, at.starts, 3)
    plain = getattr(ranks.cross_rank, "py_func", ranks.cross_rank)(x, known_ns, at.order, at.starts, 3)
    np.testing.assert_array_equal(found, plain)
    for i in range(72):
        peers = x[(ts_ns == ts_ns[i]) & (known_ns <= known_ns[i]) & ~np.isnan(x)]
        expected = (np.sum(peers < x[i]) + 0.5 * np.sum(peers == x[i])) / peers.size if peers.size >= 3 and x[i] == x[i] else np.nan
        np.testing.assert_allclose(found[i], expected)
    assert np.isfinite(found).sum() > 20


def test_moments_of_nothing_are_none() -> None:
    at = ranks.moments(np.zeros(0, dtype=np.int64))
    assert at.order.size == 0 and ranks.cross_rank(np.zeros(0), np.zeros(0, dtype=np.int64), at.order, at.starts, 1).size == 0
