"""Ranks across the class against pandas."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.fx import rates_beside
from plusultra_core.market import ExchangeConfig

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


def test_amounts_are_compared_in_the_money_of_the_account(make_bars: Of, of: Of) -> None:
    """The same market with one symbol quoted in hundredths, and the rate beside it, ranks as it did and is as dear to trade."""
    bars = make_bars(seed=4, num_symbols=4, num_times=80, gap_share=0.0)
    first = pl.when(pl.col("symbol") == "S01")
    prices = [f"{name}{end}" for name in ("open", "high", "low", "close") for end in ("", "_adj")]
    pence = bars.with_columns(first.then(100 * pl.col(name)).otherwise(name).alias(name) for name in prices)
    cfg = ExchangeConfig(settlement="cash", cost_bps=0.0, max_staleness_hours=48.0, via=("USD",), at_par=())
    quoted = {"S00": "USD", "S01": "USX", "S02": None, "S03": "USD"}
    beside = rates_beside(quoted, empty("exchange_rates"), "USD", cfg, int(bars["ts_ns"].min()))  # type: ignore[arg-type]
    whole, mended, plain = of(bars), of(pence, side=beside), of(pence)
    for name in ("rank_turnover", "rank_amihud", "amihud"):
        assert np.allclose(mended[name], whole[name], rtol=1e-5, equal_nan=True)
        assert not np.allclose(plain[name], whole[name], rtol=1e-5, equal_nan=True)


def test_before_its_first_rate_an_amount_abroad_is_unknown(make_bars: Of, of: Of) -> None:
    bars = make_bars(seed=4, num_symbols=4, num_times=80, gap_share=0.0)
    times = bars["ts_ns"].unique().sort()
    cfg = ExchangeConfig(settlement="cash", cost_bps=0.0, max_staleness_hours=48.0, via=("USD",), at_par=())
    rates = pl.DataFrame([("EUR", t, t, t + 2 * NS_PER_DAY, 1.25) for t in times[40:]], schema=empty("exchange_rates").schema, orient="row")
    beside = rates_beside(dict.fromkeys(("S00", "S01", "S02", "S03"), "EUR"), rates, "USD", cfg, int(times[0]))
    found = of(bars, side=beside).filter(pl.col("symbol") == "S00").sort("ts_ns")
    assert found["amihud"][:40].null_count() == 40 and found["amihud"][60:].null_count() == 0
    cut = of(bars.filter(pl.col("ts_ns") <= times[30]), side=beside.filter(pl.col("known_ns") <= times[30]))
    assert cut["amihud"].null_count() == cut.height
    assert rates_beside({"S00": "USD", "S01": None}, rates, "USD", cfg, 0).is_empty()
