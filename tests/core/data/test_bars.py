"""Bars on the class's grid: nothing lost, nothing invented, nothing known too soon."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, iso
from plusultra_core.data.bars import BarsConfig, build_bars, remarks
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.contract.validation import validate
from plusultra_core.data.corporate_actions import Adjustment
from plusultra_core.data.gate.timestamps import to_ns
from plusultra_core.data.snapshot import take_snapshot
from plusultra_core.data.tables import DataConfig, build_table
from plusultra_core.errors import ConfigError
from plusultra_core.leakage import check_truncation
from plusultra_core.market import MarketConfig

CFG = BarsConfig(as_of=None, adjustment="total_return")
ADJUSTMENTS: tuple[Adjustment, ...] = ("raw", "split", "total_return")
BARS = {"A": "1d", "B": "1h", "C": "1h"}
MONDAY = int(to_ns(pl.Series(["2020-01-06 00:00:00"]), "monday")[0])


def _series(symbol: str, ts_ns: list[int], seed: int = 7, **columns: object) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(rng.normal(0, 0.01, len(ts_ns)).cumsum())
    opened = close * np.exp(rng.normal(0, 0.01, len(ts_ns)))
    spread = np.abs(rng.normal(0, 0.5, len(ts_ns)))
    frame = pl.DataFrame(
        {"symbol": symbol, "ts_ns": ts_ns, "known_ns": ts_ns, "open": opened, "high": np.maximum(opened, close) + spread}
        | {"low": np.minimum(opened, close) - spread, "close": close, "volume": rng.integers(1, 99, len(ts_ns)).astype(float)}
        | {"vwap": close, "turnover": close * 10.0}
    )
    return frame.with_columns(**{name: value if isinstance(value, pl.Expr) else pl.lit(value) for name, value in columns.items()}).cast(
        {"open": pl.Float64, "high": pl.Float64, "low": pl.Float64, "volume": pl.Float64, "vwap": pl.Float64, "turnover": pl.Float64}
    )


def _assets(**bars: str) -> pl.DataFrame:
    rows = [
        {"asset_id": n, "symbol": s, "asset_class": "crypto", "bar": bar, "price_adjustment": "none", "currency": "USD"}
        for n, (s, bar) in enumerate(bars.items())
    ]
    return pl.DataFrame(rows)


def _build(series: pl.DataFrame, market: MarketConfig, **bars: str) -> pl.DataFrame:
    return validate("bars", build_bars(series, _assets(**bars), empty("corporate_actions"), market, CFG))


def _actions(ts_ns: int, action: str, value: float) -> pl.DataFrame:
    number = {"ratio": value, "amount": None} if action == "split" else {"ratio": None, "amount": value}
    row = {"symbol": "A", "ts_ns": ts_ns, "known_ns": ts_ns, "action": action, "currency": None, **number}
    return pl.DataFrame([row], schema=empty("corporate_actions").schema)


@pytest.fixture
def crypto(markets: dict[str, MarketConfig]) -> MarketConfig:
    return markets["crypto"]


def _hours(count: int, first: int = 1) -> list[int]:
    return [MONDAY + (first + index) * NS_PER_HOUR for index in range(count)]


def test_a_bar_is_known_when_all_before_it_are(crypto: MarketConfig) -> None:
    days = [MONDAY + day * NS_PER_DAY for day in range(5)]
    late = pl.Series([0, 3, 0, 0, 0]) * NS_PER_DAY + NS_PER_HOUR
    series = pl.concat([_series("A", days).with_columns(pl.col("known_ns") + late), _series("D", days)])
    bars = _build(series, crypto, A="1d", D="1d")
    assert ((bars["known_ns"] - MONDAY) / NS_PER_HOUR).to_list() == [1, 97, 97, 97, 97, 0, 24, 48, 72, 96]


def test_a_day_that_has_not_ended_is_no_bar(crypto: MarketConfig) -> None:
    series = _series("A", _hours(24 + 23))
    assert _build(series, crypto, A="1h").height == 1
    assert _build(_series("A", _hours(24 + 24)), crypto, A="1h").height == 2
    closed_by_another = pl.concat([series, _series("B", [MONDAY + NS_PER_DAY, MONDAY + 2 * NS_PER_DAY])])
    assert _build(closed_by_another, crypto, A="1h", B="1d").filter(pl.col("symbol") == "A").height == 2


def test_late_rows_make_late_bars(crypto: MarketConfig) -> None:
    late = pl.when(pl.col("ts_ns") == MONDAY + 3 * NS_PER_HOUR).then(pl.col("ts_ns") + NS_PER_DAY).otherwise("ts_ns")
    out = _build(_series("A", _hours(48)).with_columns(known_ns=late), crypto, A="1h")
    assert ((out["known_ns"] - out["ts_ns"]) / NS_PER_HOUR).to_list() == [3.0, 0.0]


def test_coarser_symbols_are_left_out(crypto: MarketConfig) -> None:
    series = pl.concat([_series("A", [MONDAY + NS_PER_DAY * i for i in range(3)]), _series("B", [MONDAY, MONDAY + 7 * NS_PER_DAY])])
    assert _build(series, crypto, A="1d", B="1w")["symbol"].unique().to_list() == ["A"]


def test_hours_stay_hours_where_the_grid_is_hourly(crypto: MarketConfig) -> None:
    hourly = replace(crypto, bar="1h")
    series = pl.concat([_series("A", _hours(5)), _series("B", [MONDAY + (i + 1) * NS_PER_HOUR // 4 for i in range(20)])])
    out = _build(series, hourly, A="1h", B="15m")
    assert out.group_by("symbol").len().sort("symbol").rows() == [("A", 5), ("B", 5)]
    assert out.filter(pl.col("symbol") == "A")["close"].to_list() == series.filter(pl.col("symbol") == "A")["close"].to_list()


def test_close_only_symbols_have_no_range(crypto: MarketConfig) -> None:
    days = [MONDAY + NS_PER_DAY * i for i in range(3)]
    out = _build(_series("A", days, open=None, high=None, low=None, volume=None), crypto, A="1d")
    assert out["has_ohl"].any() is False and out["has_volume"].any() is False
    for name in ("open", "high", "low", "open_adj", "high_adj", "low_adj", "volume", "volume_adj"):
        assert out[name].null_count() == 3
    partly = _build(_series("A", days, open=None), crypto, A="1d")
    assert partly["high"].null_count() == 3 and partly["has_ohl"].any() is False and partly["close_adj"].null_count() == 0


def test_gaps_are_counted_on_the_calendar_of_the_class(crypto: MarketConfig, markets: dict[str, MarketConfig]) -> None:
    days = [MONDAY + NS_PER_DAY * i for i in range(10)]
    series = pl.concat([_series("A", days), _series("B", [days[2], days[3], days[7], days[9]])])
    out = _build(series, crypto, A="1d", B="1d")
    assert out.filter(pl.col("symbol") == "A")["gap_bars"].to_list() == [0] * 10
    assert out.filter(pl.col("symbol") == "B")["gap_bars"].to_list() == [0, 0, 3, 1]
    alone = _build(_series("B", [days[2], days[3], days[7], days[9]]), crypto, B="1d")
    assert alone["gap_bars"].to_list() == [0, 0, 3, 1]  # nobody else's bars are needed to miss one
    at_close = _series("A", to_ns(pl.Series([f"2020-01-{day:02} 21:00:00" for day in (2, 3, 6, 8)]), "t").to_list())
    assert _build(at_close, markets["equity"], A="1d")["gap_bars"].to_list() == [0, 0, 0, 1]


def test_nothing_is_filled_and_nothing_stands_before_the_first_bar(crypto: MarketConfig) -> None:
    days = [MONDAY + NS_PER_DAY * i for i in range(10)]
    series = pl.concat([_series("A", days), _series("B", days[6:])])
    out = _build(series, crypto, A="1d", B="1d")
    assert out.height == 14 and out.filter(pl.col("symbol") == "B")["ts_ns"].min() == days[6]
    assert out.select("symbol", "ts_ns", "close").equals(series.select("symbol", "ts_ns", "close"))


def test_an_adjusted_bar_is_worth_what_the_raw_one_is(crypto: MarketConfig) -> None:
    days = [MONDAY + NS_PER_DAY * i for i in range(4)]
    actions = _actions(days[2], "split", 4.0)
    out = validate("bars", build_bars(_series("A", days), _assets(A="1d"), actions, crypto, CFG))
    assert out["adj_factor"].to_list() == [1.0, 1.0, 4.0, 4.0]
    np.testing.assert_allclose(out["close_adj"] * out["volume_adj"], out["close"] * out["volume"], rtol=1e-15)
    as_of = replace(CFG, as_of="2020-01-07 23:00:00")
    assert build_bars(_series("A", days), _assets(A="1d"), actions, crypto, as_of)["adj_factor"].to_list() == [1.0] * 4


def test_a_split_inside_a_window_does_not_tear_its_range(crypto: MarketConfig) -> None:
    hours = _hours(48)
    before = pl.col("ts_ns") < hours[12]
    flat = {name: pl.when(before).then(300.0).otherwise(100.0) for name in ("open", "high", "low", "close")}
    actions = _actions(hours[12], "split", 3.0)
    out = build_bars(_series("A", hours, **flat), _assets(A="1h"), actions, crypto, CFG)
    assert out["high"][0] / out["low"][0] == 3.0 and out["adj_factor"].to_list() == [3.0, 3.0]
    for name in ("open_adj", "high_adj", "low_adj", "close_adj"):
        assert out[name].to_list() == [300.0, 300.0]
    volume = _series("A", hours)["volume"]
    assert out["volume_adj"][0] == pytest.approx(volume[:12].sum() + volume[12:24].sum() / 3.0)


def test_bars_are_adjusted_as_far_as_is_asked(crypto: MarketConfig) -> None:
    days = [MONDAY + NS_PER_DAY * i for i in range(4)]
    series = _series("A", days)
    actions = pl.concat([_actions(days[2], "split", 4.0), _actions(days[3], "dividend", 1.0)])
    modes = {mode: build_bars(series, _assets(A="1d"), actions, crypto, replace(CFG, adjustment=mode)) for mode in ADJUSTMENTS}
    assert modes["raw"]["adj_factor"].to_list() == [1.0] * 4 and modes["raw"]["close_adj"].equals(series["close"].rename("close_adj"))
    assert modes["split"]["adj_factor"].to_list() == [1.0, 1.0, 4.0, 4.0]
    paid = 4.0 * series["close"][2] / (series["close"][2] - 1.0)
    assert modes["total_return"]["adj_factor"].to_list() == pytest.approx([1.0, 1.0, 4.0, paid], rel=1e-15)
    for bars in modes.values():
        np.testing.assert_allclose(bars["close_adj"] * bars["volume_adj"], bars["close"] * bars["volume"], rtol=1e-15)


def test_rows_that_are_known_late_do_not_close_a_window_early(crypto: MarketConfig) -> None:
    lagged = _series("A", _hours(24 + 23)).with_columns(known_ns=pl.col("ts_ns") + 2 * NS_PER_HOUR)
    assert _build(lagged, crypto, A="1h")["ts_ns"].to_list() == [MONDAY + NS_PER_DAY]


def test_a_class_without_series_has_no_bars(crypto: MarketConfig) -> None:
    assert _build(empty("series"), crypto, A="1d").height == 0


def test_what_is_odd_about_bars_is_said(crypto: MarketConfig) -> None:
    assert remarks(_assets(A="1d", B="1h"), crypto, CFG) == {}
    odd = _assets(A="1d", B="1d", C="1w").with_columns(
        currency=pl.Series(["USD", "EUR", None]), price_adjustment=pl.Series(["none", "split+dividend", "split"])
    )
    told = remarks(odd, crypto, replace(CFG, adjustment="split"))
    assert told["coarser"] == "assets.bar: coarser than 1d and left out of bars: C; give the class a coarser bar"
    assert "expected USD, that of the account, found others in B;" in told["currencies"]
    assert told["adjusted"].startswith("assets.price_adjustment: further than split by their source: B;")


def test_the_date_of_the_actions_is_a_time() -> None:
    with pytest.raises(ConfigError, match="as_of: 1 timestamps cannot be read"):
        BarsConfig(as_of="soon", adjustment="raw")


def test_bars_of_the_past_do_not_move_when_the_future_is_cut(
    real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(real_dump("market_2017_a"), tmp_path, data_cfg, markets)
    for asset_class in ("forex", "equity"):
        frames = {
            name: build_table(name, snapshot.path, asset_class, markets, data_cfg) for name in ("series", "assets", "corporate_actions")
        }

        def build(inputs: dict[str, pl.DataFrame], market: MarketConfig = markets[asset_class]) -> pl.DataFrame:
            return build_bars(inputs["series"], inputs["assets"], inputs["corporate_actions"], market, data_cfg.bars)

        check_truncation(build, frames, num_cuts=3, seed=7)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(("crypto", "equity", "forex")), st.floats(0.3, 1.0))
def test_no_bar_of_a_random_class_knows_its_future(markets: dict[str, MarketConfig], seed: int, asset_class: str, density: float) -> None:
    rng = np.random.default_rng(seed)
    start = MONDAY + 21 * NS_PER_HOUR  # the close in New York, in winter
    ends = {"1d": [start + NS_PER_DAY * i for i in range(20)], "1h": [start + NS_PER_HOUR * i for i in range(20 * 24)]}
    drawn = {symbol: [ts for ts in ends[bar] if rng.random() < density] for symbol, bar in BARS.items()}
    series = pl.concat([_series(symbol, ts, seed % 1000) for symbol, ts in drawn.items() if ts])
    lost = pl.Series(rng.random(series.height) < 0.1)
    series = series.with_columns(pl.when(~lost).then(pl.col(name)).alias(name) for name in ("open", "volume"))
    times = rng.uniform(0, 20, 6)
    actions = pl.concat(
        [_actions(start + int(time * NS_PER_DAY), "split" if place % 2 else "dividend", 2.0).with_columns(symbol=pl.lit("ABC"[place % 3]))
         for place, time in enumerate(times)]
    )  # fmt: skip
    actions = actions.with_columns(known_ns=pl.col("ts_ns") + pl.Series(rng.integers(-2, 3, 6)) * NS_PER_DAY)
    assets, market = _assets(**BARS), markets[asset_class]
    full = build_bars(series, assets, actions, market, CFG)
    for cut_ns in rng.choice(series["ts_ns"].to_numpy(), 3):
        known = pl.col("known_ns") <= int(cut_ns)
        noise = pl.when(known).then(pl.col("close")).otherwise(pl.col("close") * 3)
        for past in (series.filter(known), series.with_columns(close=noise)):
            seen = build_bars(past, assets, actions.filter(known), market, CFG)
            sure = full.filter(known)  # bars that an action known too late has changed are known late themselves
            assert seen.join(sure, on=["symbol", "ts_ns"], how="semi", maintain_order="left").equals(sure)


def test_hourly_forex_meets_daily_forex_on_one_grid(
    real_dump: Callable[[str], Path], tmp_path: Path, data_cfg: DataConfig, markets: dict[str, MarketConfig]
) -> None:
    snapshot = take_snapshot(real_dump("market_2017_a"), tmp_path, data_cfg, markets)
    series, assets = (build_table(name, snapshot.path, "forex", markets, data_cfg) for name in ("series", "assets"))
    bars = build_bars(series, assets, empty("corporate_actions"), markets["forex"], data_cfg.bars)
    days = {symbol: set(bars.filter(pl.col("symbol") == symbol)["ts_ns"]) for symbol in ("EURUSD", "GBPUSD")}
    assert len(days["EURUSD"]) > 400 and days["EURUSD"] <= days["GBPUSD"]
    assert iso(int(bars["ts_ns"].max())) == "2017-06-30T00:00:00Z"  # type: ignore[arg-type]
    hours = series.filter((pl.col("symbol") == "EURUSD") & (pl.col("ts_ns") <= max(days["EURUSD"])))
    euro = bars.filter(pl.col("symbol") == "EURUSD")
    assert euro["high"].max() == hours["high"].max() and euro["low"].min() == hours["low"].min()
    assert euro["close"][-1] == hours["close"][-1] and euro["open"][0] == hours["open"][0]
