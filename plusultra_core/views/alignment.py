"""Backward as-of alignment of one class's series on another class's decision times."""

from typing import NamedTuple

import numpy as np
import polars as pl

from plusultra_core.arrays import BoolArray, Float64Array, Int64Array
from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.views import kernels

_NEVER_NS = np.iinfo(np.int64).max


class Aligned(NamedTuple):
    """A series on the rows of another: values NaN where nothing is known or it is too old."""

    values: dict[str, Float64Array]
    staleness_ns: Int64Array
    """The row's known_ns minus the source's ts_ns, 0 where the source speaks of a time to come; -1 before the first source row."""
    new: BoolArray
    """The row meets a source row for the first time."""
    stale: BoolArray


def as_of(known_ns: Int64Array, starts: Int64Array, source: pl.DataFrame, max_staleness_ns: int) -> Aligned:
    """The newest source row known at each row, for every value column of the source.

    Shapes  known_ns (R,) rises between starts; source: ts_ns, known_ns, where values expire expires_ns, and value columns.
    Looks   back: source.known_ns <= known_ns. Values of a stale or expired row are NaN, its staleness is kept. Of rows known at
            the same time the latest counts, and none that is older than what was known before.
    """
    rows, ts_ns, source_known_ns = _in_order(source["ts_ns"].to_numpy(), source["known_ns"].to_numpy())
    row = kernels.newest_known(known_ns, starts, source_known_ns)
    seen = row >= 0
    at = np.maximum(row, 0)
    before = np.concatenate([[-1], row[:-1]])
    before[starts[:-1][starts[:-1] < row.size]] = -1
    names = [name for name in source.columns if name not in ("ts_ns", "known_ns", "expires_ns")]
    if not ts_ns.size:
        nothing = np.zeros(row.size, np.bool_)
        empty = {name: np.full(row.size, np.nan) for name in names}
        return Aligned(values=empty, staleness_ns=np.full(row.size, -1), new=nothing, stale=nothing)
    staleness_ns = np.where(seen, np.maximum(known_ns - ts_ns[at], 0), -1)
    stale = staleness_ns > max_staleness_ns
    if "expires_ns" in source.columns:
        stale |= seen & (known_ns > source["expires_ns"].fill_null(_NEVER_NS).to_numpy()[rows][at])
    use = seen & ~stale
    # Nulls of a float column come out as NaN.
    values = {name: np.where(use, source[name].to_numpy()[rows][at], np.nan) for name in names}
    return Aligned(values=values, staleness_ns=staleness_ns, new=seen & (row != before), stale=stale)


def _in_order(ts_ns: Int64Array, known_ns: Int64Array) -> tuple[Int64Array | slice, Int64Array, Int64Array]:
    """Rows rising in known_ns, then ts_ns, without those older than what was known before."""
    rows: Int64Array | slice = slice(None)
    if (np.diff(known_ns) < 0).any() or (np.diff(ts_ns) < 0).any():
        order = np.lexsort((ts_ns, known_ns))
        rows = order[ts_ns[order] >= np.maximum.accumulate(ts_ns[order])]
    return rows, ts_ns[rows], known_ns[rows]


AUDIT: dict[str, type[pl.DataType]] = {"feature": pl.String, "source_class": pl.String}
AUDIT |= dict.fromkeys(("num_rows", "num_fresh", "num_carried", "num_stale", "num_before"), pl.Int64)
AUDIT |= dict.fromkeys(("staleness_median_hours", "staleness_max_hours"), pl.Float64)
"""Columns of the audit."""


def audit(aligned: Aligned, feature: str, source_class: str) -> dict[str, object]:
    """What an alignment fills, before it fills: one row for one feature.

    num_fresh rows meet a source row for the first time, num_carried repeat one, num_stale are too old and
    nulled, num_before come before anything was known (and stay null: nothing is filled backward).
    """
    seen = aligned.staleness_ns >= 0
    age = aligned.staleness_ns[seen] / NS_PER_HOUR
    return {
        "feature": feature,
        "source_class": source_class,
        "num_rows": seen.size,
        "num_fresh": int((aligned.new & ~aligned.stale).sum()),
        "num_carried": int((seen & ~aligned.new & ~aligned.stale).sum()),
        "num_stale": int(aligned.stale.sum()),
        "num_before": int((~seen).sum()),
        "staleness_median_hours": float(np.median(age)) if age.size else None,
        "staleness_max_hours": float(age.max()) if age.size else None,
    }
