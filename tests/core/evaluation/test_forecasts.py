"""Forecasts of a planted world, against brute force, and climatology that knows no future."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation.bootstrap import BootstrapConfig
from plusultra_core.evaluation.forecasts import ForecastScoresConfig, quantile_levels, score_forecasts

BOOTSTRAP = BootstrapConfig(reps=200, confidence=0.95, min_bars=10)
CFG = ForecastScoresConfig(min_names=5, ece_bins=15, min_history_rows=100)


def score(world, frame=None, targets="own", cfg=CFG):  # type: ignore[no-untyped-def]
    frame = world.forecasts() if frame is None else frame
    return score_forecasts(frame, world.regimes(), world.targets() if isinstance(targets, str) else targets, cfg, BOOTSTRAP, 7)


def known(world, model="hybrid"):  # type: ignore[no-untyped-def]
    return world.forecasts().filter((pl.col("model") == model) & pl.col("y").is_finite())


def test_the_ic_is_the_mean_over_dates_of_the_cross_sectional_correlation(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    found = score(world)[0]["hybrid"]["1"]
    by_date = [part for _, part in known(world).group_by("ts_ns", maintain_order=True)]
    assert found["ic_method"] == "cross_sectional" and found["newey_west_lag"] == 2
    assert found["ic"] == pytest.approx(np.mean([np.corrcoef(part["q_50"], part["y"])[0, 1] for part in by_date]))
    assert found["rank_ic"] == pytest.approx(np.mean([spearmanr(part["q_50"], part["y"])[0] for part in by_date]))
    assert found["ic_ci"][0] < found["ic"] < found["ic_ci"][1]


def test_a_planted_signal_is_recovered_and_shuffling_loses_it(make_world) -> None:  # type: ignore[no-untyped-def]
    found = score(make_world(num_bars=800))[0]["hybrid"]["1"]
    shuffled = score(make_world(num_bars=800, shuffle=True))[0]["hybrid"]["1"]
    assert found["ic"] == pytest.approx(0.3, abs=0.06) and found["skill_vs_ewma_ci"][0] > 0 and found["skill_vs_climatology_ci"][0] > 0
    assert abs(shuffled["ic"]) < 3 * shuffled["ic_se"] and shuffled["skill_vs_ewma"] < 0
    assert all(found[name] != shuffled[name] for name in ("ic", "rank_ic", "crps", "pinball_mean", "brier", "nll", "coverage_90"))


def test_few_names_are_pooled_over_time_and_it_says_so(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world(symbols=("AAA", "BBB"), num_bars=400)
    found = score(world)[0]["hybrid"]["1"]
    rows = known(world)
    assert found["ic_method"] == "pooled"
    assert found["ic"] == pytest.approx(np.corrcoef(rows["q_50"], rows["y"])[0, 1])
    assert found["rank_ic"] == pytest.approx(spearmanr(rows["q_50"], rows["y"])[0])


def test_coverage_and_levels_equal_counting(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    found, rows = score(world)[0]["hybrid"]["1"], known(world)
    inside = (rows["y"] >= rows["q_05"]) & (rows["y"] <= rows["q_95"])
    assert found["coverage_90"] == pytest.approx(inside.mean())
    assert found["levels"]["0.25"] == pytest.approx((rows["y"] <= rows["q_25"]).mean())
    assert found["coverage_90_ci"][0] <= found["coverage_90"] <= found["coverage_90_ci"][1]
    states = found["coverage_by_regime"]
    assert sum(state["num_rows"] for state in states.values()) == found["num_rows"]
    total = sum(state["num_rows"] * state["coverage_90"] for state in states.values())
    assert total / found["num_rows"] == pytest.approx(found["coverage_90"])


def test_rows_without_a_regime_count_as_unknown_and_none_is_lost(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    regimes = world.regimes().filter(pl.col("symbol") != "AAA")
    found = score_forecasts(world.forecasts(), regimes, world.targets(), CFG, BOOTSTRAP, 7)[0]["hybrid"]["1"]
    assert found["coverage_by_regime"]["unknown"]["num_rows"] == known(world).filter(pl.col("symbol") == "AAA").height
    assert found["num_rows"] == known(world).height


def test_climatology_knows_no_outcome_of_its_test_span(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    start = int(world.ts_ns[world.folds == 0][0])
    poisoned = world.targets().with_columns(
        pl.when(pl.col("label_end_ns_1") >= start).then(1e6).otherwise(pl.col("target_1")).alias("target_1")
    )
    first = world.forecasts().filter(pl.col("fold") == 0)
    clean = score(world, first)[0]["hybrid"]["1"]
    assert score(world, first, poisoned)[0]["hybrid"]["1"]["crps_climatology"] == clean["crps_climatology"]
    earlier = world.targets().with_columns(pl.col("target_1") * 3.0)
    assert score(world, first, earlier)[0]["hybrid"]["1"]["crps_climatology"] > clean["crps_climatology"]


def test_folds_without_history_are_left_out_and_named(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    cards, notes = score(world, targets=None)
    found = cards["hybrid"]["1"]
    assert found["climatology_rows"] == known(world).filter(pl.col("fold") == 1).height
    assert any("before the test span of fold 0" in note for note in notes)
    none = score(world, world.forecasts().filter(pl.col("fold") == 0), None)[0]["hybrid"]["1"]
    assert none["crps_climatology"] is None and none["skill_vs_climatology"] is None and none["skill_vs_ewma"] is not None


def test_skill_is_measured_on_the_same_rows_as_its_baseline(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    partly = score(world, targets=None)[0]["hybrid"]["1"]
    alone = score(world, world.forecasts().filter(pl.col("fold") == 1), world.targets())[0]["hybrid"]["1"]
    assert partly["skill_vs_climatology"] != alone["skill_vs_ewma"]
    assert partly["climatology_rows"] == alone["num_rows"]


def test_rows_that_are_not_test_or_not_known_are_not_scored(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    frame = world.forecasts()
    extra = frame.filter(pl.col("fold") == 0).with_columns(pl.lit("valid").alias("split"), pl.col("ts_ns") - 10**15, pl.col("y") * 50)
    found = score(world, pl.concat([frame, extra]))[0]["hybrid"]["1"]
    assert found["crps"] == score(world)[0]["hybrid"]["1"]["crps"]
    assert found["num_unscored"] == len(world.symbols)
    cards, notes = score(world, frame.with_columns(pl.lit(float("nan")).alias("y")))
    assert cards == {} and len(notes) == 2 and "no outcome is known yet" in notes[0]


def test_the_target_is_never_what_is_scored_as_the_forecast(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    other = world.forecasts().with_columns((pl.col(name) + 0.3) for name in ("q_05", "q_10", "q_25", "q_50", "q_75", "q_90", "q_95"))
    assert score(world, other)[0]["hybrid"]["1"]["crps"] != score(world)[0]["hybrid"]["1"]["crps"]


def test_a_constant_forecast_has_no_ic_and_says_null(make_world) -> None:  # type: ignore[no-untyped-def]
    for symbols in (("AAA", "BBB"), ("A", "B", "C", "D", "E", "F")):
        world = make_world(symbols=symbols)
        flat = world.forecasts().with_columns(pl.lit(0.0).alias("q_50"))
        found = score(world, flat)[0]["hybrid"]["1"]
        assert found["ic"] is None and found["ic_ci"] is None and found["rank_ic"] is None


def test_directions_that_are_missing_are_not_scored(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    frame = world.forecasts()
    holes = frame.with_columns(pl.when(pl.col("symbol") == "AAA").then(None).otherwise(pl.col("direction")).alias("direction"))
    marked = frame.with_columns(pl.when(pl.col("symbol") == "AAA").then(-1).otherwise(pl.col("direction")).cast(pl.Int8).alias("direction"))
    a, b = score(world, holes)[0]["hybrid"]["1"], score(world, marked)[0]["hybrid"]["1"]
    assert a["num_directions"] == b["num_directions"] == known(world).height - known(world).filter(pl.col("symbol") == "AAA").height
    assert a["brier"] == b["brier"]


def test_quantile_columns_name_their_levels() -> None:
    assert quantile_levels(["q_95", "q_50", "q_025", "q_05", "symbol"]) == {"q_025": 0.025, "q_05": 0.05, "q_50": 0.5, "q_95": 0.95}
    with pytest.raises(ContractError, match="median q_50"):
        quantile_levels(["q_05", "q_25", "q_95"])


def test_frames_that_break_the_contract_are_refused(make_world) -> None:  # type: ignore[no-untyped-def]
    world = make_world()
    frame = world.forecasts()
    with pytest.raises(ContractError, match="missing column 'label_end_ns'"):
        score(world, frame.drop("label_end_ns"))
    with pytest.raises(ContractError, match=r"keys .* repeat"):
        score(world, pl.concat([frame, frame.head(1)]))
    with pytest.raises(ContractError, match="quantiles are not finite"):
        score(world, frame.with_columns(pl.lit(float("nan")).alias("q_05")))
    with pytest.raises(ContractError, match="regimes: keys"):
        score_forecasts(frame, pl.concat([world.regimes(), world.regimes().head(1)]), None, CFG, BOOTSTRAP, 7)


@pytest.mark.parametrize("key", ["min_names", "ece_bins", "min_history_rows"])
def test_a_config_that_makes_no_sense_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        ForecastScoresConfig(**{"min_names": 5, "ece_bins": 15, "min_history_rows": 100, key: 1})
