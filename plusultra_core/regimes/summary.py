"""What the states did: how often each stood, how long it lasted, what came after it."""

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array
from plusultra_core.regimes.build import COLUMNS

STATES = dict.fromkeys(COLUMNS, ("unknown", "low", "mid", "high")) | {"trend_state": ("unknown", "down", "flat", "up")}
"""Words for the codes 0 to 3 of each column."""
_NUM = 4


def transition_matrix(regimes: pl.DataFrame, column: str) -> Float64Array:
    """Share of steps from state i to state j between neighbouring bars of a symbol, (4, 4).

    A row of a state that never occurs before another bar is zero.
    """
    code = regimes[column].to_numpy().astype(np.int64)
    same = (regimes["symbol"] == regimes["symbol"].shift(1)).fill_null(False).to_numpy()
    pair = (code[:-1] * _NUM + code[1:])[same[1:]]
    counts = np.bincount(pair, minlength=_NUM * _NUM).reshape(_NUM, _NUM).astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    shares: Float64Array = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    return shares


def transitions(regimes: pl.DataFrame) -> pl.DataFrame:
    """Transition matrices of every column, a row a state: column, state, to_0, to_1, to_2, to_3."""
    parts = []
    for column in COLUMNS:
        shares = transition_matrix(regimes, column)
        keys = pl.DataFrame({"column": [column] * _NUM, "state": STATES[column]})
        parts.append(keys.hstack([pl.Series(f"to_{j}", shares[:, j]) for j in range(_NUM)]))
    return pl.concat(parts)


def summary(regimes: pl.DataFrame) -> pl.DataFrame:
    """Rows, share and mean dwell time in bars of each state of every column.

    Columns: column, state, num_rows, share, dwell_bars (null for a state that does not occur).
    """
    parts = []
    for column in COLUMNS:
        runs = regimes.select(pl.struct("symbol", column).rle()).unnest("symbol").select("len", pl.col("value").struct.field(column))
        dwell = runs.group_by(column).agg(pl.col("len").mean().alias("dwell_bars"), pl.col("len").sum().alias("num_rows"))
        states = pl.DataFrame({column: range(_NUM), "state": STATES[column]}, schema={column: pl.Int8, "state": pl.String})
        table = states.join(dwell, on=column, how="left", maintain_order="left").select(
            pl.lit(column).alias("column"),
            "state",
            pl.col("num_rows").fill_null(0).cast(pl.Int64),
            (pl.col("num_rows").fill_null(0) / max(1, regimes.height)).alias("share"),
            "dwell_bars",
        )
        parts.append(table)
    return pl.concat(parts)
