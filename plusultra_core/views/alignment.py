"""Backward as-of alignment of one class's series on another class's decision times."""

import polars as pl

from plusultra_core.clock import NS_PER_HOUR

GRID = ("ts_ns", "known_ns")


def as_of(grid: pl.DataFrame, source: pl.DataFrame, max_staleness_ns: int) -> pl.DataFrame:
    """The newest source row known at each grid time, for every feature of the source.

    Shapes  grid: ts_ns, known_ns, rising, one row a decision time; source: ts_ns, known_ns and value
            columns, one row a source time. Result: the rows of grid, the value columns,
            `source_ts_ns` (null before the first row known), `staleness_ns`, `stale`.
    Looks   back: source.known_ns <= grid.known_ns. Values of a stale row are null, its staleness is kept.
    """
    values = [name for name in source.columns if name not in GRID]
    right = (
        source.sort("known_ns", "ts_ns")
        .filter(pl.col("ts_ns") >= pl.col("ts_ns").cum_max())
        .unique("known_ns", keep="last", maintain_order=True)
        .rename({"ts_ns": "source_ts_ns"})
    )
    joined = grid.join_asof(right, on="known_ns", strategy="backward")
    joined = joined.with_columns((pl.col("known_ns") - pl.col("source_ts_ns")).alias("staleness_ns"))
    stale = (pl.col("staleness_ns") > max_staleness_ns).fill_null(False)
    return joined.with_columns(stale.alias("stale"), *(pl.when(~stale).then(pl.col(name)).alias(name) for name in values))


def difference(level: str) -> pl.Expr:
    """Change of an aligned level since the previous decision time: the return that became known in between.

    0 where no new source row came: a return is never repeated. Null where either end is missing or stale.
    """
    return pl.col(level) - pl.col(level).shift(1)


def audit(aligned: pl.DataFrame, feature: str, source_class: str) -> pl.DataFrame:
    """What an alignment fills, before it fills: one row for one feature.

    num_fresh rows meet a source row for the first time, num_carried repeat one, num_stale are too old and
    nulled, num_before come before anything was known (and stay null: nothing is filled backward).
    """
    new = pl.col("source_ts_ns").is_not_null() & pl.col("source_ts_ns").ne_missing(pl.col("source_ts_ns").shift(1))
    stale = pl.col("stale") & ~new
    return aligned.select(
        pl.lit(feature).alias("feature"),
        pl.lit(source_class).alias("source_class"),
        pl.len().cast(pl.Int64).alias("num_rows"),
        (new & ~pl.col("stale")).sum().cast(pl.Int64).alias("num_fresh"),
        (~new & ~pl.col("stale") & pl.col("source_ts_ns").is_not_null()).sum().cast(pl.Int64).alias("num_carried"),
        (stale | (new & pl.col("stale"))).sum().cast(pl.Int64).alias("num_stale"),
        pl.col("source_ts_ns").is_null().sum().cast(pl.Int64).alias("num_before"),
        (pl.col("staleness_ns").median() / NS_PER_HOUR).alias("staleness_median_hours"),
        (pl.col("staleness_ns").max() / NS_PER_HOUR).alias("staleness_max_hours"),
    )
