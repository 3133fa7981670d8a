"""Ranks across the class against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY

Of = Callable[..., pl.DataFrame]


def notional(f: pd.DataFrame) -> pd.Series:
    return f.close_adj * f.volume_adj


def by_symbol(f: pd.DataFrame, of: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
    return pd.concat([of(rows) for _, rows in f.groupby("symbol")]).reindex(f.index)


def mean(x: pd.Series) -> pd.Series:
    return x.rolling(10, min_periods=8).mean()


def price_of_volume(f: pd.DataFrame) -> pd.Series:
    return mean(np.log(f.close_adj).diff().abs() / notional(f).where(notional(f) > 0))


RANKED = {
    "rank_ret_short": lambda f: f.ret_short,
    "rank_ret_medium": lambda f: f.ret_medium,
    "rank_ret_long": lambda f: f.ret_long,
    "rank_vol": lambda f: f.vol_ewma,
    "rank_turnover": lambda f: by_symbol(f, lambda rows: mean(notional(rows))),
    "rank_amihud": lambda f: by_symbol(f, price_of_volume),
}


@pytest.mark.parametrize("name", RANKED)
def test_rank_is_that_of_pandas_among_at_least_three(panel: pl.DataFrame, precise: pl.DataFrame, name: str) -> None:
    values = panel.select("symbol", "ts_ns", "close_adj", "volume_adj").join(precise, on=["symbol", "ts_ns"]).to_pandas().fillna(np.nan)
    value = RANKED[name](values)
    rank = value.groupby(values.ts_ns).rank(method="average")
    count = value.groupby(values.ts_ns).transform("count")
    expected = ((rank - 0.5) / count - 0.5).where(count >= 3)
    assert expected.notna().sum() > 100
    np.testing.assert_allclose(values[name], expected, atol=1e-12)


def test_equal_values_share_the_middle_of_their_ranks(make_bars: Of, exact: Of) -> None:
    one = make_bars(seed=2, num_symbols=1, num_times=60, gap_share=0.0)
    same = pl.concat([one.with_columns(pl.lit(symbol).alias("symbol")) for symbol in ("A", "B", "C")])
    assert exact(same)["rank_ret_short"].drop_nans().unique().to_list() == [0.0]


def test_a_bar_is_not_ranked_against_what_was_known_later(make_bars: Of, exact: Of) -> None:
    bars = make_bars(seed=2, num_symbols=4, num_times=60, gap_share=0.0)
    late = bars.with_columns((pl.col("known_ns") + pl.when(pl.col("symbol") == "S00").then(NS_PER_DAY // 2).otherwise(0)).alias("known_ns"))
    without = exact(bars.filter(pl.col("symbol") != "S00"))
    with_late = exact(late)
    assert with_late.filter(pl.col("symbol") != "S00")["rank_vol"].equals(without["rank_vol"])
    assert with_late.filter(pl.col("symbol") == "S00")["rank_vol"].equals(exact(bars).filter(pl.col("symbol") == "S00")["rank_vol"])
