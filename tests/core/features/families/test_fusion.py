"""Side tables fused with bars, against the columns that they are made of."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import polars as pl
import pytest

Of = Callable[..., pl.DataFrame]


@pytest.fixture(scope="module")
def values(make_bars: Of, exact: Of) -> pd.DataFrame:
    """Features of two symbols with all side tables, beside the close and the two series that the fused ones read anew."""
    bars = make_bars(seed=6, num_symbols=2, num_times=150, gap_share=0.05)
    rng = np.random.default_rng(4)
    keys = bars.select("symbol", "ts_ns", "known_ns")
    wide = keys.unique("ts_ns", keep="first", maintain_order=True).with_columns(pl.lit(None, dtype=pl.String).alias("symbol"))

    def rows(at: pl.DataFrame, table: str, field: str, centre: float) -> pl.DataFrame:
        value = pl.Series("value", centre * np.exp(0.3 * rng.standard_normal(at.height)))
        return at.select(pl.lit(table).alias("table"), "symbol", pl.lit(field).alias("field"), "ts_ns", "known_ns", value)

    sides = [
        rows(keys, "funding_rates", "rate", 1e-4),
        rows(keys, "options_implied_vol", "iv_30d", 0.3),
        rows(wide, "options_implied_vol", "^GSPC.iv_30d", 0.2),
        rows(wide, "macro_rates", "UST_3MONTH.value", 1.0),
        rows(wide, "macro_rates", "UST_10YEAR.value", 2.5),
        rows(wide.gather_every(20), "macro_calendar", "CPI.actual", 100.0),
    ]
    own = [rows(keys, "", name, 1e6).rename({"field": "name"}) for name in ("open_interest", "onchain_n_transactions")]
    indicators = pl.concat(own).select("symbol", "name", "ts_ns", "known_ns", "value").sort("symbol", "ts_ns", "name")
    features = exact(bars, indicators, pl.concat(sides)).with_columns(bars["close_adj"], bars["known_ns"])
    for at, name in ((sides[1], "implied"), (own[0], "open_interest"), (own[1], "onchain")):
        features = features.join(at.select("symbol", "ts_ns", pl.col("value").alias(name)), on=["symbol", "ts_ns"], how="left")
    return features.join(sides[2].select("ts_ns", pl.col("value").alias("market_vol")), on="ts_ns", how="left").to_pandas()


def z(f: pd.DataFrame, x: pd.Series) -> pd.Series:
    rolled = x.groupby(f.symbol).rolling(21, min_periods=17)
    return (x - rolled.mean().droplevel(0)) / rolled.std(ddof=0).droplevel(0)


FUSED = {
    "carry_momentum": lambda f: f.funding_carry / f.vol_ewma * f.ret_medium,
    "implied_trend": lambda f: np.log(f.implied / f.vol_ewma) * f.ret_long,
    "open_interest_confirmation": lambda f: np.log(f.open_interest).groupby(f.symbol).diff(5) * np.sign(f.ret_short),
    "rate_momentum": lambda f: 100 * f.rate_slope * f.ret_long,
    "onchain_divergence": lambda f: z(f, np.log(f.onchain)) - z(f, np.log(f.close_adj)),
    "macro_vol_response": lambda f: f.vol_ratio / np.exp(f.macro_age),
    "fear_response": lambda f: f.market_vol_change * f.ret_short,
    "market_vol_spread": lambda f: np.log(f.market_vol / f.vol_ewma),
    "open_interest_change": lambda f: np.log(f.open_interest).groupby(f.symbol).diff(5),
    "onchain_activity": lambda f: z(f, np.log(f.onchain)),
    "implied_z": lambda f: z(f, np.log(f.implied)),
}


@pytest.mark.parametrize("name", FUSED)
def test_feature_is_its_formula(values: pd.DataFrame, name: str) -> None:
    expected = FUSED[name](values).to_numpy(dtype=float)
    assert np.isfinite(expected).sum() > 100
    np.testing.assert_allclose(values[name].to_numpy(dtype=float), expected, rtol=1e-8, atol=1e-9)


def test_new_money_behind_a_rise_confirms_it_and_behind_a_fall_too_with_the_other_sign(values: pd.DataFrame) -> None:
    rise, more = values.ret_short > 0, values.open_interest_change > 0
    confirmed = values.open_interest_confirmation > 0
    known = values.open_interest_confirmation.notna() & (values.open_interest_confirmation != 0)
    assert (confirmed == (rise == more))[known].all() and known.sum() > 100
