"""The scorecard as a whole: complete, null instead of NaN, deterministic, and moved by what the model says."""

import itertools
import json
import shutil
from dataclasses import replace

import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.artifacts import canonical_json
from plusultra_core.clock import iso
from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.evaluation.scorecard import EvaluationConfig, build_scorecard, trials_of

LINEAGE = {"snapshot": "world-000000000000", "trace": "f" * 64, "windows": "a" * 64}


def card_of(world, directory, market, cfg, **options):  # type: ignore[no-untyped-def]
    options = {"targets": world.targets(), **options}
    return build_scorecard(directory, world.forecasts(), world.regimes(), world.bars(), market, cfg, LINEAGE, **options)


@pytest.fixture(scope="module")
def card(world_trace, market, cfg):  # type: ignore[no-untyped-def]
    return card_of(*world_trace, market, cfg)


def numbers(value, path=""):  # type: ignore[no-untyped-def]
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in numbers(item, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {k: v for index, item in enumerate(value) for k, v in numbers(item, f"{path}.{index}").items()}
    return {path: value}


def test_the_card_is_json_without_nan_and_the_same_every_time(card, world_trace, market, cfg) -> None:  # type: ignore[no-untyped-def]
    assert json.loads(canonical_json(card)) == json.loads(json.dumps(card))
    assert canonical_json(card_of(*world_trace, market, cfg)) == canonical_json(card)


def test_the_card_has_what_was_agreed(card) -> None:  # type: ignore[no-untyped-def]
    assert {"asset_class", "snapshot", "span", "strategies", "forecasts", "baselines", "lineage", "warnings"} <= set(card)
    assert card["snapshot"] == "world-000000000000" and card["span"]["num_bars"] == len(card["series"]["locked"]["ts_ns"])
    policy = card["strategies"]["policy"]
    assert {"metrics", "ci", "psr", "costs", "fills", "attribution"} <= set(policy)
    assert {"ic", "rank_ic", "ic_ci", "pinball", "crps", "coverage_90", "skill_vs_climatology", "skill_vs_ewma"} <= set(
        card["forecasts"]["hybrid"]["1"]
    )
    others = {"no_trade", "buy_and_hold", "equal_weight", "random", "sized_linear", "sized_hybrid", "mean_variance"}
    assert set(card["paired"]["policy"]) == others


def test_shuffling_predictions_moves_every_strategy_metric(make_world, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    cards = []
    for shuffle in (False, True):
        world = make_world(shuffle=shuffle)
        cards.append(card_of(world, world.write_trace(tmp_path / str(shuffle)), market, cfg))
    fixed = {"num_bars", "exposure_max", "turnover_year", "exposure_mean"}
    for name in ("policy", "sized_linear", "sized_hybrid"):
        own, other = (card["strategies"][name]["metrics"] for card in cards)
        still = {metric for metric in own if own[metric] == other[metric]}
        assert still <= fixed, (name, still)
        assert own["sharpe"] > 3 > other["sharpe"]
    held = [{key: value for key, value in card["strategies"]["buy_and_hold"].items() if key != "ci"} for card in cards]
    assert held[0] == held[1]  # intervals depend on all strategies, by the blocks of dates that they share
    assert cards[0]["verdict"]["outcome"] == "model" and cards[1]["verdict"]["outcome"] != "model"


def test_costs_lower_every_strategy_that_trades(make_world, market, cfg, tmp_path, card) -> None:  # type: ignore[no-untyped-def]
    free = make_world(costless=True)
    gross = card_of(free, free.write_trace(tmp_path / "free"), market, cfg)
    for name in ("policy", "random", "sized_hybrid"):
        free_of, paid = gross["strategies"][name]["metrics"], card["strategies"][name]["metrics"]
        assert free_of["cagr"] > paid["cagr"]
        assert paid["sharpe_before_costs"] > paid["sharpe"] and free_of["sharpe_before_costs"] == pytest.approx(free_of["sharpe"])
        assert paid["sharpe_before_costs"] == pytest.approx(free_of["sharpe"], abs=0.1)
    assert gross["strategies"]["policy"]["costs"]["cost_ccy"] == 0.0


def test_a_year_of_other_length_than_the_markets_is_said(world_trace, market, cfg) -> None:  # type: ignore[no-untyped-def]
    """The world has a bar every day: 252 of them are no year."""
    told = "there are 365 bars a year, the market's config says 252: what is stated a year is off"
    assert told in card_of(*world_trace, market, cfg)["warnings"]
    right = card_of(*world_trace, replace(market, periods_per_year=365.25), cfg)
    assert right["data"]["bars_per_year"] == pytest.approx(365.25) and not [note for note in right["warnings"] if "bars a year" in note]


def test_periods_per_year_comes_from_the_market(card, world_trace, market, cfg) -> None:  # type: ignore[no-untyped-def]
    other = card_of(*world_trace, replace(market, periods_per_year=365.25), cfg)
    ratio = other["strategies"]["policy"]["metrics"]["sharpe"] / card["strategies"]["policy"]["metrics"]["sharpe"]
    assert ratio == pytest.approx((365.25 / 252.0) ** 0.5)


def test_no_trade_is_null_and_not_nan(card) -> None:  # type: ignore[no-untyped-def]
    nothing = card["strategies"]["no_trade"]
    assert nothing["metrics"]["sharpe"] is None and nothing["ci"]["sharpe"] is None and nothing["psr"] is None


def resting(world_trace, directory, names):  # type: ignore[no-untyped-def]
    """The world's trace in which these strategies never traded."""
    copied = shutil.copytree(world_trace[1], directory)
    of_them = pl.col("strategy").is_in([run for name in names for run in (name, f"{name}_walk_forward")])
    account = pl.read_parquet(copied / "account.parquet")
    money = [name for name, kind in account.schema.items() if kind == pl.Float64 and name not in ("equity", "cash")]
    still = [pl.when(of_them).then(0.0).otherwise(pl.col(name)).alias(name) for name in money]
    whole = [pl.when(of_them).then(100_000.0).otherwise(pl.col(name)).alias(name) for name in ("equity", "cash")]
    account.with_columns(*still, *whole).write_parquet(copied / "account.parquet")
    for table in ("orders", "positions"):
        pl.read_parquet(copied / f"{table}.parquet").filter(~of_them).write_parquet(copied / f"{table}.parquet")
    return copied


def test_a_model_that_never_traded_is_no_best_model(make_world, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Among models that lose, one that rests has the highest Sharpe, 0; it is not the best for that."""
    world = make_world(shuffle=True, seed=4)
    trace = resting((world, world.write_trace(tmp_path / "loses")), tmp_path / "rests", ["policy"])
    card = card_of(world, trace, market, cfg)
    traded = {name: card["strategies"][name]["metrics"]["sharpe"] for name in card["models"] if name != "policy"}
    assert card["strategies"]["policy"]["metrics"]["sharpe"] is None and max(traded.values()) < 0
    assert card["verdict"]["best_model"] == max(traded, key=lambda name: traded[name])
    assert card["verdict"]["idle_models"] == ["policy"] and "policy was never in the market" in card["warnings"]


def test_where_no_model_traded_the_verdict_says_so(world_trace, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    trace = resting(world_trace, tmp_path / "rests", list(cfg.models))
    verdict = card_of(world_trace[0], trace, market, cfg)["verdict"]
    assert verdict["outcome"] == "idle" and verdict["best_model"] is None and verdict["sharpe"] is None
    assert verdict["idle_models"] == list(cfg.models) and verdict["best_baseline"] is not None


def test_transitions_are_rows_of_probabilities_within_a_symbol(card, world_trace) -> None:  # type: ignore[no-untyped-def]
    world = world_trace[0]
    found = card["regimes"]["volatility"]
    state = world.regimes().filter(pl.col("symbol") == "AAA")["volatility_state"].to_list()
    pairs = list(itertools.pairwise(state))
    expected = sum(pair == (1, 2) for pair in pairs) / sum(pair[0] == 1 for pair in pairs)
    assert found["transitions"][1][2] == pytest.approx(expected)
    assert all(row is None or sum(row) == pytest.approx(1.0) for row in found["transitions"])
    assert sum(found["share"]) == pytest.approx(1.0)


def test_every_state_of_the_regimes_is_told_by_its_own_words(card) -> None:  # type: ignore[no-untyped-def]
    assert list(card["regimes"]) == ["volatility", "liquidity", "rotation", "trend", "hmm"]
    assert card["regimes"]["trend"]["states"] == ["unknown", "down", "flat", "up"]
    split = card["strategies"]["policy"]["attribution"]["by_regime"]
    assert {row["name"] for row in split["trend"]} <= {"unknown", "down", "flat", "up"}
    assert {row["name"] for row in split["hmm"]} <= {"unknown", "low", "mid", "high"}


def test_folds_of_the_stitched_run_are_scored_one_by_one(card) -> None:  # type: ignore[no-untyped-def]
    walked = card["walk_forward"]["policy"]
    assert [fold["fold"] for fold in walked["folds"]] == [0, 1]
    assert sum(fold["num_bars"] for fold in walked["folds"]) == walked["span"]["num_bars"]


def test_accounts_that_were_stopped_and_perpetuals_without_funding_are_told(world_trace, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    world, directory = world_trace
    copied = shutil.copytree(directory, tmp_path / "trace")
    assert not any("drawdown" in warning or "funding" in warning for warning in card_of(*world_trace, market, cfg)["warnings"])
    path = copied / "account.parquet"
    account = pl.read_parquet(path)
    late = (pl.col("strategy") == "policy") & (pl.col("ts_ns") > account["ts_ns"].quantile(0.9))
    account.with_columns(pl.when(late).then(2).otherwise(0).cast(pl.Int8).alias("guard_state")).write_parquet(path)
    perpetual = replace(market, costs=replace(market.costs, funding=True))
    card = card_of(world, copied, perpetual, cfg)
    frac = card["strategies"]["policy"]["guarded_frac"]
    assert 0.05 < frac < 1.0 and card["strategies"]["random"]["guarded_frac"] == 0.0
    assert [w for w in card["warnings"] if "drawdown" in w] == [
        f"policy was held back by its drawdown in {frac:.0%} of the bars: its ratios are of the rest"
    ]
    assert any("no funding_rates" in warning for warning in card["warnings"])


def test_a_run_that_was_closed_by_force_is_told_with_its_bar(world_trace, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    world, directory = world_trace
    assert not any("closed by force" in warning for warning in card_of(*world_trace, market, cfg)["warnings"])
    copied = shutil.copytree(directory, tmp_path / "trace")
    account = pl.read_parquet(copied / "account.parquet")
    at = int(account.filter(pl.col("strategy") == "random")["ts_ns"][-5])
    hit = (pl.col("strategy") == "random") & (pl.col("ts_ns") >= at)
    account.with_columns(pl.when(hit).then(1234.4).otherwise(0.0).alias("liquidation")).write_parquet(copied / "account.parquet")
    told = [warning for warning in card_of(world, copied, market, cfg)["warnings"] if "closed by force" in warning]
    assert len(told) == 1 and told[0].startswith(f"random was closed by force in the bar to {iso(at)} and lost 1,234 there")


def test_weak_evidence_is_said_in_words(make_world, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    world = make_world(num_bars=60)
    bars = world.bars().with_columns(pl.lit(False).alias("has_volume"), pl.lit(False).alias("has_ohl"))
    trace = world.write_trace(tmp_path)
    card = build_scorecard(trace, world.forecasts(), world.regimes(), bars, market, replace(cfg, models=("policy", "absent")), LINEAGE)
    text = " | ".join(card["warnings"])
    for words in (
        "bars, fewer than 60",
        "years long",
        "strategies not in the trace: absent",
        "100% of the bars have no volume",
        "a close only",
        "climatology has fewer",
    ):
        assert words in text


def test_a_very_short_window_gives_a_card_without_intervals(make_world, market, cfg, tmp_path) -> None:  # type: ignore[no-untyped-def]
    world = make_world(num_bars=24)
    card = card_of(world, world.write_trace(tmp_path), market, cfg)
    assert card["paired"] == {} and card["strategies"]["policy"]["ci"]["sharpe"] is None and card["verdict"]["outcome"] == "undecided"


def test_trials_of_a_card_are_its_models(card) -> None:  # type: ignore[no-untyped-def]
    trials = trials_of(card, "0" * 16)
    assert [trial.strategy for trial in trials] == ["sized_linear", "sized_hybrid", "mean_variance", "policy"]
    annual = card["strategies"]["policy"]["metrics"]["sharpe"]
    assert trials[3].sharpe_per_bar == pytest.approx(annual / 252.0**0.5)
    assert len({trial.key for trial in trials}) == 4


def test_an_empty_bars_frame_is_refused(world_trace, market, cfg) -> None:  # type: ignore[no-untyped-def]
    world, directory = world_trace
    with pytest.raises(ContractError, match="bars: no rows"):
        build_scorecard(directory, world.forecasts(), world.regimes(), world.bars().head(0), market, cfg, LINEAGE)


@pytest.mark.parametrize("profile", ["smoke", "base", "gpu24", "h200"])
def test_every_profile_has_a_config(root, profile: str) -> None:  # type: ignore[no-untyped-def]
    cfg = config.load(EvaluationConfig, root / "configs" / profile / "evaluation.yaml")
    assert set(cfg.promotion.baselines) <= {*cfg.models, *cfg.baselines} and cfg.promotion.strategy in cfg.models


def test_a_name_cannot_be_model_and_baseline(cfg) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="without a common name"):
        replace(cfg, models=("policy",), baselines=("policy",))
