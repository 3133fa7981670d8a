"""States of the market: what they are, and that they know the past only."""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plusultra_core.data.contract.validation import validate
from plusultra_core.errors import ConfigError, ContractError, LookaheadError
from plusultra_core.leakage import check_poison, check_truncation
from plusultra_core.regimes.build import COLUMNS, BandsConfig, RegimesConfig, build
from plusultra_core.regimes.summary import summary, transition_matrix, transitions

Make = Callable[..., pl.DataFrame]
Frames = dict[str, pl.DataFrame]
KEYS = ("symbol", "ts_ns", "known_ns")
SECTORS = {"S0": "Steel", "S1": "Banks", "S2": "Banks", "S3": "Banks", "S4": None, "S5": "Banks"}


def bars_of(features: pl.DataFrame) -> pl.DataFrame:
    return features.select(*KEYS, "close_adj")


def assets_of(features: pl.DataFrame) -> pl.DataFrame:
    symbols = features["symbol"].unique().sort()
    return pl.DataFrame({"symbol": symbols, "sector": [SECTORS[symbol] for symbol in symbols]}, schema_overrides={"sector": pl.String})


def of(features: pl.DataFrame, cfg: RegimesConfig) -> pl.DataFrame:
    return build(bars_of(features), features, assets_of(features), cfg)


def soon(cfg: RegimesConfig, **changes: object) -> RegimesConfig:
    """The same with a Markov model that is fitted early and often."""
    hmm = dataclasses.replace(cfg.hmm, window_bars=50, refit_bars=9, min_count=25)
    return dataclasses.replace(cfg, hmm=hmm, **changes)  # type: ignore[arg-type]


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
    cfg = soon(smoke, bands=bands)

    def again(frames: Frames) -> pl.DataFrame:
        return build(frames["bars"], frames["features"], frames["assets"], cfg)

    frames = {"bars": bars_of(features), "features": features, "assets": assets_of(features)}
    validate("regimes", again(frames), bars=frames["bars"])
    check_truncation(again, frames, num_cuts=3, seed=seed)
    check_poison(again, frames, num_cuts=3, seed=seed)


@pytest.mark.parametrize("kind", ["rolling", "expanding"])
@pytest.mark.parametrize("within", ["sector", "class"])
def test_labels_stay_when_new_bars_arrive(make_features: Make, smoke: RegimesConfig, kind: str, within: str) -> None:
    """Every column, bit for bit, at every place of a fit among the bars."""
    bands = dataclasses.replace(smoke.bands, kind=kind, window_bars=30 if kind == "rolling" else 0)
    cfg = soon(smoke, bands=bands, rotation_within=within)
    features = make_features(seed=1, num_symbols=6, late=True)
    whole = of(features, cfg)
    times = features["ts_ns"].unique().sort()
    for cut in times[40:119:6]:
        before = of(features.filter(pl.col("ts_ns") <= cut), cfg)
        assert before.equals(whole.filter(pl.col("ts_ns") <= cut))
    assert all(whole[column].n_unique() >= 3 for column in COLUMNS)
    assert (whole["hmm_prob"].is_null() == (whole["hmm_state"] == 0)).all() and whole["hmm_prob"].n_unique() > 200


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
    states = of(features, dataclasses.replace(smoke, rotation_within="class")).with_columns(features["ret_long"])
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


def test_a_symbol_is_ranked_in_its_sector_where_that_is_large_enough_and_in_the_class_else(
    make_features: Make, smoke: RegimesConfig
) -> None:
    features = make_features(seed=4, num_symbols=6, gap_share=0.3, late=True)
    states = of(features, dataclasses.replace(smoke, rotation_within="sector")).with_columns(features["ret_long"])
    seen = {"sector": 0, "class": 0, "none": 0}
    for _, rows in states.group_by("ts_ns"):
        for row in rows.drop_nulls("ret_long").iter_rows(named=True):
            known = rows.drop_nulls("ret_long").filter(pl.col("known_ns") <= row["known_ns"])
            banks = known.filter(pl.col("symbol").is_in(["S1", "S2", "S3", "S5"]))
            inside = row["symbol"] in banks["symbol"] and banks.height >= smoke.rotation_min_symbols
            peers = (banks if inside else known)["ret_long"]
            share = ((peers < row["ret_long"]).sum() + 0.5 * (peers == row["ret_long"]).sum()) / peers.len()
            enough = peers.len() >= smoke.rotation_min_symbols
            assert row["rotation_state"] == (1 + (share >= smoke.bands.low) + (share >= smoke.bands.high) if enough else 0)
            seen["sector" if inside else "class" if enough else "none"] += 1
    assert min(seen.values()) > 20


def test_symbols_without_a_sector_are_no_sector_of_their_own(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=4, num_symbols=6, gap_share=0.0)
    named = {"S0": "Steel", "S1": "Banks"}
    assets = pl.DataFrame({"symbol": [f"S{n}" for n in range(6)]}).with_columns(
        sector=pl.col("symbol").replace_strict(named, default=None, return_dtype=pl.String)
    )
    by_sector, by_class = (
        build(bars_of(features), features, assets, dataclasses.replace(smoke, rotation_within=within)) for within in ("sector", "class")
    )
    assert by_sector.equals(by_class) and by_class["rotation_state"].n_unique() == 4


def test_a_trend_is_entered_at_one_band_and_left_at_another(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=8)
    states = of(features, smoke)
    flicker = dataclasses.replace(smoke, trend=dataclasses.replace(smoke.trend, leave=smoke.trend.enter - 1e-9))
    seen = set()
    for symbol in features["symbol"].unique():
        own = states.filter(pl.col("symbol") == symbol)["trend_state"].to_list()
        ret = np.diff(np.log(features.filter(pl.col("symbol") == symbol)["close_adj"].to_numpy()))
        state = 2
        for i in range(len(own)):
            if i < smoke.trend.min_count:
                assert own[i] == 0
                continue
            weight = 0.5 ** (np.arange(i)[::-1] / smoke.trend.halflife_bars)
            mean, square = np.average(ret[:i], weights=weight), np.average(ret[:i] ** 2, weights=weight)
            t = mean / np.sqrt(square * (weight**2).sum() / weight.sum() ** 2)
            lasts = (state == 3 and t >= smoke.trend.leave) or (state == 1 and t <= -smoke.trend.leave)
            state = 3 if t >= smoke.trend.enter else 1 if t <= -smoke.trend.enter else state if lasts else 2
            assert own[i] == state
            seen.add(state)
    assert seen == {1, 2, 3}
    moved = (pl.col("trend_state").diff().over("symbol") != 0).sum()
    assert states.select(moved).item() < of(features, flicker).select(moved).item()


def test_a_calm_and_a_stormy_half_are_told_apart_by_the_hidden_state(smoke: RegimesConfig) -> None:
    rng = np.random.default_rng(9)
    num = 600
    ret = rng.standard_normal(num) * np.where(np.arange(num) // 100 % 2, 0.03, 0.005)
    ts = pl.Series("ts_ns", range(num), dtype=pl.Int64)
    frame = pl.DataFrame({"symbol": ["S0"] * num, "ts_ns": ts, "known_ns": ts, "close_adj": np.exp(np.cumsum(ret))})
    features = frame.with_columns(pl.lit(1.0).alias(name) for name in ("vol_ewma", "amihud", "ret_long"))
    hmm = dataclasses.replace(smoke.hmm, num_states=2, window_bars=300, refit_bars=50, min_count=200)
    states = of(features, dataclasses.replace(smoke, hmm=hmm))["hmm_state"].to_numpy()
    assert set(states[:200]) == {0} and set(states[200:]) == {1, 3}
    storm = np.arange(num) // 100 % 2 == 1
    assert ((states[200:] == 3) == storm[200:]).mean() > 0.95


@pytest.mark.parametrize("num_symbols", [3, 4, 5])
def test_states_of_a_symbol_do_not_depend_on_where_it_stands_in_the_frame(
    make_features: Make, smoke: RegimesConfig, num_symbols: int
) -> None:
    features = make_features(seed=5, num_symbols=num_symbols)
    names = [f"S{n}" for n in range(num_symbols)]
    there, back = dict(zip(names, names[::-1], strict=True)), dict(zip(names[::-1], names, strict=True))
    turned = features.with_columns(pl.col("symbol").replace_strict(there)).sort("symbol", "ts_ns")
    assets = assets_of(features).with_columns(pl.col("symbol").replace_strict(there)).sort("symbol")
    again = build(bars_of(turned), turned, assets, smoke).with_columns(pl.col("symbol").replace_strict(back)).sort("symbol", "ts_ns")
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
    table = transitions(frame)
    assert table.height == 4 * len(COLUMNS) and table.filter(pl.col("column") == "trend_state")["state"].to_list()[1] == "down"
    assert table.row(7) == ("liquidity_state", "high", 0.0, 1 / 3, 0.0, 2 / 3)
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
        build(bars_of(features).head(3), features, assets_of(features), smoke)
    with pytest.raises(ContractError, match="'close_adj' is missing"):
        build(features.select(KEYS), features, assets_of(features), smoke)
    with pytest.raises(ContractError, match="1 symbols of features are missing, first S0"):
        build(bars_of(features), features, assets_of(features).filter(pl.col("symbol") != "S0"), smoke)


@pytest.mark.parametrize(
    "change",
    [{"low": 0.7}, {"high": 1.0}, {"min_count": 2}, {"window_bars": 50}, {"kind": "rolling"}, {"kind": "rolling", "window_bars": 5}],
)
def test_nonsense_in_the_bands_is_refused(smoke: RegimesConfig, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="bands"):
        dataclasses.replace(smoke.bands, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("trend", {"enter": 0.4}),
        ("trend", {"leave": -0.1}),
        ("trend", {"halflife_bars": 0.0}),
        ("hmm", {"min_count": 500}),
        ("hmm", {"refit_bars": 0}),
        ("hmm", {"iterations": 0}),
        ("hmm", {"min_variance": 0.0}),
        ("hmm", {"pseudo_count": 0.0}),
        ("hmm", {"stay_count": -1.0}),
    ],
)
def test_nonsense_in_trend_and_model_is_refused(smoke: RegimesConfig, part: str, change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=part):
        dataclasses.replace(getattr(smoke, part), **change)


def test_rolling_bands_forget(smoke: RegimesConfig) -> None:
    num = 60
    ts = pl.Series("ts_ns", range(num), dtype=pl.Int64)
    value = [10.0] * 20 + [float(i % 5) for i in range(40)]
    features = pl.DataFrame({"symbol": ["A"] * num, "ts_ns": ts, "known_ns": ts, "vol_ewma": value, "amihud": value, "ret_long": value})
    features = features.with_columns(pl.lit("S0").alias("symbol"), pl.lit(1.0).alias("close_adj"))
    rolling = dataclasses.replace(smoke, bands=BandsConfig(kind="rolling", window_bars=20, min_count=10, low=0.33, high=0.67))
    assert of(features, rolling)["volatility_state"].to_list()[-5:] == [1, 1, 2, 3, 3]
    assert 3 not in of(features, smoke)["volatility_state"].to_list()[-5:]


def test_a_class_without_bars_has_no_states_and_one_bar_has_none_that_is_known(make_features: Make, smoke: RegimesConfig) -> None:
    features = make_features(seed=10)
    nothing = of(features.clear(), smoke)
    assert nothing.height == 0 and nothing.schema == of(features, smoke).schema
    one = of(features.head(1), smoke)
    assert one.select(COLUMNS).row(0) == (0,) * len(COLUMNS) and one["hmm_prob"][0] is None
