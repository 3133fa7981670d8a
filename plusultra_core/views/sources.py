"""Series that a view shows: of a whole class, of one symbol, of a side table, of a symbol within its class."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from plusultra_core.arrays import Float64Array, Int64Array
from plusultra_core.errors import ContractError
from plusultra_core.views import kernels


@dataclass(frozen=True, slots=True)
class ClassBars:
    """The bars of a class as arrays, symbols end to end, and the same rows by time."""

    symbols: tuple[str, ...]
    starts: Int64Array
    symbol: pl.Series
    ts_ns: Int64Array
    known_ns: Int64Array
    """When the row and all before it of its symbol were known."""
    level: Float64Array
    """Log close, NaN where missing."""
    ret: Float64Array
    """Log return since the symbol's previous bar."""
    times_ns: Int64Array
    order: Int64Array
    bounds: Int64Array
    """Rows of time t are order[bounds[t]:bounds[t + 1]], rising in known_ns."""

    def grid(self) -> pl.DataFrame:
        """ts_ns, known_ns, one row a decision time of the class; a row for all must be known to the earliest symbol."""
        earliest = self.known_ns[self.order[self.bounds[:-1]]]
        return pl.DataFrame({"ts_ns": self.times_ns, "known_ns": np.maximum.accumulate(earliest)})


def class_bars(bars: pl.DataFrame) -> ClassBars:
    """Arrays of a frame of bars.

    Raises  ContractError where rows do not rise in symbol, then ts_ns.
    """
    runs = bars["symbol"].rle().struct.unnest()
    symbols = tuple(runs["value"].to_list())
    starts = np.concatenate([[0], np.cumsum(runs["len"].to_numpy())]).astype(np.int64)
    ts_ns = bars["ts_ns"].to_numpy()
    rises = np.diff(ts_ns) > 0
    rises[starts[1:-1] - 1] = True
    if len(set(symbols)) != len(symbols) or not rises.all():
        raise ContractError(f"bars: {int((~rises).sum())} rows out of order or twice; expected rising symbol, ts_ns; sort them")
    known_ns = kernels.rising(bars["known_ns"].to_numpy(), starts)
    close = bars["close_adj"].cast(pl.Float64).to_numpy()
    level = np.full(close.shape, np.nan)
    np.log(close, out=level, where=close > 0.0)
    times_ns = bars["ts_ns"].unique().sort().to_numpy()
    order, bounds = kernels.by_time(ts_ns, known_ns, starts, times_ns)
    return ClassBars(symbols, starts, bars["symbol"], ts_ns, known_ns, level, kernels.step(level, starts), times_ns, order, bounds)


def class_series(own: ClassBars, features: pl.DataFrame, momentum: str) -> pl.DataFrame:
    """One row a bar time of the class, and one more each time a late symbol of that bar becomes known.

    Columns: ts_ns, known_ns, level (sum so far of the equal-weight mean log return), mom (mean of the momentum
    feature), dispersion (standard deviation of log returns across the symbols; null under two).
    """
    mom, mom_known_ns = _momentum(own, features, momentum)
    known_ns = np.maximum(own.known_ns, mom_known_ns)
    order, bounds = own.order, own.bounds
    if not np.array_equal(known_ns, own.known_ns):
        order, bounds = kernels.by_time(own.ts_ns, known_ns, own.starts, own.times_ns)
    t_M, known_M, (mean, mom_M, dispersion) = kernels.class_moments(own.ret, mom, known_ns, order, bounds)
    # What a row adds to what was thought of its bar before, summed in the order in which it became known.
    before = np.concatenate([[0.0], np.where(np.diff(t_M) == 0, mean[:-1], 0.0)])
    rank = np.lexsort((t_M, known_M)) if (np.diff(known_M) < 0).any() else slice(None)
    values = {"level": np.cumsum((mean - before)[rank]), "mom": mom_M[rank], "dispersion": dispersion[rank]}
    return pl.DataFrame({"ts_ns": own.times_ns[t_M[rank]], "known_ns": known_M[rank], **values}, nan_to_null=True)


def _momentum(own: ClassBars, features: pl.DataFrame, name: str) -> tuple[Float64Array, Int64Array]:
    """The feature and when it was known on each bar; a bar without features has NaN, known as soon as the bar is."""
    mom = features.select("symbol", "ts_ns", pl.col(name).cast(pl.Float64), pl.col("known_ns").alias("mom_known_ns"))
    keys = pl.DataFrame({"symbol": own.symbol, "ts_ns": own.ts_ns})
    if not mom.select("symbol", "ts_ns").equals(keys):
        mom = keys.join(mom, on=["symbol", "ts_ns"], how="left", validate="1:1", maintain_order="left")
    known_ns = mom["mom_known_ns"].fill_null(np.iinfo(np.int64).min).to_numpy()
    return mom[name].fill_null(np.nan).to_numpy(), known_ns


def symbol_series(own: ClassBars, symbol: str, z_window: int, z_min_count: int, clip: float) -> pl.DataFrame:
    """One row a bar of the symbol: ts_ns, known_ns, level (log close), z (of the level in its own last z_window bars, clipped)."""
    s = own.symbols.index(symbol)
    rows = slice(int(own.starts[s]), int(own.starts[s + 1]))
    series = pl.DataFrame({"ts_ns": own.ts_ns[rows], "known_ns": own.known_ns[rows], "level": own.level[rows]}, nan_to_null=True)
    return with_deviation(series, z_window, z_min_count, clip)


def side_series(side_tables: pl.DataFrame, table: str, field: str, symbol: str | None, log: bool) -> pl.DataFrame:
    """One row a time at which something of the field became known: ts_ns, known_ns, expires_ns (null: never), level.

    symbol  null: rows of the market as a whole; `*`: the mean over all symbols of that ts_ns known by then, revisions
            left out, that expires with the first of them; else that symbol's.
    Looks   back: level is the value, or its logarithm, of the newest row known.
    """
    named = (
        pl.col("symbol").is_null() if symbol is None else pl.col("symbol").is_not_null() if symbol == "*" else pl.col("symbol") == symbol
    )
    chosen = (pl.col("table") == table) & (pl.col("field") == field) & named & pl.col("value").is_finite()
    rows = side_tables.filter(chosen & ((pl.col("value") > 0.0) if log else pl.lit(True)))
    if "expires_ns" not in rows.columns:
        rows = rows.with_columns(expires_ns=pl.lit(None, pl.Int64))
    if symbol == "*":
        rows = rows.sort("ts_ns", "symbol", "known_ns").unique(["ts_ns", "symbol"], keep="first", maintain_order=True)
        at_once = (pl.col("value").sum(), pl.col("expires_ns").min(), pl.len().cast(pl.Int64).alias("count"))
        sums = rows.group_by("ts_ns", "known_ns").agg(*at_once).sort("ts_ns", "known_ns")
        so_far = (pl.col("value", "count").cum_sum(), pl.col("expires_ns").cum_min().forward_fill())
        rows = sums.with_columns(part.over("ts_ns") for part in so_far).with_columns(pl.col("value") / pl.col("count"))
    rows = rows.sort("known_ns", "ts_ns").filter(pl.col("ts_ns") >= pl.col("ts_ns").cum_max())
    level = pl.col("value").log() if log else pl.col("value")
    return rows.select("ts_ns", "known_ns", "expires_ns", level.alias("level"))


def relative_series(
    ret: Float64Array, against: Float64Array, starts: Int64Array, window: int, min_count: int, max_lag: int
) -> dict[str, Float64Array]:
    """How returns go with other returns on the same rows, over the last `window` rows of each segment.

    beta, corr; strength (mean of the difference over its standard deviation times sqrt(window): a t-value without the
    degrees of freedom); under max_lag > 0 also lead (the correlation with the others of 1 to max_lag rows earlier that
    is largest in size) and lead_bars (its lag).
    """
    beta, corr, strength = kernels.relative(ret, against, starts, window, min_count)
    values = {"beta": beta, "corr": corr, "strength": strength}
    if max_lag:
        values["lead"], values["lead_bars"] = kernels.lead(ret, against, starts, window, min_count, max_lag)
    return values


def with_deviation(series: pl.DataFrame, window: int, min_count: int, clip: float) -> pl.DataFrame:
    """And `z`: the level in deviations from its own last `window` rows, clipped; null where they do not vary."""
    level = pl.col("level")
    mean = level.rolling_mean(window, min_samples=min_count)
    std = level.rolling_std(window, min_samples=min_count, ddof=0)
    return series.with_columns(pl.when(std > 1e-9).then(((level - mean) / std).clip(-clip, clip)).alias("z"))
