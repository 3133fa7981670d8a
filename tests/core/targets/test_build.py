"""What came after each bar."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.data.contract.frames import empty
from plusultra_core.data.contract.validation import validate
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.features.build import FeaturesConfig
from plusultra_core.features.build import build as build_features
from plusultra_core.leakage import check_truncation
from plusultra_core.market import MarketConfig
from plusultra_core.targets.build import MetaConfig, TargetsConfig, build, summary

Frames = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def smoke(root: Path) -> TargetsConfig:
    return config.load(TargetsConfig, root / "configs" / "smoke" / "targets.yaml")


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    rng = np.random.default_rng(2)
    frames = []
    for n, symbol in enumerate(("A", "B", "C")):
        place = np.flatnonzero(rng.random(90) > 0.1 * n)
        close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal(place.size)))
        open_ = close * np.exp(0.01 * rng.standard_normal(place.size))
        prices = {
            "open_adj": open_,
            "high_adj": np.maximum(open_, close) * 1.01,
            "low_adj": np.minimum(open_, close) * 0.99,
            "close_adj": close,
        }
        ts_ns = (16_000 + place) * NS_PER_DAY
        frame = pl.DataFrame({"symbol": [symbol] * place.size, "ts_ns": ts_ns, "known_ns": ts_ns + 60, **prices})
        if symbol == "C":
            frame = frame.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in ("open_adj", "high_adj", "low_adj"))
        frames.append(frame)
    return pl.concat(frames)


def test_returns_directions_and_ends_are_those_of_each_symbol(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    targets = validate("targets", build(bars, smoke), bars=bars)
    for symbol in ("A", "B", "C"):
        own = targets.filter(pl.col("symbol") == symbol)
        price = pd.Series(np.log(bars.filter(pl.col("symbol") == symbol)["close_adj"].to_numpy()))
        ts = pd.Series(own["ts_ns"].to_numpy())
        sigma = np.sqrt((price.diff() ** 2).ewm(halflife=smoke.sigma_halflife_bars, min_periods=smoke.sigma_min_count).mean())
        np.testing.assert_allclose(own["sigma"].to_numpy(), sigma, rtol=1e-9)
        for h in smoke.horizons:
            ret = price.shift(-h) - price
            np.testing.assert_allclose(own[f"ret_log_{h}"].to_numpy(), ret, atol=1e-12)
            target = ret / (sigma * h**0.5)
            np.testing.assert_allclose(own[f"target_{h}"].to_numpy(), target, rtol=1e-9)
            threshold = smoke.direction_threshold
            side = np.where(target.isna(), np.nan, 1.0 + (target > threshold) - (target < -threshold))
            np.testing.assert_array_equal(own[f"direction_{h}"].to_numpy().astype(float), side)
            np.testing.assert_array_equal(own[f"label_end_ns_{h}"].to_numpy(), ts.shift(-h))


def test_targets_and_features_are_scaled_by_one_sigma(bars: pl.DataFrame, root: Path, smoke: TargetsConfig) -> None:
    for profile in ("smoke", "base", "gpu24", "h200"):
        targets_cfg = config.load(TargetsConfig, root / "configs" / profile / "targets.yaml")
        features_cfg = config.load(FeaturesConfig, root / "configs" / profile / "features.yaml")
        market = config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml")
        whole = bars.with_columns(pl.lit(None, dtype=pl.Float64).alias("volume_adj"), pl.lit(0).alias("gap_bars"))
        features = build_features(whole, empty("indicators"), empty("side_tables"), market, features_cfg)
        expected = features["vol_ewma"].to_numpy() / np.sqrt(market.periods_per_year)
        np.testing.assert_allclose(build(bars, targets_cfg)["sigma"].to_numpy(), expected, rtol=1e-6)  # features are float32


def test_sigma_knows_the_past_only_and_targets_do_not(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    def only(column: str) -> Callable[[Frames], pl.DataFrame]:
        return lambda frames: frames["bars"].select("symbol", "ts_ns", "known_ns").hstack(build(frames["bars"], smoke).select(column))

    for column in ("sigma", "meta_side"):
        check_truncation(only(column), {"bars": bars}, num_cuts=3, seed=0)
    with pytest.raises(LookaheadError, match="target_1"):
        check_truncation(only("target_1"), {"bars": bars}, num_cuts=3, seed=0)
    with pytest.raises(LookaheadError, match="meta_label"):
        check_truncation(only("meta_label"), {"bars": bars}, num_cuts=3, seed=0)


def test_a_row_is_known_when_its_last_label_is(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    targets = build(bars, smoke)
    farthest = 2 * smoke.barrier_horizon - 1
    last = bars["known_ns"].shift(-farthest)
    whole = targets["symbol"] == targets["symbol"].shift(-farthest)
    assert (targets.filter(whole)["known_ns"] == last.filter(whole)).all()

    def build_known(frames: Frames) -> pl.DataFrame:
        return build(frames["bars"], smoke).filter(pl.col("symbol").shift(-farthest) == pl.col("symbol"))

    check_truncation(build_known, {"bars": bars}, num_cuts=3, seed=1)


def test_the_end_of_a_symbol_has_no_labels_even_where_a_barrier_was_met(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    targets = build(bars, dataclasses.replace(smoke, barrier_up=0.05, barrier_down=0.05))
    for _, own in targets.group_by("symbol"):
        assert own["barrier_label"][-smoke.barrier_horizon :].null_count() == smoke.barrier_horizon
        assert (
            own["barrier_ret"].is_null().to_list()
            == own["barrier_label"].is_null().to_list()
            == own["weight_uniqueness"].is_null().to_list()
        )
        assert own["barrier_label"].count() > 50
    ends = targets.drop_nulls("barrier_end_ns")
    assert (ends["barrier_end_ns"] > ends["ts_ns"]).all()


@pytest.mark.parametrize("rule", ["momentum", "crossover"])
def test_the_primary_side_is_that_of_a_rule_on_past_closes(bars: pl.DataFrame, smoke: TargetsConfig, rule: str) -> None:
    meta = MetaConfig(side=rule, fast_bars=4 if rule == "crossover" else 0, slow_bars=12, threshold=0.2, cost_sigma=0.1)  # type: ignore[arg-type]
    targets = validate("targets", build(bars, dataclasses.replace(smoke, meta=meta)), bars=bars)
    for symbol in ("A", "B", "C"):
        own = targets.filter(pl.col("symbol") == symbol)
        price = pd.Series(np.log(bars.filter(pl.col("symbol") == symbol)["close_adj"].to_numpy()))
        mean = {bars: price.ewm(halflife=bars, min_periods=12).mean() for bars in (4, 12)}
        gap = price - price.shift(12) if rule == "momentum" else mean[4] - mean[12]
        strength = gap / (own["sigma"].to_numpy() * 12**0.5)
        side = np.where(np.isnan(strength), np.nan, np.sign(strength) * (np.abs(strength) > 0.2))
        np.testing.assert_array_equal(own["meta_side"].to_numpy().astype(float), side)
    assert set(targets["meta_side"].drop_nulls()) == {-1, 0, 1} and targets["meta_side"].null_count() > 30


@pytest.mark.parametrize("rule", ["worst", "skip", "open_distance"])
def test_a_meta_label_says_whether_the_side_takes_its_profit_net_of_cost_before_its_stop(
    bars: pl.DataFrame, smoke: TargetsConfig, rule: str
) -> None:
    cfg = dataclasses.replace(smoke, barrier_rule=rule, barrier_up=0.5, barrier_down=0.5, barrier_horizon=3)
    targets = build(bars, cfg)
    width, cost = 0.5 * 3**0.5, cfg.meta.cost_sigma
    seen = {0: 0, 1: 0, None: 0}
    for symbol in ("A", "B", "C"):
        own = targets.filter(pl.col("symbol") == symbol).rows(named=True)
        prices = bars.filter(pl.col("symbol") == symbol).select(pl.col("open_adj", "high_adj", "low_adj", "close_adj").log())
        path = prices.to_numpy()
        for i, row in enumerate(own):
            label = None
            if row["meta_side"] and row["sigma"] and i + 3 < len(own):
                moves = row["meta_side"] * (path[i + 1 : i + 4] - path[i, 3]) / row["sigma"]
                label = 0
                for open_, high, low, close in moves:
                    best, worst = (close, close) if np.isnan(high) else (max(high, low), min(high, low))
                    profit, stop = best >= width + cost, worst <= -(width - cost)
                    if profit and stop and not open_ >= width + cost and not open_ <= -(width - cost):
                        label = {"worst": 0, "skip": None, "open_distance": int(open_ > cost)}[rule]
                    elif profit or stop:
                        label = int(open_ >= width + cost or not stop) if not (profit and stop) else int(open_ >= width + cost)
                    if profit or stop:
                        break
            assert row["meta_label"] == label, (symbol, i)
            seen[label] += 1
    assert min(seen.values()) > 20


def test_a_bar_that_spans_both_barriers_has_no_label_where_the_rule_is_to_skip(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    near = dataclasses.replace(smoke, barrier_up=0.2, barrier_down=0.2)
    worst, skipped = build(bars, near), build(bars, dataclasses.replace(near, barrier_rule="skip"))
    both = worst["barrier_ambiguous"].fill_null(False)
    assert both.sum() > 20 and (worst.filter(both)["barrier_label"] == -1).all()
    gone = skipped.filter(both)
    assert gone["barrier_ambiguous"].all()
    assert gone.select("barrier_label", "barrier_ret", "barrier_end_ns", "weight_uniqueness").null_count().row(0) == (both.sum(),) * 4
    kept = ["barrier_label", "barrier_ret", "barrier_end_ns", "barrier_ambiguous"]
    assert skipped.filter(~both).select(kept).equals(worst.filter(~both).select(kept))


def test_a_symbol_that_is_delisted_inside_the_horizon_has_no_label(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    """Nobody knows at what price its holders left; what came before is labelled as if the symbol had lived on."""
    last = bars.filter(pl.col("symbol") == "A")["ts_ns"][60]
    delisted = build(bars.filter((pl.col("symbol") != "A") | (pl.col("ts_ns") <= last)), smoke)
    whole = build(bars, smoke)
    own, twin = (frame.filter((pl.col("symbol") == "A") & (pl.col("ts_ns") <= last)) for frame in (delisted, whole))
    h = smoke.barrier_horizon
    for column in ("barrier_label", "meta_label", f"target_{h}"):
        assert own[column][-h:].null_count() == h and own[column][:-h].equals(twin[column][:-h])
    assert own["meta_side"].equals(twin["meta_side"])
    assert delisted.filter(pl.col("symbol") != "A").equals(whole.filter(pl.col("symbol") != "A"))


def test_a_missing_bar_is_stepped_over_and_its_move_is_a_gap(smoke: TargetsConfig) -> None:
    """The horizon counts bars that are there; a fall over the hole ends at the open after it."""
    close = 100 * np.exp(0.01 * np.sin(np.arange(40.0)))
    close[35:] *= 0.8
    place = np.r_[np.arange(35), np.arange(45, 50)]
    ts_ns = (16_000 + place) * NS_PER_DAY
    prices = {"open_adj": close, "high_adj": close * 1.001, "low_adj": close * 0.999, "close_adj": close}
    targets = build(pl.DataFrame({"symbol": ["A"] * 40, "ts_ns": ts_ns, "known_ns": ts_ns, **prices}), smoke)
    row = targets.row(34, named=True)
    assert row["barrier_label"] == -1 and row["barrier_end_ns"] == ts_ns[35]
    assert row["barrier_ret"] == pytest.approx(np.log(close[35] / close[34]))
    assert row["label_end_ns_1"] == ts_ns[35]


@pytest.mark.parametrize(
    "change",
    [{"slow_bars": 1}, {"fast_bars": 0}, {"fast_bars": 20}, {"side": "momentum"}, {"threshold": -0.1}, {"cost_sigma": -0.1}],
)
def test_nonsense_in_the_primary_side_is_refused(smoke: TargetsConfig, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="meta"):
        dataclasses.replace(smoke.meta, **change)  # type: ignore[arg-type]


def test_a_price_that_stands_still_has_no_target(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    still = bars.with_columns(pl.lit(5.0).alias("close_adj"))
    targets = build(still, smoke)
    assert (
        targets["sigma"].count() == targets["target_1"].count() == targets["direction_1"].count() == targets["barrier_label"].count() == 0
    )
    assert targets["ret_log_1"].count() > 0


def test_a_summary_counts_the_classes(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    table = summary(build(bars, smoke), smoke)
    assert table["horizon"].to_list() == [*smoke.horizons, 0]
    np.testing.assert_allclose(table.select(pl.sum_horizontal("share_down", "share_flat", "share_up")).to_series().to_numpy(), 1.0)


def test_a_missing_column_and_unsorted_bars_are_refused(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    with pytest.raises(ContractError, match="'low_adj' is missing"):
        build(bars.drop("low_adj"), smoke)
    with pytest.raises(ContractError, match="out of order or twice"):
        build(bars.reverse(), smoke)


@pytest.mark.parametrize(
    "change",
    [
        {"horizons": ()},
        {"horizons": (5, 1)},
        {"horizons": (0, 1)},
        {"sigma_min_count": 1},
        {"direction_threshold": -1.0},
        {"barrier_up": 0.0},
        {"barrier_down": 0.04},
    ],
)
def test_nonsense_in_the_config_is_refused(smoke: TargetsConfig, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(smoke, **change)  # type: ignore[arg-type]


def test_a_class_without_bars_has_no_targets(bars: pl.DataFrame, smoke: TargetsConfig) -> None:
    nothing = build(bars.clear(), smoke)
    assert nothing.height == 0 and nothing.schema == build(bars, smoke).schema
