"""Series that a view shows: of a whole class, of one symbol, of a symbol within its class."""

import polars as pl


def returns(bars: pl.DataFrame) -> pl.DataFrame:
    """symbol, ts_ns, known_ns and `ret`, the log return since the symbol's previous bar."""
    price = pl.col("close_adj").log()
    return bars.select("symbol", "ts_ns", pl.col("known_ns").cum_max().over("symbol"), (price - price.shift(1).over("symbol")).alias("ret"))


def class_series(bars: pl.DataFrame, features: pl.DataFrame, momentum: str) -> pl.DataFrame:
    """One row a bar time of the class, and one more each time a late symbol of that bar becomes known.

    Columns: ts_ns, known_ns, level (sum so far of the equal-weight mean log return), mom (mean of the momentum
    feature), dispersion (standard deviation of log returns across the symbols; null under two).
    """
    mom = features.select("symbol", "ts_ns", pl.col(momentum).fill_nan(None).alias("mom"), pl.col("known_ns").alias("mom_known_ns"))
    rows = returns(bars).join(mom, on=["symbol", "ts_ns"], how="left", validate="1:1", maintain_order="left")
    known = pl.max_horizontal("known_ns", "mom_known_ns").alias("known_ns")
    parts = rows.group_by("ts_ns", known, maintain_order=True).agg(
        pl.col("ret").count().cast(pl.Int64).alias("num_ret"),
        pl.col("ret").sum().alias("sum_ret"),
        (pl.col("ret") ** 2).sum().alias("sum_squares"),
        pl.col("mom").count().cast(pl.Int64).alias("num_mom"),
        pl.col("mom").sum().alias("sum_mom"),
    )
    parts = parts.sort("ts_ns", "known_ns").with_columns(
        pl.col("num_ret", "sum_ret", "sum_squares", "num_mom", "sum_mom").cum_sum().over("ts_ns")
    )
    mean = pl.when(pl.col("num_ret") > 0).then(pl.col("sum_ret") / pl.col("num_ret")).otherwise(0.0)
    # What a row adds to what was thought of its bar before, summed in the order in which it became known.
    parts = parts.with_columns((mean - mean.shift(1).over("ts_ns").fill_null(0.0)).alias("change")).sort("known_ns", "ts_ns")
    spread = (pl.col("sum_squares") - pl.col("sum_ret") ** 2 / pl.col("num_ret")).clip(lower_bound=0.0)
    return parts.select(
        "ts_ns",
        "known_ns",
        pl.col("change").cum_sum().alias("level"),
        pl.when(pl.col("num_mom") > 0).then(pl.col("sum_mom") / pl.col("num_mom")).alias("mom"),
        pl.when(pl.col("num_ret") > 1).then((spread / (pl.col("num_ret") - 1)).sqrt()).alias("dispersion"),
    )


def symbol_series(bars: pl.DataFrame, symbol: str, z_window: int, z_min_count: int, clip: float) -> pl.DataFrame:
    """One row a bar of the symbol: ts_ns, known_ns, level (log close), z (of the level in its own last z_window bars, clipped)."""
    level = pl.col("close_adj").log()
    mean = level.rolling_mean(z_window, min_samples=z_min_count)
    std = level.rolling_std(z_window, min_samples=z_min_count, ddof=0)
    z = pl.when(std > 1e-9).then(((level - mean) / std).clip(-clip, clip))
    own = bars.filter(pl.col("symbol") == symbol)
    return own.select("ts_ns", pl.col("known_ns").cum_max(), level.alias("level"), z.alias("z"))


def relative_series(bars: pl.DataFrame, window: int, min_count: int) -> pl.DataFrame:
    """Each symbol against the equal-weight mean return of the other symbols of that time known by then.

    Columns: symbol, ts_ns, known_ns, beta and corr of its returns to theirs over `window` bars, strength (mean
    of the difference over its standard deviation times sqrt(window): a t-value without the degrees of freedom).
    """
    rows = returns(bars)
    sums = rows.group_by("ts_ns", "known_ns", maintain_order=True).agg(
        pl.col("ret").sum().alias("total"), pl.col("ret").count().cast(pl.Int64).alias("count")
    )
    sums = sums.sort("ts_ns", "known_ns").with_columns(pl.col("total", "count").cum_sum().over("ts_ns"))
    rows = rows.join(sums, on=["ts_ns", "known_ns"], how="left", validate="m:1", maintain_order="left")
    several = pl.col("ret").is_not_null() & (pl.col("count") > 1)
    rows = rows.with_columns(pl.when(several).then((pl.col("total") - pl.col("ret")) / (pl.col("count") - 1)).alias("others"))
    rows = rows.with_columns((pl.col("ret") - pl.col("others")).alias("excess"), pl.when(pl.col("others").is_not_null()).then("ret"))

    def mean(x: pl.Expr) -> pl.Expr:
        return x.rolling_mean(window, min_samples=min_count).over("symbol")

    ret, other, excess = pl.col("ret"), pl.col("others"), pl.col("excess")
    cov = mean(ret * other) - mean(ret) * mean(other)
    var, var_other = mean(ret * ret) - mean(ret) ** 2, mean(other * other) - mean(other) ** 2
    var_excess = mean(excess * excess) - mean(excess) ** 2
    return rows.select(
        "symbol",
        "ts_ns",
        "known_ns",
        pl.when(var_other > 1e-16).then(cov / var_other).alias("beta"),
        pl.when((var > 1e-16) & (var_other > 1e-16)).then((cov / (var * var_other).sqrt()).clip(-1.0, 1.0)).alias("corr"),
        pl.when(var_excess > 1e-16).then(mean(excess) / var_excess.sqrt() * window**0.5).alias("strength"),
    )
