"""The calendar against the standard library."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_HOUR

Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]


def local(f: pd.DataFrame) -> pd.Series:
    return (pd.to_datetime(f.ts_ns - 1, utc=True)).dt.tz_convert("America/New_York")


SLOW = {
    "day_of_week_sin": lambda f: np.sin(2 * np.pi * (local(f).dt.day_of_week + 1) / 7),
    "day_of_week_cos": lambda f: np.cos(2 * np.pi * (local(f).dt.day_of_week + 1) / 7),
    "hour_of_day_sin": lambda f: np.sin(2 * np.pi * (local(f).dt.hour * 60 + local(f).dt.minute + 1) / 1440),
    "hour_of_day_cos": lambda f: np.cos(2 * np.pi * (local(f).dt.hour * 60 + local(f).dt.minute + 1) / 1440),
    "month_end_distance": lambda f: (local(f).dt.days_in_month - local(f).dt.day) / local(f).dt.days_in_month,
}


@pytest.mark.parametrize("name", SLOW)
def test_feature_is_its_formula(agree: Check, name: str) -> None:
    agree(name, SLOW[name])


def test_missing_bars_are_counted(panel: pl.DataFrame, built: pl.DataFrame) -> None:
    np.testing.assert_allclose(built["bars_missing"].to_numpy(), np.log1p(panel["gap_bars"].to_numpy()))
    assert built["bars_missing"].max() > 0.5


def test_a_close_at_midnight_belongs_to_the_day_that_ends(
    make_bars: Callable[..., pl.DataFrame],
    of: Callable[..., pl.DataFrame],
) -> None:
    bars = make_bars(num_symbols=1, num_times=60, gap_share=0.0, bar_ns=NS_PER_HOUR)
    features = of(bars, asset_class="crypto_perpetual")
    midnight = features.filter(pl.col("ts_ns") % (24 * NS_PER_HOUR) == 0).row(0, named=True)
    day = datetime.fromtimestamp(midnight["ts_ns"] / 1e9 - 1, UTC).astimezone(ZoneInfo("UTC"))
    assert midnight["day_of_week_sin"] == pytest.approx(math.sin(2 * math.pi * day.isoweekday() / 7))
    assert midnight["hour_of_day_cos"] == pytest.approx(1.0)
