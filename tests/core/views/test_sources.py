"""Series of classes and symbols against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.views import sources

Make = Callable[..., pl.DataFrame]
Features = Callable[[pl.DataFrame], pl.DataFrame]


def wide(bars: pl.DataFrame) -> pd.DataFrame:
    """Log returns since each symbol's previous bar, one column a symbol, one row a time."""
    rows = bars.with_columns(pl.col("close_adj").log().diff().over("symbol").alias("ret"))
    table = rows.pivot(on="symbol", index="ts_ns", values="ret").sort("ts_ns").to_dict(as_series=False)
    return pd.DataFrame(table).set_index("ts_ns").astype(float)


def test_a_class_is_its_equal_weight_mean_and_dispersion(make_class: Make, features_of: Features) -> None:
    bars = make_class(0, ("A", "B", "C"), gap_share=0.2)
    series = sources.class_series(bars, features_of(bars), "ret_long")
    returns = wide(bars)
    np.testing.assert_allclose(series["level"].to_numpy(), returns.mean(axis=1).fillna(0.0).cumsum(), atol=1e-12)
    np.testing.assert_allclose(series["dispersion"].to_numpy(), returns.std(axis=1), atol=1e-12)
    momentum = features_of(bars).group_by("ts_ns").agg(pl.col("ret_long").mean()).sort("ts_ns")["ret_long"]
    np.testing.assert_allclose(series["mom"].to_numpy(), momentum.to_numpy(), atol=1e-12)
    assert series["ts_ns"].to_list() == sorted(set(bars["ts_ns"]))


def test_a_symbol_known_late_adds_a_row_when_it_is_known(make_class: Make, features_of: Features) -> None:
    bars = make_class(1, ("A", "B", "C"), num_times=30, late_ns=NS_PER_HOUR)
    series = sources.class_series(bars, features_of(bars), "ret_long")
    assert series.height == 60 and series["known_ns"].is_sorted()
    prompt = series.filter(pl.col("known_ns") == pl.col("ts_ns"))
    final = series.filter(pl.col("known_ns") > pl.col("ts_ns"))
    returns = wide(bars)
    before = np.concatenate([[0.0], final["level"].to_numpy()[:-1]])
    np.testing.assert_allclose(prompt["level"].to_numpy() - before, returns[["A", "C"]].mean(axis=1).fillna(0.0), atol=1e-12)
    np.testing.assert_allclose(np.diff(final["level"].to_numpy()), returns.mean(axis=1)[1:], atol=1e-12)


def test_a_named_symbol_is_its_level_and_the_deviation_of_it(make_class: Make) -> None:
    bars = make_class(2, ("A", "B"))
    series = sources.symbol_series(bars, "B", 20, 10, 2.0)
    level = pd.Series(np.log(bars.filter(pl.col("symbol") == "B")["close_adj"].to_numpy()))
    rolled = level.rolling(20, min_periods=10)
    np.testing.assert_allclose(series["level"].to_numpy(), level)
    np.testing.assert_allclose(series["z"].to_numpy(), ((level - rolled.mean()) / rolled.std(ddof=0)).clip(-2, 2), rtol=1e-7, atol=1e-9)


def test_a_symbol_is_measured_against_the_others_and_not_itself(make_class: Make) -> None:
    bars = make_class(3, ("A", "B", "C", "D"), gap_share=0.1)
    found = sources.relative_series(bars, 20, 12)
    returns = wide(bars)
    assert found.select("symbol", "ts_ns").equals(bars.select("symbol", "ts_ns"))
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
    assert found["beta"].count() > 200


def test_a_symbol_alone_in_its_class_has_nothing_to_be_measured_against(make_class: Make) -> None:
    found = sources.relative_series(make_class(4, ("A",)), 20, 10)
    assert found.select(pl.col("beta", "corr", "strength").count()).row(0) == (0, 0, 0)
