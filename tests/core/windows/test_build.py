"""Long frames -> panel: every row in its place, labels apart from inputs, the future unseen."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY, NS_PER_S
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.market import MarketConfig
from plusultra_core.windows.build import WindowsConfig, bar_funding, build

ROOT = Path(__file__).resolve().parents[3]
CFG = config.load(WindowsConfig, ROOT / "configs/smoke/windows.yaml")
EQUITY = config.load(MarketConfig, ROOT / "configs/markets/equity.yaml")
PERPETUAL = config.load(MarketConfig, ROOT / "configs/markets/crypto_perpetual.yaml", {"bar": "1d"})
START = 15_000


def _frames(num_days: int = 140, seed: int = 0) -> dict[str, pl.DataFrame]:
    """Three assets: all days, every day but a few, and one that lists late. Values name their row."""
    rng = np.random.default_rng(seed)
    days = {"AAA": np.arange(num_days), "B/B:X": np.delete(np.arange(num_days), [40, 41, 90]), "LATE": np.arange(60, num_days)}
    parts: dict[str, list[pl.DataFrame]] = {"bars": [], "features": [], "regimes": [], "targets": []}
    for s, (symbol, day) in enumerate(days.items()):
        size = len(day)
        ts = (START + day) * NS_PER_DAY
        keys = {"symbol": [symbol] * size, "ts_ns": ts, "known_ns": ts}
        close = 100 * (s + 1) + day.astype(float)
        noise = rng.standard_normal(num_days)[:size]
        prices = {"open_adj": close - 0.5, "high_adj": close + 1, "low_adj": close - 1, "close_adj": close, "volume_adj": close * 10}
        parts["bars"].append(pl.DataFrame({**keys, **prices}))
        feature = np.where(np.arange(size) < 5, np.nan, noise)
        parts["features"].append(pl.DataFrame({**keys, "f_id": 1_000.0 * s + day, "f_noise": feature}))
        states = {f"{name}_state": rng.integers(0, 4, size).astype(np.int8) for name in ("volatility", "liquidity", "rotation")}
        parts["regimes"].append(pl.DataFrame({**keys, **states}))
        labels: dict[str, Any] = {"sigma": np.where(np.arange(size) < 3, np.nan, 0.01), "weight_uniqueness": np.full(size, 0.5)}
        for h in (1, 3):
            known = np.arange(size) + h < size
            labels[f"target_{h}"] = np.where(known, 1_000.0 * s + day + h, np.nan)
            labels[f"ret_log_{h}"] = np.where(known, 0.01 * h, np.nan)
            labels[f"direction_{h}"] = pl.Series(np.where(known, 2, 0).astype(np.int8)).set(pl.Series(~known), None)
            end = np.append(ts[h:], np.zeros(h, np.int64))
            labels[f"label_end_ns_{h}"] = pl.Series(end).set(pl.Series(~known), None)
        parts["targets"].append(pl.DataFrame({**keys, **labels}))
    frames = {name: pl.concat(part).sort("symbol", "ts_ns") for name, part in parts.items()}
    frames["view"] = _view(num_days)
    none = {"half_spread_bps": pl.lit(None, pl.Float64), "depth": pl.lit(None, pl.Float64), "fx": pl.lit(1.0), "currency": pl.lit("USD")}
    frames["quotes"] = frames["bars"].select("symbol", "ts_ns", **none)
    schema = {"table": pl.String, "symbol": pl.String, "field": pl.String, "ts_ns": pl.Int64, "known_ns": pl.Int64, "value": pl.Float64}
    frames["side_tables"] = pl.DataFrame(schema=schema)
    return frames


def _view(num_days: int) -> pl.DataFrame:
    ts = (START + np.arange(num_days)) * NS_PER_DAY
    whole = pl.DataFrame(
        {"symbol": pl.Series([None] * num_days, dtype=pl.String), "ts_ns": ts, "feature": "vix", "value": np.arange(num_days) * 1.0}
    )
    own = pl.DataFrame({"symbol": ["LATE"] * 3, "ts_ns": ts[60:63], "feature": "beta", "value": [0.1, 0.2, 0.3]})
    columns = {"known_ns": pl.col("ts_ns"), "staleness_ns": pl.lit(0, pl.Int64), "source_class": pl.lit("index")}
    return pl.concat([whole, own]).with_columns(**columns)


def _cut(frames: dict[str, pl.DataFrame], num_days: int) -> dict[str, pl.DataFrame]:
    """What stood in the frames when only so many days had passed."""
    until = (START + num_days) * NS_PER_DAY
    past = {name: frame.filter(pl.col("ts_ns") < until) for name, frame in frames.items()}
    ends = [pl.when(pl.col(f"label_end_ns_{h}") < until).then(pl.col(f"label_end_ns_{h}")).alias(f"label_end_ns_{h}") for h in (1, 3)]
    past["targets"] = past["targets"].with_columns(ends)
    return past


def _build(frames: dict[str, pl.DataFrame], market: MarketConfig = EQUITY, cfg: WindowsConfig = CFG) -> Any:
    return build(market=market, cfg=cfg, **frames)


def test_every_row_lands_at_its_asset_and_time() -> None:
    frames = _frames()
    panel = _build(frames)
    assert panel.symbols == ("AAA", "B/B:X", "LATE")
    assert panel.tradable_NT.sum() == frames["bars"].height
    n, t = np.nonzero(panel.tradable_NT)
    assert np.array_equal(panel.x_NTF[n, t, 0], 1_000 * n + t)
    assert np.isnan(panel.x_NTF[~panel.tradable_NT]).all()
    assert np.array_equal(panel.close_NT[n, t], 100 * (n + 1) + t)
    assert np.array_equal(panel.known_ns_NT[n, t], panel.ts_ns_T[t])
    assert (panel.known_ns_NT[~panel.tradable_NT] == -1).all()


def test_nothing_is_known_of_an_asset_before_its_first_bar() -> None:
    panel = _build(_frames())
    for array in (panel.x_NTF, panel.close_NT, panel.sigma_NT, panel.y_NTK):
        assert np.isnan(array[2, :60]).all()
    assert not panel.anchor_NT[2, : 60 + CFG.lookback - 3].any()


def test_market_wide_view_reaches_every_bar_and_own_rows_only_their_asset() -> None:
    panel = _build(_frames())
    assert panel.features == ("f_id", "f_noise", "view.beta", "view.vix")
    n, t = np.nonzero(panel.tradable_NT)
    assert np.array_equal(panel.x_NTF[n, t, 3], t)
    assert np.isfinite(panel.x_NTF[..., 2]).sum() == 3
    assert np.allclose(panel.x_NTF[2, 60:63, 2], [0.1, 0.2, 0.3])


def test_labels_are_those_of_the_symbols_own_bars() -> None:
    panel = _build(_frames())
    assert panel.horizons == (1, 3)
    assert panel.label_end_NTK[1, 39].tolist() == [42, 44]
    assert panel.y_NTK[0, 50].tolist() == [51, 53]
    assert panel.direction_NTK[0, -1].tolist() == [-1, -1]
    assert np.isnan(panel.y_NTK[0, -1]).all() and np.isfinite(panel.y_NTK[0, -4]).all()
    assert (panel.label_end_NTK[panel.direction_NTK < 0] == -1).all()


def test_a_label_across_a_long_gap_is_dropped() -> None:
    cfg = config.load(WindowsConfig, ROOT / "configs/smoke/windows.yaml", {"label_slack_bars": 1})
    panel = _build(_frames(), cfg=cfg)
    assert panel.label_end_NTK[1, 39].tolist() == [-1, -1]
    assert np.isnan(panel.y_NTK[1, 39]).all() and (panel.direction_NTK[1, 39] == -1).all()
    assert panel.label_end_NTK[0, 39].tolist() == [40, 42]


def test_a_window_ends_only_where_enough_of_it_is_there() -> None:
    panel = _build(_frames())
    assert not panel.anchor_NT[:, : CFG.lookback - 1].any()
    assert not panel.anchor_NT[1, [40, 41, 90]].any()
    assert not (panel.anchor_NT & ~panel.tradable_NT).any()
    need = int(np.ceil(CFG.min_coverage * CFG.lookback))
    for n, t in zip(*np.nonzero(panel.anchor_NT), strict=True):
        assert panel.tradable_NT[n, t - CFG.lookback + 1 : t + 1].sum() >= need


def test_inputs_up_to_t_do_not_change_when_bars_are_appended() -> None:
    frames, cut = _frames(), 130
    past = _cut(frames, cut)
    one, two = _build(past), _build(frames)
    for name in ("x_NTF", "state_NTS", "sigma_NT", "tradable_NT", "anchor_NT", "close_NT", "known_ns_NT"):
        left, right = getattr(one, name), getattr(two, name)[:, :cut]
        assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f"), name


def test_the_scaler_of_a_fold_sees_its_train_span_only() -> None:
    frames = _frames()
    panel = _build(frames)
    fold = panel.folds[0]
    after = (START + fold.train[1]) * NS_PER_DAY
    noisy = pl.when(pl.col("ts_ns") >= after).then(pl.col("f_noise") * 1e6 + 5).otherwise(pl.col("f_noise"))
    poisoned = _build({**frames, "features": frames["features"].with_columns(noisy.alias("f_noise"))})
    assert np.array_equal(poisoned.folds[0].center_F, fold.center_F)
    assert np.array_equal(poisoned.folds[0].scale_F, fold.scale_F)
    assert not np.array_equal(poisoned.folds[1].scale_F, panel.folds[1].scale_F)


def test_an_input_known_after_its_bar_is_refused() -> None:
    frames = _frames()
    late = pl.when(pl.col("symbol").is_null() & (pl.col("ts_ns") == (START + 20) * NS_PER_DAY)).then(pl.col("ts_ns") + 1)
    frames["view"] = frames["view"].with_columns(late.otherwise(pl.col("known_ns")).alias("known_ns"))
    with pytest.raises(LookaheadError, match=r"inputs of AAA at 2011-02-15.*after the bar.*join on known_ns"):
        _build(frames)


def _published_late(frames: dict[str, pl.DataFrame], first_day: int, delay_s: int) -> dict[str, pl.DataFrame]:
    """The frames when bars of AAA from a day on became known so many seconds after their close, and all made of them too."""
    late = (pl.col("symbol") == "AAA") & (pl.col("ts_ns") >= (START + first_day) * NS_PER_DAY)
    known = pl.when(late).then(pl.col("ts_ns") + delay_s * NS_PER_S).otherwise(pl.col("known_ns")).alias("known_ns")
    return {**frames, **{name: frames[name].with_columns(known) for name in ("bars", "features", "regimes", "targets")}}


def test_no_window_ends_at_a_bar_that_was_not_known_when_it_was_decided_on() -> None:
    frames = _frames()
    plain, late = _build(frames), _build(_published_late(frames, 100, 3_600))
    assert plain.anchor_NT[0, 100:].all() and not late.anchor_NT[0, 100:].any()
    assert np.array_equal(plain.anchor_NT[:, :100], late.anchor_NT[:, :100]) and np.array_equal(plain.anchor_NT[1:], late.anchor_NT[1:])
    allowed = config.load(WindowsConfig, ROOT / "configs/smoke/windows.yaml", {"max_delay_s": 3_600})
    assert np.array_equal(_build(_published_late(frames, 100, 3_600), cfg=allowed).anchor_NT, plain.anchor_NT)


def test_a_class_that_is_always_known_late_is_refused() -> None:
    frames = {name: frame.filter(pl.col("symbol") == "AAA") for name, frame in _frames().items()}
    with pytest.raises(LookaheadError, match=r"every row was known 60 s or more after its bar, allowed 0 \(max_delay_s\)"):
        _build(_published_late(frames, 0, 60))


def test_frames_that_lost_or_multiplied_rows_are_refused() -> None:
    frames = _frames()
    with pytest.raises(ContractError, match="features: expected the 357 rows of bars"):
        _build({**frames, "features": frames["features"].head(300)})
    doubled = {name: pl.concat([frames[name], frames[name].head(1)]) for name in ("bars", "features", "regimes", "targets", "quotes")}
    with pytest.raises(ContractError, match="stands twice"):
        _build({**frames, **doubled})


def test_a_view_off_the_grid_or_of_a_stranger_is_refused() -> None:
    frames = _frames()
    with pytest.raises(ContractError, match="cross_asset_view: 140 rows at times without a bar"):
        _build({**frames, "view": frames["view"].with_columns(pl.col("ts_ns") + 1)})
    with pytest.raises(ContractError, match="a symbol has no bars in this class"):
        _build({**frames, "view": frames["view"].with_columns(pl.col("symbol").replace("LATE", "GONE"))})


def test_no_bars_and_too_few_bars_are_refused() -> None:
    frames = _frames()
    with pytest.raises(ContractError, match="no bars of equity"):
        _build({name: frame.clear() for name, frame in frames.items()})
    short = _cut(frames, 60)
    with pytest.raises(ConfigError, match=r"expected at least \d+ usable bars for 2 folds"):
        _build(short)


def test_a_dump_without_view_still_builds() -> None:
    frames = _frames()
    panel = _build({**frames, "view": frames["view"].clear()})
    assert panel.features == ("f_id", "f_noise")


def _events(rows: list[tuple[str, float, float]]) -> pl.DataFrame:
    ts = [int((START + day) * NS_PER_DAY) for _, day, _ in rows]
    columns = {"symbol": [row[0] for row in rows], "ts_ns": ts, "known_ns": ts, "value": [row[2] for row in rows]}
    return pl.DataFrame(columns).with_columns(pl.lit("funding_rates").alias("table"), pl.lit("rate").alias("field"))


def test_funding_events_are_summed_into_the_bar_that_they_close() -> None:
    frames = _frames()
    events = _events(
        [("AAA", 9.25, 1e-4), ("AAA", 10.0, 2e-4), ("AAA", 10.25, 4e-4), ("GONE", 10.0, 9.0), ("AAA", -3.0, 9.0), ("AAA", 500.0, 9.0)]
    )
    other = events.with_columns(pl.lit("interval_hours").alias("field"), pl.lit(8.0).alias("value"))
    frames["side_tables"] = pl.concat([events, other])
    panel = _build(frames, PERPETUAL)
    assert panel.funding_NT[0, 10] == pytest.approx(3e-4)
    assert panel.funding_NT[0, 11] == pytest.approx(4e-4)
    assert np.count_nonzero(panel.funding_NT) == 2
    assert not _build(frames, EQUITY).funding_NT.any()


def test_the_same_funding_in_another_table_is_not_paid_twice() -> None:
    frames = _frames()
    events = _events([("AAA", 10.0, 2e-4)])
    eight = _events([("AAA", 10.0, 1.6e-3)]).with_columns(pl.lit("funding_rates_8h").alias("table"))
    frames["side_tables"] = pl.concat([events, eight])
    assert _build(frames, PERPETUAL).funding_NT.sum() == pytest.approx(2e-4)


def test_a_symbol_without_events_in_the_first_table_pays_by_the_second() -> None:
    frames = _frames()
    eight = _events([("B/B:X", 10.0, 1.6e-3), ("AAA", 11.0, 9.0)]).with_columns(pl.lit("funding_rates_8h").alias("table"))
    frames["side_tables"] = pl.concat([_events([("AAA", 10.0, 2e-4)]), eight])
    panel = _build(frames, PERPETUAL)
    assert panel.funding_NT[panel.symbols.index("AAA")].sum() == pytest.approx(2e-4)
    assert panel.funding_NT[panel.symbols.index("B/B:X"), 10] == pytest.approx(1.6e-3)


def test_an_event_told_twice_is_paid_once_at_its_last_rate() -> None:
    frames = _frames()
    events = _events([("AAA", 10.0, 2e-4), ("AAA", 10.0, 3e-4), ("AAA", 10.5, 1e-4)])
    frames["side_tables"] = events.with_columns(known_ns=pl.col("ts_ns") + pl.Series([0, NS_PER_DAY, 0]))
    assert _build(frames, PERPETUAL).funding_NT[0, 10:12].tolist() == pytest.approx([3e-4, 1e-4])


@pytest.mark.parametrize("hours", [1, 4, 8, 12])
def test_events_at_odd_intervals_are_counted_whatever_the_bar(hours: int) -> None:
    days = np.arange(0, 6, hours / 24)
    kept = np.flatnonzero(np.arange(len(days)) % 7)  # some were missed
    events = _events([("AAA", float(days[at]), 1e-5 * (at + 1)) for at in kept])
    grid = ((START + np.arange(1, 6)) * NS_PER_DAY).astype(np.int64)
    expected = [sum(1e-5 * (at + 1) for at in kept if day - 1 < days[at] <= day) for day in range(1, 6)]
    np.testing.assert_allclose(bar_funding(events, ["AAA"], grid, NS_PER_DAY)[0], expected, rtol=1e-12)
    hourly = np.arange((START + 1) * NS_PER_DAY, (START + 2) * NS_PER_DAY + 1, NS_PER_DAY // 24)
    per_bar = bar_funding(events, ["AAA"], hourly, NS_PER_DAY // 24)[0]
    assert per_bar[1:].sum() == pytest.approx(expected[1]) and np.count_nonzero(per_bar) <= 25 // hours + 1


@pytest.mark.parametrize(
    "change", [{"lookback": 1}, {"min_coverage": 0.0}, {"min_features_frac": 1.5}, {"label_slack_bars": -1}, {"max_delay_s": -1}]
)
def test_impossible_configs_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        config.load(WindowsConfig, ROOT / "configs/smoke/windows.yaml", change)
