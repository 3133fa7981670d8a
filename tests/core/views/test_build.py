"""The cross-asset view: what is in it, how old it is, and that nobody sees tomorrow."""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MIN
from plusultra_core.data.contract.validation import validate
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.leakage import check_poison, check_truncation
from plusultra_core.market import MarketConfig
from plusultra_core.views.build import View, ViewsConfig, build

START_NS = 1_451_682_000_000_000_000
Make = Callable[..., pl.DataFrame]
Features = Callable[[pl.DataFrame], pl.DataFrame]
Markets = Callable[[str], MarketConfig]
Frames = dict[str, pl.DataFrame]
ViewOf = Callable[..., View]


@pytest.fixture(scope="module")
def classes(make_class: Make) -> Frames:
    """Equity at 21:00; ETFs at 21:00 with holes; a volatility index at 21:15; no index."""
    return {
        "equity": make_class(0, ("A", "B", "C"), gap_share=0.1),
        "etf": make_class(1, ("SPY", "TLT"), gap_share=0.3),
        "volatility_index": make_class(2, ("^VIX",), offset_ns=15 * NS_PER_MIN),
    }


@pytest.fixture(scope="module")
def view_of(features_of: Features, market: Markets, smoke: ViewsConfig) -> ViewOf:
    def view(own: str, bars: Frames, cfg: ViewsConfig = smoke, side_tables: Frames | None = None) -> View:
        return build(own, bars, {name: features_of(frame) for name, frame in bars.items()}, side_tables or {}, market(own), cfg)

    return view


def shown(view: View, feature: str) -> pl.DataFrame:
    return view.frame.filter(pl.col("feature") == feature)


@given(
    seed=st.integers(0, 10_000),
    gap_share=st.sampled_from([0.0, 0.3]),
    late_ns=st.sampled_from([0, NS_PER_HOUR, 2 * NS_PER_DAY]),
    offset_ns=st.sampled_from([0, 15 * NS_PER_MIN, -5 * NS_PER_HOUR]),
    first=st.sampled_from([0, 40]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_of_a_view_knows_its_future(
    make_class: Make,
    view_of: ViewOf,
    seed: int,
    gap_share: float,
    late_ns: int,
    offset_ns: int,
    first: int,
) -> None:
    bars = {
        "equity": make_class(seed, ("A", "B", "C"), num_times=70, gap_share=gap_share, late_ns=late_ns),
        "etf": make_class(seed + 1, ("SPY", "TLT"), num_times=70, gap_share=gap_share, offset_ns=offset_ns, late_ns=late_ns, first=first),
        "volatility_index": make_class(seed + 2, ("^VIX",), num_times=70, offset_ns=offset_ns),
    }

    def again(frames: Frames) -> pl.DataFrame:
        return view_of("equity", frames).frame

    validate("view", again(bars))
    check_truncation(again, bars, num_cuts=3, seed=seed)
    check_poison(again, bars, num_cuts=3, seed=seed)


@pytest.mark.parametrize(("stem", "own"), [("market_tiny", "equity"), ("market_2017_a", "etf"), ("crypto_2026_a", "crypto_perpetual")])
def test_no_value_of_a_real_view_knows_its_future(real_bars: Callable[[str], Frames], view_of: ViewOf, stem: str, own: str) -> None:
    bars = real_bars(stem)

    def again(frames: Frames) -> pl.DataFrame:
        return view_of(own, frames).frame

    check_truncation(again, bars, num_cuts=1, seed=3)
    check_poison(again, bars, num_cuts=1, seed=3)


def test_an_equity_decision_at_four_does_not_see_the_vix_close_of_a_quarter_past(
    real_bars: Callable[[str], Frames], view_of: ViewOf, smoke: ViewsConfig
) -> None:
    bars = real_bars("market_2017_a")
    view = view_of("equity", bars, dataclasses.replace(smoke, symbols=("^VIX",)))
    vix = bars["volatility_index"].with_columns(pl.col("close_adj").log().diff().alias("ret"))
    days = (pl.col("ts_ns") / NS_PER_DAY).floor().cast(pl.Int64)
    ours = shown(view, "sym_^VIX_ret").select(days.alias("day"), "ts_ns", "value", "staleness_ns").drop_nulls("value")
    theirs = vix.select(days.alias("day"), pl.col("ts_ns").alias("vix_ns"), "ret", pl.col("ret").shift(1).alias("ret_before"))
    both = ours.join(theirs.drop_nulls(), on="day")
    assert both.height > 1500 and (both["vix_ns"] > both["ts_ns"]).all()
    np.testing.assert_allclose(both["value"].to_numpy(), both["ret_before"].to_numpy(), atol=1e-12)
    assert ours["staleness_ns"].min() >= 20 * NS_PER_HOUR  # type: ignore[operator]
    leaking = np.isclose(both["value"].to_numpy(), both["ret"].to_numpy(), atol=1e-12)
    assert leaking.mean() < 0.02


def test_an_hourly_class_sees_a_daily_return_once(real_bars: Callable[[str], Frames], view_of: ViewOf) -> None:
    bars = real_bars("crypto_2026_a")
    view = view_of("crypto_perpetual", bars)
    seen = shown(view, "sym_^VIX_ret").drop_nulls("value")
    closes = bars["volatility_index"]["close_adj"].log().diff().drop_nulls()
    moved = seen.filter(pl.col("value") != 0.0)
    assert seen.height > 3000 and moved.height <= closes.len()
    np.testing.assert_allclose(moved["value"].to_numpy(), closes.filter(closes != 0.0).to_numpy()[: moved.height], atol=1e-12)


def test_the_view_shows_the_own_class_the_others_and_each_symbol(classes: Frames, view_of: ViewOf) -> None:
    view = view_of("equity", classes)
    moves = ("beta", "corr", "strength", "lead", "lead_bars")
    expected = {f"ctx_{name}_{what}" for name in classes for what in ("ret", "mom", "dispersion")}
    expected |= {f"ctx_{name}_{what}" for name in ("etf", "volatility_index") for what in moves}
    expected |= {f"sym_{symbol}_{what}" for symbol in ("SPY", "TLT", "^VIX") for what in ("ret", "z")}
    expected |= {f"rel_{what}" for what in moves} | {f"vs_SPY_{what}" for what in moves[:3]}
    assert set(view.frame["feature"]) == expected
    assert view.missing == ("index",)
    for feature in ("rel_beta", "vs_SPY_corr"):
        assert shown(view, feature).select("symbol", "ts_ns").equals(classes["equity"].select("symbol", "ts_ns"))
    for feature in ("ctx_equity_ret", "sym_SPY_z"):
        assert shown(view, feature)["symbol"].null_count() == shown(view, feature).height == classes["equity"]["ts_ns"].n_unique()
    assert shown(view, "sym_^VIX_ret")["source_class"].unique().to_list() == ["volatility_index"]


def test_the_mean_return_of_the_own_class_is_that_of_the_bar(classes: Frames, view_of: ViewOf) -> None:
    view = view_of("equity", classes)
    mean = classes["equity"].with_columns(pl.col("close_adj").log().diff().over("symbol").alias("ret"))
    mean = mean.group_by("ts_ns").agg(pl.col("ret").mean()).sort("ts_ns")
    found = shown(view, "ctx_equity_ret")
    np.testing.assert_allclose(found["value"].to_numpy()[1:], mean["ret"].to_numpy()[1:], atol=1e-12)
    assert found["staleness_ns"].max() == 0


def test_what_is_too_old_is_null_and_said_to_be(classes: Frames, view_of: ViewOf, smoke: ViewsConfig) -> None:
    ended = {**classes, "etf": classes["etf"].filter(pl.col("ts_ns") < classes["etf"]["ts_ns"].median())}
    view = view_of("equity", ended)
    rows = shown(view, "sym_SPY_z")
    limit = int(smoke.max_staleness_hours * NS_PER_HOUR)
    old = rows.filter(pl.col("staleness_ns") > limit)
    assert old.height > 20 and old["value"].count() == 0
    assert rows.filter(pl.col("staleness_ns") <= limit)["value"].count() > 20
    audit = view.audit.filter(pl.col("feature") == "sym_SPY").row(0, named=True)
    assert audit["num_stale"] == old.height and audit["num_carried"] > 0


def test_nothing_is_shown_of_a_class_before_its_first_bar(make_class: Make, view_of: ViewOf) -> None:
    bars = {"equity": make_class(0, ("A", "B")), "etf": make_class(1, ("SPY",), first=60)}
    view = view_of("equity", bars)
    first = bars["etf"]["ts_ns"].min()
    for feature in ("sym_SPY_ret", "sym_SPY_z", "ctx_etf_ret", "ctx_etf_mom"):
        assert shown(view, feature)["ts_ns"].min() == first
    assert view.audit.filter(pl.col("feature") == "ctx_etf")["num_before"].item() == 60


def test_rows_are_known_no_later_than_the_bars_they_serve(make_class: Make, view_of: ViewOf) -> None:
    bars = {"equity": make_class(0, ("A", "B", "C"), late_ns=NS_PER_HOUR), "etf": make_class(1, ("SPY", "TLT"), late_ns=NS_PER_HOUR)}
    frame = view_of("equity", bars).frame
    known = bars["equity"].select("symbol", "ts_ns", pl.col("known_ns").alias("bar_known_ns"))
    own = frame.filter(pl.col("symbol").is_not_null()).join(known, on=["symbol", "ts_ns"])
    assert own.height > 0 and (own["known_ns"] <= own["bar_known_ns"]).all()
    wide = frame.filter(pl.col("symbol").is_null()).join(known, on="ts_ns")
    assert wide.height > 0 and (wide["known_ns"] <= wide["bar_known_ns"]).all()


def test_a_symbol_is_measured_against_a_benchmark_as_it_was_known_and_never_against_itself(make_class: Make, view_of: ViewOf) -> None:
    bars = {
        "equity": make_class(0, ("A", "B"), gap_share=0.2),
        "etf": make_class(1, ("QQQ", "SPY"), gap_share=0.1, offset_ns=15 * NS_PER_MIN),
    }
    rows = shown(view_of("equity", bars), "vs_SPY_beta").filter(pl.col("symbol") == "A")
    own = bars["equity"].filter(pl.col("symbol") == "A")
    spy = bars["etf"].filter(pl.col("symbol") == "SPY").select("known_ns", pl.col("close_adj").log().alias("level"))
    seen = own.join_asof(spy, on="known_ns", strategy="backward")
    x, y = own["close_adj"].log().diff().to_pandas(), seen["level"].diff().to_pandas()
    both = x.where(y.notna()).rolling(21, min_periods=10)
    expected = both.cov(y, ddof=0) / y.where(x.notna()).rolling(21, min_periods=10).var(ddof=0)
    np.testing.assert_allclose(rows["value"].to_numpy(), expected.to_numpy()[-rows.height :], rtol=1e-7)
    assert rows.height < own.height  # SPY's first close is known after the first bar
    assert rows["value"].count() > 40 and rows["staleness_ns"].drop_nulls().min() > 20 * NS_PER_HOUR
    itself = shown(view_of("etf", bars), "vs_SPY_corr")
    assert itself.filter(pl.col("symbol") == "SPY")["value"].count() == 0 < itself.filter(pl.col("symbol") == "QQQ")["value"].count()


def test_a_class_that_follows_another_by_two_bars_is_seen_to(make_class: Make, view_of: ViewOf) -> None:
    etf = make_class(1, ("SPY",), num_times=120)
    rng = np.random.default_rng(5)
    noise = 0.002 * np.cumsum(rng.standard_normal(120))
    follower = etf.with_columns(
        pl.lit("A").alias("symbol"), (pl.col("close_adj").shift(2).fill_null(50.0) * np.exp(noise)).alias("close_adj")
    )
    view = view_of("equity", {"equity": follower, "etf": etf})
    lag, lead = shown(view, "ctx_etf_lead_bars")["value"], shown(view, "ctx_etf_lead")["value"]
    assert lag.drop_nulls().len() > 90 and (lag.drop_nulls()[5:] == 2).all() and lead.drop_nulls()[5:].min() > 0.9  # type: ignore[operator]
    assert shown(view, "ctx_etf_corr")["value"].abs().mean() < 0.4  # type: ignore[operator]


def side_rows(table: str, field: str, values: list[float], symbol: str | None = None, lag_ns: int = NS_PER_HOUR) -> pl.DataFrame:
    ts_ns = [START_NS + day * NS_PER_DAY for day in range(len(values))]
    rows = {"table": [table] * len(ts_ns), "symbol": [symbol] * len(ts_ns), "field": [field] * len(ts_ns), "ts_ns": ts_ns}
    schema = {"symbol": pl.String, "ts_ns": pl.Int64, "value": pl.Float64}
    frame = pl.DataFrame({**rows, "value": values}, schema_overrides=schema)
    return frame.with_columns(known_ns=pl.col("ts_ns") + lag_ns)


def test_a_side_series_stands_in_for_an_index_without_bars_and_a_rate_is_shown_as_known(classes: Frames, view_of: ViewOf) -> None:
    rng = np.random.default_rng(6)
    vix, rate = np.exp(0.1 * rng.standard_normal(100)).tolist(), rng.standard_normal(100).tolist()
    tables = {
        "equity": pl.concat(
            [side_rows("options_implied_vol", "^GSPC.iv_30d", vix), side_rows("macro_rates", "UST_10YEAR.value", rate), *funding(rng)]
        )
    }
    view = view_of("equity", classes, side_tables=tables)
    assert shown(view, "sym_^VIX_ret")["source_class"][0] == "volatility_index"
    change = shown(view, "side_rate_10y_chg")
    assert change["source_class"][0] == "side:macro_rates" and change["staleness_ns"].min() == NS_PER_DAY
    np.testing.assert_allclose(change["value"].to_numpy()[1:], np.diff(rate[: change.height]), atol=1e-12)
    without = {name: frame for name, frame in classes.items() if name != "volatility_index"}
    instead = shown(view_of("equity", without, side_tables=tables), "sym_^VIX_ret")
    assert instead["source_class"][0] == "side:options_implied_vol"
    np.testing.assert_allclose(instead["value"].to_numpy()[1:], np.diff(np.log(vix[: instead.height])), atol=1e-12)


def test_a_side_series_is_shown_no_longer_than_its_table_allows_and_from_the_day_it_is_known(classes: Frames, view_of: ViewOf) -> None:
    rate = side_rows("macro_rates", "UST_10YEAR.value", [float(day) for day in range(100)])
    kept = rate.filter((pl.col("ts_ns") - START_NS) // NS_PER_DAY % 10 == 0).with_columns(expires_ns=pl.col("known_ns") + 3 * NS_PER_DAY)
    moved = shown(view_of("equity", classes, side_tables={"equity": kept}), "side_rate_10y_chg")
    day = (moved["ts_ns"].to_numpy() - START_NS) // NS_PER_DAY % 10
    known = (day >= 1) & (day <= 3)  # an hour after the close, for three days
    there = moved["value"].is_not_null().to_numpy()
    assert not there[~known].any() and there[day == 3].mean() > 0.9
    ahead = rate.with_columns(known_ns=pl.col("ts_ns") - 30 * NS_PER_DAY)
    change = shown(view_of("equity", classes, side_tables={"equity": ahead}), "side_rate_10y_chg")
    assert change.height == classes["equity"]["ts_ns"].n_unique() and change["staleness_ns"].max() == 0


def funding(rng: np.random.Generator) -> list[pl.DataFrame]:
    return [
        side_rows("funding_rates", "rate", rng.standard_normal(100).tolist(), symbol, lag) for symbol, lag in (("A", 0), ("B", NS_PER_HOUR))
    ]


def test_a_mean_over_symbols_is_of_those_known_by_then(classes: Frames, view_of: ViewOf, smoke: ViewsConfig) -> None:
    one, two = funding(np.random.default_rng(8))
    cfg = dataclasses.replace(smoke, side=tuple(dataclasses.replace(side, asset_class=None) for side in smoke.side))
    view = view_of("equity", classes, cfg, {"equity": pl.concat([one, two])})
    level = shown(view, "side_funding_chg")["value"].fill_null(0.0).cum_sum().to_numpy()
    a, b = one["value"].to_numpy(), two["value"].to_numpy()
    grid = classes["equity"]["ts_ns"].unique().sort().to_numpy()
    day = (grid - START_NS) // NS_PER_DAY
    np.testing.assert_allclose(level, a[day] - a[day[0]], atol=1e-12)
    later = {"equity": classes["equity"].with_columns(known_ns=pl.col("known_ns") + NS_PER_HOUR)}
    level = shown(view_of("equity", later, cfg, {"equity": pl.concat([one, two])}), "side_funding_chg")["value"].fill_null(0.0).cum_sum()
    both = (a + b) / 2
    np.testing.assert_allclose(level.to_numpy(), both[day] - both[day[0]], atol=1e-12)


def test_bars_out_of_order_are_refused(classes: Frames, view_of: ViewOf) -> None:
    with pytest.raises(ContractError, match="rows out of order or twice"):
        view_of("equity", {"equity": classes["equity"].sort("ts_ns")})
    with pytest.raises(ContractError, match="rows out of order or twice"):
        view_of("equity", {"equity": pl.concat([classes["equity"], classes["equity"]]).sort("symbol", "ts_ns")})


def test_a_join_on_what_a_bar_describes_is_found_out(make_class: Make) -> None:
    def leaking(frames: Frames) -> pl.DataFrame:
        vix = frames["vix"].select("ts_ns", pl.col("close_adj").alias("vix"))
        return frames["bars"].join_asof(vix.sort("ts_ns"), on="ts_ns", tolerance=NS_PER_HOUR, strategy="nearest", check_sortedness=False)

    bars = make_class(0, ("A",))
    vix = make_class(1, ("^VIX",), offset_ns=15 * NS_PER_MIN)
    with pytest.raises(LookaheadError, match="vix"):
        check_truncation(leaking, {"bars": bars, "vix": vix}, num_cuts=3, seed=0)


def test_the_same_inputs_give_the_same_view(classes: Frames, view_of: ViewOf) -> None:
    one, two = (view_of("equity", frames) for frames in (classes, dict(reversed(classes.items()))))
    assert one.frame.equals(two.frame) and one.audit.equals(two.audit) and one.missing == two.missing


def test_the_own_class_and_the_momentum_feature_must_be_there(classes: Frames, view_of: ViewOf, smoke: ViewsConfig) -> None:
    with pytest.raises(ContractError, match="no bars or features of 'index'"):
        view_of("index", classes)
    with pytest.raises(ContractError, match="features of equity: column 'ret_huge' is missing"):
        view_of("equity", classes, dataclasses.replace(smoke, momentum="ret_huge"))


@pytest.mark.parametrize(
    "change",
    [
        {"max_staleness_hours": 0.0},
        {"z_min_count": 2},
        {"z_window": 5},
        {"relative_window": 5},
        {"symbols": ("A", "A")},
        {"lead_max_bars": 0},
    ],
)
def test_nonsense_in_the_config_is_refused(smoke: ViewsConfig, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(smoke, **change)  # type: ignore[arg-type]
