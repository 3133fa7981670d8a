"""States of the market: what they are, and that they know the past only."""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.data.contract import validate
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.leakage import check_poison, check_truncation
from plusultra_core.regimes.build import COLUMNS, BandsConfig, RegimesConfig, build, summary, transition_matrix

Make = Callable[..., pl.DataFrame]
Frames = dict[str, pl.DataFrame]
KEYS = ("symbol", "ts_ns", "known_ns")


def bars_of(features: pl.DataFrame) -> pl.DataFrame:
    return features.select(*KEYS, pl.lit(1.0).alias("close_adj"))


def of(features: pl.DataFrame, cfg: RegimesConfig) -> pl.DataFrame:
    return build(bars_of(features), features, cfg)


@given(
    seed=st.integers(0, 10_000),
    num_symbols=st.integers(1, 6),
    gap_share=st.sampled_from([0.0, 0.3]),
    late=st.booleans(),
    kind=st.sampled_from(["expanding", "rolling"]),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_state_knows_its_future(make_features: Make, smoke: RegimesConfig, seed: int, kind: str, **shape: object) -> None:
    features = make_features(seed=seed, **shape)
    bands = dataclasses.replace(smoke.bands, kind=kind, window_bars=30 if kind == "rolling" else 0)
    cfg = dataclasses.replace(smoke, bands=bands)

    def again(frames: Frames) -> pl.DataFrame:
        return build(frames["bars"], frames["features"], cfg)

    frames = {"bars": bars_of(features), "features": features}
    validate("regimes", again(frames), bars=frames["bars"])
    check_truncation(again, frames, num_cuts=3, seed=seed)
    check_poison(again, frames, num_cuts=3, seed=seed)


def test_labels_stay_when_new_bars_arrive(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=1)
    cut = features["ts_ns"].unique().sort()[80]
    before = of(features.filter(pl.col("ts_ns") <= cut), smoke)
    after = of(features, smoke).filter(pl.col("ts_ns") <= cut)
    assert before.equals(after) and before["volatility_state"].n_unique() == 4


def test_a_band_over_the_full_sample_is_found_out(make_features: Make) -> None:
    def leaking(frames: Frames) -> pl.DataFrame:
        rank = pl.col("vol_ewma").rank() / pl.col("vol_ewma").count()
        return frames["features"].select(*KEYS, (rank.over("symbol") * 3).floor().cast(pl.Int8).alias("volatility_state"))

    with pytest.raises(LookaheadError, match="volatility_state"):
        check_truncation(leaking, {"features": make_features(seed=2)}, num_cuts=2, seed=0)


def test_bands_are_the_quantiles_of_each_symbols_own_past(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=3)
    states = of(features, smoke)
    for symbol in features["symbol"].unique():
        rows = features.filter(pl.col("symbol") == symbol)
        own = states.filter(pl.col("symbol") == symbol)
        for column, feature, sign in (("volatility_state", "vol_ewma", 1.0), ("liquidity_state", "amihud", -1.0)):
            x = sign * rows[feature].to_numpy().astype(float)
            for i, state in enumerate(own[column]):
                past = x[: i + 1][~np.isnan(x[: i + 1])]
                if np.isnan(x[i]) or past.size < smoke.bands.min_count:
                    assert state == 0
                    continue
                share = (np.sum(past < x[i]) + 0.5 * np.sum(past == x[i])) / past.size
                if min(abs(share - smoke.bands.low), abs(share - smoke.bands.high)) > 1e-9:
                    assert state == 1 + (share >= smoke.bands.low) + (share >= smoke.bands.high)


def test_rotation_is_the_rank_across_the_symbols_of_the_time(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=4, num_symbols=6)
    states = of(features, smoke).with_columns(features["ret_long"])
    seen = 0
    for _, rows in states.group_by("ts_ns"):
        values = rows.drop_nulls("ret_long").sort("ret_long")
        if values.height < smoke.rotation_min_symbols:
            assert set(rows["rotation_state"]) == {0}
            continue
        share = (np.arange(values.height) + 0.5) / values.height
        expected = 1 + (share >= smoke.bands.low).astype(int) + (share >= smoke.bands.high)
        assert values["rotation_state"].to_list() == expected.tolist()
        seen += 1
    assert seen > 50


@pytest.mark.parametrize("num_symbols", [3, 4, 5])
def test_states_of_a_symbol_do_not_depend_on_where_it_stands_in_the_frame(
    make_features: Make, smoke: RegimesConfig, num_symbols: int
) -> None:
    features = make_features(seed=5, num_symbols=num_symbols)
    names = [f"S{n}" for n in range(num_symbols)]
    there, back = dict(zip(names, names[::-1], strict=True)), dict(zip(names[::-1], names, strict=True))
    turned = features.with_columns(pl.col("symbol").replace_strict(there)).sort("symbol", "ts_ns")
    again = of(turned, smoke).with_columns(pl.col("symbol").replace_strict(back)).sort("symbol", "ts_ns")
    assert again.equals(of(features, smoke))


def test_a_class_too_small_or_without_volume_is_unknown(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=6, num_symbols=1).with_columns(pl.lit(None, dtype=pl.Float64).alias("amihud"))
    states = of(features, smoke)
    assert set(states["rotation_state"]) == {0} and set(states["liquidity_state"]) == {0}
    assert len(set(states["volatility_state"]) - {0}) > 1


def test_transitions_and_dwell_times_are_counted_within_symbols() -> None:
    frame = pl.DataFrame({"symbol": ["A"] * 5 + ["B"] * 3, **dict.fromkeys(COLUMNS, pl.Series([0, 1, 1, 3, 1, 3, 3, 3], dtype=pl.Int8))})
    matrix = transition_matrix(frame, "volatility_state")
    np.testing.assert_allclose(matrix[0], [0, 1, 0, 0])
    np.testing.assert_allclose(matrix[1], [0, 0.5, 0, 0.5])
    np.testing.assert_allclose(matrix[2], 0)
    np.testing.assert_allclose(matrix[3], [0, 1 / 3, 0, 2 / 3])
    table = summary(frame).filter(pl.col("column") == "liquidity_state")
    assert table["state"].to_list() == ["unknown", "low", "mid", "high"]
    assert table["num_rows"].to_list() == [1, 3, 0, 4]
    assert table["dwell_bars"].to_list() == [1.0, 1.5, None, 2.0]
    assert table["share"].sum() == pytest.approx(1.0)


def test_a_missing_feature_and_other_rows_are_refused(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=7)
    with pytest.raises(ContractError, match="'amihud' is missing"):
        of(features.drop("amihud"), smoke)
    with pytest.raises(ContractError, match="expected the 3 rows of bars"):
        build(features.select(KEYS).head(3), features, smoke)


@pytest.mark.parametrize(
    "change",
    [{"low": 0.7}, {"high": 1.0}, {"min_count": 2}, {"window_bars": 50}, {"kind": "rolling"}, {"kind": "rolling", "window_bars": 5}],
)
def test_nonsense_in_the_bands_is_refused(smoke: RegimesConfig, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="bands"):
        dataclasses.replace(smoke.bands, **change)  # type: ignore[arg-type]


def test_rolling_bands_forget(smoke: RegimesConfig) -> None:
    num = 60
    ts = pl.Series("ts_ns", range(num), dtype=pl.Int64)
    value = [10.0] * 20 + [float(i % 5) for i in range(40)]
    features = pl.DataFrame({"symbol": ["A"] * num, "ts_ns": ts, "known_ns": ts, "vol_ewma": value, "amihud": value, "ret_long": value})
    rolling = dataclasses.replace(smoke, bands=BandsConfig(kind="rolling", window_bars=20, min_count=10, low=0.33, high=0.67))
    assert of(features, rolling)["volatility_state"].to_list()[-5:] == [1, 1, 2, 3, 3]
    assert 3 not in of(features, smoke)["volatility_state"].to_list()[-5:]
