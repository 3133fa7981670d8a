"""The calendar against the standard library."""

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_HOUR
from plusultra_core.data.contract.frames import empty
from plusultra_core.features.build import FeaturesConfig, build
from plusultra_core.features.families import calendar
from plusultra_core.features.indicators import calendar_parts
from plusultra_core.market import MarketConfig

Of = Callable[..., pl.DataFrame]
Check = Callable[[str, Callable[[pd.DataFrame], pd.Series]], None]


def local(f: pd.DataFrame) -> pd.Series:
    return (pd.to_datetime(f.ts_ns - 1, utc=True)).dt.tz_convert("America/New_York")


SLOW = {
    "day_of_week_sin": lambda f: np.sin(2 * np.pi * (local(f).dt.day_of_week + 1) / 7),
    "day_of_week_cos": lambda f: np.cos(2 * np.pi * (local(f).dt.day_of_week + 1) / 7),
    "hour_of_day_sin": lambda f: np.sin(2 * np.pi * (local(f).dt.hour * 60 + local(f).dt.minute + 1) / 1440),
    "hour_of_day_cos": lambda f: np.cos(2 * np.pi * (local(f).dt.hour * 60 + local(f).dt.minute + 1) / 1440),
    "year_sin": lambda f: np.sin(2 * np.pi * (local(f).dt.day_of_year - 1) / 365.25),
    "year_cos": lambda f: np.cos(2 * np.pi * (local(f).dt.day_of_year - 1) / 365.25),
    "days_since_bar": lambda f: np.log1p(pd.to_datetime(f.ts_ns, utc=True).diff().dt.total_seconds() / 86400),
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


def stamped(times: pd.DatetimeIndex) -> pl.DataFrame:
    """Bars of one symbol at these times."""
    ts_ns = times.as_unit("ns").asi8
    frame = pl.DataFrame(
        {"symbol": ["A"] * len(times), "ts_ns": ts_ns, "known_ns": ts_ns, "gap_bars": np.zeros(len(times), dtype=np.int32)}
    )
    return frame.with_columns(pl.lit(10.0).alias(name) for name in ("open_adj", "high_adj", "low_adj", "close_adj", "volume_adj"))


def test_dates_of_two_centuries_are_those_of_pandas() -> None:
    rng = np.random.default_rng(2)
    days = pd.to_datetime(np.unique(rng.integers(-2_000, 90_000, 3_000)), unit="D", utc=True) + pd.Timedelta(hours=20)
    wall_ns = days.tz_localize(None).as_unit("ns").asi8
    weekday, minute, yearday, to_come = calendar_parts(wall_ns)
    np.testing.assert_array_equal(weekday, days.day_of_week)
    np.testing.assert_array_equal(yearday, days.day_of_year - 1)
    np.testing.assert_allclose(to_come, (days.days_in_month - days.day) / days.days_in_month)
    assert set(minute.tolist()) == {20 * 60}


def test_a_bar_knows_how_much_of_the_session_has_passed(of: Of) -> None:
    hours = pd.date_range("2024-07-01 14:30", "2024-07-05 20:00", freq="30min", tz="UTC")
    times = hours[(hours.hour * 60 + hours.minute).isin(range(14 * 60, 20 * 60 + 1)) & (hours.day != 4)]
    position = of(stamped(times)).select(pl.from_epoch("ts_ns", time_unit="ns").alias("time"), "session_position")
    at = {row["time"].strftime("%d %H:%M"): row["session_position"] for row in position.iter_rows(named=True)}
    assert at["01 14:30"] == pytest.approx(1.0 / 6.5) and at["01 20:00"] == 1.0
    # Closes at 13:00 New York on 3 July: the length of an ordinary session is what counts, early closes are not foreseen.
    assert at["03 17:00"] == pytest.approx(3.5 / 6.5) and at["05 14:30"] == pytest.approx(1.0 / 6.5)


def test_the_length_of_the_session_itself_is_not_asked(of: Of, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = pd.date_range("2024-07-01 14:00", periods=8, freq="D", tz="UTC")
    hours = np.array([4, 4, 4, 4, 4, 8, 4, 4])
    known = opens.as_unit("ns").asi8, (opens + pd.to_timedelta(hours, unit="h")).as_unit("ns").asi8
    monkeypatch.setattr(calendar, "session_times", lambda *_: known)
    position = of(stamped(opens[5:7] + pd.Timedelta(hours=2)))["session_position"]
    np.testing.assert_allclose(position.to_numpy(), [2 / 4, 2 / 8])


def test_where_no_calendar_reaches_nobody_knows_how_much_of_a_session_has_passed(
    smoke: FeaturesConfig, market: Callable[[str], MarketConfig]
) -> None:
    bars = stamped(pd.date_range("1955-03-01 08:00", periods=5, freq="D", tz="UTC"))
    hong_kong = dataclasses.replace(market("equity"), calendar="XHKG", session_tz="Asia/Hong_Kong")
    features = build(bars, empty("indicators"), empty("side_tables"), hong_kong, smoke)
    assert features["session_position"].count() == 0 and features["day_of_week_sin"].count() == 5


def test_a_market_that_never_closes_has_days_for_sessions(of: Of) -> None:
    times = pd.date_range("2024-07-01 01:00", "2024-07-03 00:00", freq="1h", tz="UTC")
    position = of(stamped(times), asset_class="crypto_perpetual")["session_position"]
    np.testing.assert_allclose(position.to_numpy(), np.tile(np.arange(1, 25) / 24.0, 2), rtol=1e-6)
