"""Series of classes and symbols against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR
from plusultra_core.views import kernels, sources

Make = Callable[..., pl.DataFrame]
Features = Callable[[pl.DataFrame], pl.DataFrame]


def wide(bars: pl.DataFrame) -> pd.DataFrame:
    """Log returns since each symbol's previous bar, one column a symbol, one row a time."""
    rows = bars.with_columns(pl.col("close_adj").log().diff().over("symbol").alias("ret"))
    table = rows.pivot(on="symbol", index="ts_ns", values="ret").sort("ts_ns").to_dict(as_series=False)
    return pd.DataFrame(table).set_index("ts_ns").astype(float)


def test_a_class_is_its_equal_weight_mean_and_dispersion(make_class: Make, features_of: Features) -> None:
    bars = make_class(0, ("A", "B", "C"), gap_share=0.2)
    series = sources.class_series(sources.class_bars(bars), features_of(bars), "ret_long")
    returns = wide(bars)
    np.testing.assert_allclose(series["level"].to_numpy(), returns.mean(axis=1).fillna(0.0).cumsum(), atol=1e-12)
    np.testing.assert_allclose(series["dispersion"].to_numpy(), returns.std(axis=1), atol=1e-12)
    momentum = features_of(bars).group_by("ts_ns").agg(pl.col("ret_long").mean()).sort("ts_ns")["ret_long"]
    np.testing.assert_allclose(series["mom"].to_numpy(), momentum.to_numpy(), atol=1e-12)
    assert series["ts_ns"].to_list() == sorted(set(bars["ts_ns"]))


def test_a_symbol_known_late_adds_a_row_when_it_is_known(make_class: Make, features_of: Features) -> None:
    bars = make_class(1, ("A", "B", "C"), num_times=30, late_ns=NS_PER_HOUR)
    series = sources.class_series(sources.class_bars(bars), features_of(bars), "ret_long")
    assert series.height == 60 and series["known_ns"].is_sorted()
    prompt = series.filter(pl.col("known_ns") == pl.col("ts_ns"))
    final = series.filter(pl.col("known_ns") > pl.col("ts_ns"))
    returns = wide(bars)
    before = np.concatenate([[0.0], final["level"].to_numpy()[:-1]])
    np.testing.assert_allclose(prompt["level"].to_numpy() - before, returns[["A", "C"]].mean(axis=1).fillna(0.0), atol=1e-12)
    np.testing.assert_allclose(np.diff(final["level"].to_numpy()), returns.mean(axis=1)[1:], atol=1e-12)


def test_a_named_symbol_is_its_level_and_the_deviation_of_it(make_class: Make) -> None:
    bars = make_class(2, ("A", "B"))
    series = sources.symbol_series(sources.class_bars(bars), "B", 20, 10, 2.0)
    level = pd.Series(np.log(bars.filter(pl.col("symbol") == "B")["close_adj"].to_numpy()))
    rolled = level.rolling(20, min_periods=10)
    np.testing.assert_allclose(series["level"].to_numpy(), level)
    np.testing.assert_allclose(series["z"].to_numpy(), ((level - rolled.mean()) / rolled.std(ddof=0)).clip(-2, 2), rtol=1e-7, atol=1e-9)


def against_others(bars: pl.DataFrame, window: int, min_count: int, max_lag: int) -> pl.DataFrame:
    own = sources.class_bars(bars)
    others = kernels.others_mean(own.ret, own.known_ns, own.order, own.bounds)
    values = sources.relative_series(own.ret, others, own.starts, window, min_count, max_lag)
    return bars.select("symbol", "ts_ns").with_columns(pl.Series(name, value) for name, value in values.items())


def test_a_symbol_is_measured_against_the_others_and_not_itself(make_class: Make) -> None:
    bars = make_class(3, ("A", "B", "C", "D"), gap_share=0.1)
    found = against_others(bars, 20, 12, 0)
    returns = wide(bars)
    for symbol in returns.columns:
        own = returns[symbol].dropna()
        others = returns.drop(columns=symbol).mean(axis=1)[own.index]
        rolled = own.where(others.notna()).rolling(20, min_periods=12)
        excess = (own - others).rolling(20, min_periods=12)
        rows = found.filter((pl.col("symbol") == symbol) & pl.col("ts_ns").is_in(own.index.to_list()))
        beta = rolled.cov(others, ddof=0) / others.rolling(20, min_periods=12).var(ddof=0)
        np.testing.assert_allclose(rows["beta"].to_numpy(), beta, rtol=1e-7)
        np.testing.assert_allclose(rows["corr"].to_numpy(), rolled.corr(others), rtol=1e-7)
        np.testing.assert_allclose(rows["strength"].to_numpy(), excess.mean() / excess.std(ddof=0) * 20**0.5, rtol=1e-7, atol=1e-9)
    assert found["beta"].is_finite().sum() > 200


def test_what_leads_is_the_lag_of_the_largest_correlation(make_class: Make) -> None:
    bars = make_class(7, ("A", "B", "C"), gap_share=0.1)
    found = against_others(bars, 20, 12, 3)
    returns = wide(bars)
    for symbol in returns.columns:
        own = returns[symbol].dropna()
        # Rows of the symbol, its first bar included: a lag counts bars of its own.
        own = pd.concat([pd.Series([np.nan], index=[bars.filter(pl.col("symbol") == symbol)["ts_ns"].min()]), own])
        others = returns.drop(columns=symbol).mean(axis=1).reindex(own.index).where(own.notna())
        lagged = [own.where(others.shift(k).notna()).rolling(20, min_periods=12).corr(others.shift(k)) for k in (1, 2, 3)]
        table = pd.concat(lagged, axis=1).to_numpy()
        some = np.isfinite(table).any(axis=1)
        at = np.where(some, np.nanargmax(np.where(np.isfinite(table), np.abs(table), -1.0), axis=1), 0)
        rows = found.filter(pl.col("symbol") == symbol)
        np.testing.assert_allclose(rows["lead"].to_numpy(), np.where(some, table[np.arange(len(at)), at], np.nan), rtol=1e-7)
        np.testing.assert_array_equal(rows["lead_bars"].to_numpy(), np.where(some, at + 1.0, np.nan))
    assert found["lead"].is_finite().sum() > 150


def test_a_symbol_alone_in_its_class_has_nothing_to_be_measured_against(make_class: Make) -> None:
    found = against_others(make_class(4, ("A",)), 20, 10, 2)
    assert found.select(pl.all().exclude("symbol", "ts_ns").is_finite().sum()).row(0) == (0, 0, 0, 0, 0)


def test_the_kernels_agree_with_themselves_uncompiled(make_class: Make) -> None:
    own = sources.class_bars(make_class(9, ("A", "B", "C"), num_times=60, gap_share=0.2, late_ns=3 * NS_PER_DAY))
    by_time = (own.ts_ns, own.known_ns, own.starts, own.times_ns)
    moments = (own.ret, own.level, own.known_ns, own.order, own.bounds)
    pair = (own.ret, own.level, own.starts, 12, 6)
    for kernel, given in (
        (kernels.rising, (own.known_ns, own.starts)),
        (kernels.step, (own.level, own.starts)),
        (kernels.by_time, by_time),
        (kernels.class_moments, moments),
        (kernels.others_mean, (own.ret, own.known_ns, own.order, own.bounds)),
        (kernels.newest_known, (own.known_ns, own.starts, own.times_ns)),
        (kernels.relative, pair),
        (kernels.lead, (*pair, 3)),
    ):
        compiled, slow = kernel(*given), getattr(kernel, "py_func", kernel)(*given)
        for one, two in zip(compiled, slow, strict=True) if isinstance(compiled, tuple) else ((compiled, slow),):
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12, err_msg=str(kernel))


def test_nothing_of_the_past_moves_when_rows_follow(make_class: Make) -> None:
    """Bit for bit: sums are made anew at fixed rows."""
    bars = make_class(10, ("A", "B", "C"), num_times=150, gap_share=0.1)
    cut = bars["ts_ns"].unique().sort()[97]
    whole, before = against_others(bars, 21, 10, 3), against_others(bars.filter(pl.col("ts_ns") <= cut), 21, 10, 3)
    assert whole.filter(pl.col("ts_ns") <= cut).equals(before)


def test_what_is_said_late_of_an_older_time_is_no_row_of_a_side_series() -> None:
    rows = {"ts_ns": [0, 10, 20, 10, 20], "known_ns": [1, 11, 21, 25, 30], "value": [1.0, 2.0, 3.0, 9.0, 4.0]}
    side = pl.DataFrame(rows).with_columns(table=pl.lit("t"), field=pl.lit("f"), symbol=pl.lit(None, pl.String), expires_ns=pl.lit(99))
    assert sources.side_series(side, "t", "f", None, False)["level"].to_list() == [1.0, 2.0, 3.0, 4.0]


def test_a_mean_over_symbols_expires_with_the_first_of_them() -> None:
    rows = {"symbol": ["A", "B", "C"], "ts_ns": [0] * 3, "known_ns": [1, 2, 3], "value": [1.0, 2.0, 3.0], "expires_ns": [None, 50, 90]}
    side = pl.DataFrame(rows, schema_overrides={"expires_ns": pl.Int64}).with_columns(table=pl.lit("t"), field=pl.lit("f"))
    found = sources.side_series(side, "t", "f", "*", False)
    assert found["level"].to_list() == [1.0, 1.5, 2.0] and found["expires_ns"].to_list() == [None, 50, 50]
