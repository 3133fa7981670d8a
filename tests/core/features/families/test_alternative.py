"""Side tables and indicators, as known at each bar."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MIN
from plusultra_core.errors import ConfigError
from plusultra_core.features.build import FeaturesConfig
from plusultra_core.features.sides import SourceConfig, as_of, column_name

Of = Callable[..., pl.DataFrame]
SIDE = ("table", "symbol", "field", "ts_ns", "known_ns", "value")


@pytest.fixture(scope="module")
def bars(make_bars: Callable[..., pl.DataFrame]) -> pl.DataFrame:
    return make_bars(seed=5, num_symbols=2, num_times=100, gap_share=0.05)


def side_rows(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(zip(SIDE, (pl.String,) * 3 + (pl.Int64,) * 2 + (pl.Float64,), strict=True)), orient="row")


def test_as_of_join_is_the_newest_row_known_and_not_too_old() -> None:
    rng = np.random.default_rng(0)
    keys = pl.DataFrame({"symbol": ["A"] * 40 + ["B"] * 40, "known_ns": np.tile(np.arange(0, 400, 10), 2)})
    ts_ns = rng.integers(0, 350, 60)
    rows = pl.DataFrame(
        {
            "symbol": rng.choice(["A", "B", "C"], 60),
            "ts_ns": ts_ns,
            "known_ns": ts_ns + rng.integers(0, 60, 60),
            "value": rng.standard_normal(60),
        }
    ).unique(["symbol", "ts_ns"], maintain_order=True)
    found = as_of(keys, rows, 45, by_symbol=True)
    for (symbol, known_ns), value in zip(keys.iter_rows(), found, strict=True):
        seen = rows.filter((pl.col("symbol") == symbol) & (pl.col("known_ns") <= known_ns))
        newest = seen.sort("ts_ns").tail(1)
        expected = newest["value"][0] if seen.height and known_ns - newest["known_ns"][0] <= 45 else np.nan
        np.testing.assert_equal(value, expected)
    assert 10 < np.isfinite(found).sum() < 80


def test_a_late_revision_of_an_older_row_does_not_displace_a_newer_one() -> None:
    keys = pl.DataFrame({"symbol": ["A"], "known_ns": [100]})
    rows = pl.DataFrame({"symbol": ["A", "A"], "ts_ns": [50, 40], "known_ns": [50, 90], "value": [1.0, 2.0]})
    assert as_of(keys, rows, 1000, by_symbol=True).tolist() == [1.0]


def test_stamps_that_never_meet_are_joined_all_the_same(bars: pl.DataFrame, of: Of) -> None:
    late = [t + 15 * NS_PER_MIN for t in bars["ts_ns"].unique().sort()]
    rows = [("options_implied_vol", "S00", "iv_30d", t, t, 0.2) for t in late]
    features = of(bars, side=side_rows(rows))
    own = features.filter(pl.col("symbol") == "S00")
    expected = 0.2 - own["vol_ewma"]
    np.testing.assert_allclose(own["implied_spread"][15:].to_numpy(), expected[15:].to_numpy(), rtol=1e-5)
    assert features.filter(pl.col("symbol") == "S01")["implied_spread"].count() == 0


def test_the_planted_signal_lies_in_the_indicator_columns(bars: pl.DataFrame, of: Of) -> None:
    rng = np.random.default_rng(1)
    keys = bars.select("symbol", "ts_ns", "known_ns")
    alpha = rng.standard_normal(bars.height)
    indicators = keys.with_columns(pl.lit("alpha_1").alias("name"), pl.Series("value", alpha))
    features = of(bars, indicators)
    there = features["ind_alpha_1"].is_not_null().to_numpy()
    assert there.mean() > 0.8
    assert np.corrcoef(features["ind_alpha_1"].to_numpy()[there], alpha[there])[0, 1] > 0.97
    np.testing.assert_allclose(features["ind_alpha_1_raw"].to_numpy(), np.arcsinh(alpha))


def test_an_indicator_is_seen_when_known_and_forgotten_when_stale(bars: pl.DataFrame, smoke: FeaturesConfig, of: Of) -> None:
    first = int(bars["ts_ns"][20])
    known = first + 2 * NS_PER_DAY
    row = pl.DataFrame({"symbol": ["S00"], "name": ["x"], "ts_ns": [first], "known_ns": [known], "value": [3.0]})
    features = of(bars, row).filter(pl.col("symbol") == "S00")
    limit = int(smoke.indicators.max_staleness_hours * NS_PER_HOUR)
    seen = features.filter(pl.col("ind_x_raw").is_not_null())["ts_ns"]
    assert seen.to_list() == features.filter(pl.col("ts_ns").is_between(known, known + limit))["ts_ns"].to_list() and seen.len() >= 3


def test_named_indicators_are_columns_even_if_the_dump_lacks_them(bars: pl.DataFrame, smoke: FeaturesConfig, of: Of) -> None:
    cfg = dataclasses.replace(smoke, indicators=dataclasses.replace(smoke.indicators, names=("nowhere",)))
    features = of(bars, cfg=cfg)
    assert features["ind_nowhere"].null_count() == bars.height


def test_no_two_indicators_share_a_column() -> None:
    names = ["x", "x_raw", "X", "x y", "x-y", "x_y", "", "é", "ind_x", "x" * 80, "x" * 81]
    columns = [column for name in names for column in (column_name(name), f"{column_name(name)}_raw")]
    assert len(set(columns)) == len(columns)
    assert column_name("alpha_1") == "ind_alpha_1"


@pytest.mark.parametrize(("hours", "stated"), [(8.0, True), (1.0, True), (8.0, False)])
def test_funding_carry_is_a_rate_a_year(bars: pl.DataFrame, of: Of, hours: float, stated: bool) -> None:
    rows = []
    for symbol, ts in bars.select("symbol", "ts_ns").iter_rows():
        rows.append(("funding_rates", symbol, "rate", ts, ts, 0.0001))
        if stated:
            rows.append(("funding_rates", symbol, "interval_hours", ts, ts, hours))
    features = of(bars, side=side_rows(rows), asset_class="crypto_perpetual")
    np.testing.assert_allclose(features["funding_carry"].drop_nulls().to_numpy(), 0.0001 * 8760 / hours)
    assert features["funding_z"].count() == 0, "a constant rate has no deviations"


def test_an_interval_that_is_corrected_later_is_not_known_before(bars: pl.DataFrame, of: Of) -> None:
    times = bars.filter(pl.col("symbol") == "S00")["ts_ns"].to_list()
    fixed = times[40]
    rows = [("funding_rates", "S00", field, ts, ts, value) for ts in times for field, value in (("rate", 1e-4), ("interval_hours", 8.0))]
    corrected = [("funding_rates", "S00", field, ts, fixed, value) for *_, field, ts, _, value in rows if ts < fixed]
    corrected = [(*row[:5], 1.0 if row[2] == "interval_hours" else row[5]) for row in corrected]
    before, after = (of(bars, side=side_rows(chosen), asset_class="crypto_perpetual") for chosen in (rows, rows + corrected))
    assert before.filter(pl.col("ts_ns") < fixed).equals(after.filter(pl.col("ts_ns") < fixed))
    own = after.filter((pl.col("symbol") == "S00") & (pl.col("ts_ns") >= fixed))
    np.testing.assert_allclose(own["funding_carry"].to_numpy()[-1], 1e-4 * 8760 / 8.0)
    moved = of(bars, side=side_rows(corrected), asset_class="crypto_perpetual").filter(pl.col("symbol") == "S00")
    np.testing.assert_allclose(moved["funding_carry"].drop_nulls().to_numpy(), 1e-4 * 8760)


def test_implied_volatility_of_the_market_is_not_taken_for_that_of_a_symbol(bars: pl.DataFrame, of: Of) -> None:
    rows = [("options_implied_vol", None, "^GSPC.iv_30d", t, t, 0.3) for t in bars["ts_ns"].unique()]
    rows += [("options_implied_vol", "S00", "iv_30d", t, t, 0.5) for t in bars["ts_ns"].unique()]
    features = of(bars, side=side_rows(rows))
    own = features["symbol"] == "S00"
    implied = features["implied_spread"] + features["vol_ewma"]
    np.testing.assert_allclose(implied.filter(own).drop_nulls().to_numpy(), 0.5)
    assert implied.filter(~own).count() == 0
    np.testing.assert_allclose(features["market_vol_level"].to_numpy(), np.log(0.3))
    assert features["market_vol_change"].drop_nulls().unique().to_list() == [0.0]


def test_rates_in_percent_become_fractions_and_their_slope(bars: pl.DataFrame, of: Of) -> None:
    rows = [("macro_rates", None, "UST_3MONTH.value", t, t, 1.5) for t in bars["ts_ns"].unique()]
    rows += [("macro_rates", None, "UST_10YEAR.value", t, t, 2.5 + i / 100) for i, t in enumerate(bars["ts_ns"].unique().sort())]
    features = of(bars, side=side_rows(rows)).filter(pl.col("symbol") == "S00")
    np.testing.assert_allclose(features["rate_level"].to_numpy(), 0.015)
    np.testing.assert_allclose(features["rate_slope"].to_numpy()[:3], 0.01 + np.arange(3) * 1e-4, atol=5e-4)
    assert (features["rate_change"].drop_nulls() > 0.0009).all()


@pytest.mark.parametrize("event", ["CPI", "U.S. CPI (m.o.m.)"])
def test_a_macro_event_is_surprising_by_its_own_past_and_only_once_known(bars: pl.DataFrame, of: Of, event: str) -> None:
    start = int(bars["ts_ns"].min())  # type: ignore[arg-type]
    levels = [100.0, 101.0, 100.5, 103.0]
    rows = []
    for k, level in enumerate(levels):
        ts = start + (5 + 15 * k) * NS_PER_DAY
        rows.append(("macro_calendar", None, f"{event}.actual", ts, ts + 2 * NS_PER_DAY, level))
        if k:
            rows.append(("macro_calendar", None, f"{event}.previous", ts, ts + 2 * NS_PER_DAY, levels[k - 1]))
    features = of(bars, side=side_rows(rows))
    known = start + (5 + 45 + 2) * NS_PER_DAY
    before, after = features.filter(pl.col("ts_ns") < known), features.filter(pl.col("ts_ns") >= known)
    changes = np.array([1.0, -0.5, 2.5])
    assert before["macro_surprise"].count() == 0
    np.testing.assert_allclose(after["macro_surprise"].to_numpy(), 2.5 / np.sqrt((changes**2).mean()))
    days = (after["ts_ns"].to_numpy() - known) / NS_PER_DAY
    np.testing.assert_allclose(after["macro_age"].to_numpy(), np.log1p(days))


def test_a_revised_event_is_held_against_the_event_before_and_counted_once(bars: pl.DataFrame, of: Of) -> None:
    start = int(bars["ts_ns"].min())  # type: ignore[arg-type]
    days = [(5, 5, 100.0), (20, 20, 101.0), (35, 35, 100.5), (50, 50, 103.0), (35, 55, 90.0), (50, 60, 104.5), (65, 75, 104.0)]
    rows = [("macro_calendar", None, "CPI.actual", start + ts * NS_PER_DAY, start + seen * NS_PER_DAY, level) for ts, seen, level in days]
    own = of(bars, side=side_rows(rows)).filter(pl.col("symbol") == "S00")
    day = (own["ts_ns"].to_numpy() - start) / NS_PER_DAY
    found = own["macro_surprise"].to_numpy()
    scale = np.sqrt((np.array([1.0, -0.5, 2.5]) ** 2).mean())
    np.testing.assert_allclose(found[(day >= 50) & (day < 60)], 2.5 / scale, rtol=1e-6)
    np.testing.assert_allclose(found[(day >= 60) & (day < 75)], 4.0 / scale, rtol=1e-6)
    np.testing.assert_allclose(found[day >= 75], -0.5 / np.sqrt((np.array([1.0, -0.5, 2.5, -0.5]) ** 2).mean()), rtol=1e-6)


def test_an_event_of_one_symbol_is_no_news_for_the_others(bars: pl.DataFrame, of: Of) -> None:
    times = bars["ts_ns"].unique().sort().to_list()[::10]
    rows = [("macro_calendar", symbol, "split.actual", t, t, float(k * k)) for k, t in enumerate(times) for symbol in ("S00", "S01")]
    features = of(bars, side=side_rows(rows))
    assert features["macro_surprise"].count() == features["macro_age"].count() == 0


def test_an_extra_source_is_a_column_in_deviations_from_its_past(bars: pl.DataFrame, smoke: FeaturesConfig, of: Of) -> None:
    source = SourceConfig(table="sentiment", fields=("score",), max_staleness_hours=48.0, scale=1.0)
    cfg = dataclasses.replace(smoke, alternative=dataclasses.replace(smoke.alternative, extra={"sentiment": source}))
    scores = np.random.default_rng(3).standard_normal(bars.height)
    rows = [("sentiment", s, "score", t, t, float(v)) for (s, t), v in zip(bars.select("symbol", "ts_ns").iter_rows(), scores, strict=True)]
    found = of(bars, side=side_rows(rows), cfg=cfg)["side_sentiment"]
    there = found.is_not_null().to_numpy()
    assert np.corrcoef(found.to_numpy()[there], scores[there])[0, 1] > 0.95
    assert of(bars, cfg=cfg)["side_sentiment"].count() == 0
    old = [("sentiment", s, "score", t - NS_PER_HOUR, bars["known_ns"].max(), 1e6) for s, t in bars.select("symbol", "ts_ns").iter_rows()]
    late = of(bars, side=side_rows(rows + old), cfg=cfg)["side_sentiment"]
    before = (bars["ts_ns"] < bars["known_ns"].max()).to_numpy()
    np.testing.assert_array_equal(late.to_numpy()[before], found.to_numpy()[before], "what is said later of the past moves nothing before")


@pytest.mark.parametrize(("field", "value"), [("max_columns", -1), ("z_min_count", 1), ("clip", 0.0), ("max_staleness_hours", 0.0)])
def test_nonsense_in_the_config_is_refused(smoke: FeaturesConfig, field: str, value: float) -> None:
    with pytest.raises(ConfigError, match="indicators"):
        dataclasses.replace(smoke.indicators, **{field: value})  # type: ignore[arg-type]
