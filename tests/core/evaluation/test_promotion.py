"""The rule, from both sides of each threshold, and a record that shows when it was edited."""

import copy
from dataclasses import asdict, replace

import numpy as np
import pytest

from plusultra_core import config
from plusultra_core.errors import ArtifactError, ConfigError, ContractError
from plusultra_core.evaluation.promotion import decide, replay
from plusultra_core.evaluation.registry.records import sign, verify
from plusultra_core.evaluation.scorecard import EvaluationConfig, build_scorecard

KEY = b"0123456789abcdef"


@pytest.fixture(scope="module")
def card(world_trace, market, cfg):  # type: ignore[no-untyped-def]
    world, directory = world_trace
    return build_scorecard(directory, world.forecasts(), world.regimes(), world.bars(), market, cfg, {"snapshot": "w"})


@pytest.fixture(scope="module")
def rule(cfg):  # type: ignore[no-untyped-def]
    return replace(cfg.promotion, baselines=("no_trade", "buy_and_hold", "random"))


def test_a_policy_that_beats_its_baselines_is_promoted(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    decision = decide(card, None, rule, cfg.bootstrap)
    assert decision.promoted and decision.best_baseline in rule.baselines and all(check.passed for check in decision.checks)


def test_a_policy_that_does_not_beat_its_baselines_is_reported_as_such(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    beaten = copy.deepcopy(card)
    best = decide(card, None, rule, cfg.bootstrap).best_baseline
    beaten["paired"]["policy"][best]["sharpe"]["ci"] = [-0.01, 5.0]
    decision = decide(beaten, None, rule, cfg.bootstrap)
    assert not decision.promoted and decision.reason == f"not promoted: lower end of Sharpe minus {best}"
    assert not decide(card, None, replace(rule, min_gain_over_baseline=99.0), cfg.bootstrap).promoted


@pytest.mark.parametrize("profile", ["smoke", "base", "gpu24", "h200"])
def test_the_rule_of_every_profile_names_every_other_strategy(root, profile: str) -> None:  # type: ignore[no-untyped-def]
    found = config.load(EvaluationConfig, root / "configs" / profile / "evaluation.yaml")
    assert set(found.promotion.baselines) == {*found.models, *found.baselines} - {found.promotion.strategy}
    assert {"no_trade", "buy_and_hold", "equal_weight", "random", "sized_hybrid", "mean_variance"} <= set(found.promotion.baselines)


@pytest.mark.parametrize("name", ["no_trade", "buy_and_hold", "equal_weight", "random", "sized_linear", "sized_hybrid", "mean_variance"])
def test_a_policy_below_any_one_of_its_baselines_is_refused(card, cfg, name: str) -> None:  # type: ignore[no-untyped-def]
    """Whichever it is, the best of them or not; and so is one whose baseline was not run."""
    rule = replace(cfg.promotion, needs_median_seed=False)
    above = copy.deepcopy(card)
    for found in above["paired"]["policy"].values():
        found["sharpe"]["ci"] = [0.5, 5.0]
    assert decide(above, None, rule, cfg.bootstrap).promoted
    below = copy.deepcopy(above)
    below["paired"]["policy"][name]["sharpe"]["ci"] = [-0.01, 5.0]
    absent = copy.deepcopy(above)
    del absent["strategies"][name], absent["paired"]["policy"][name]
    for refused in (below, absent):
        decision = decide(refused, None, rule, cfg.bootstrap)
        assert not decision.promoted and decision.reason == f"not promoted: lower end of Sharpe minus {name}"


def test_a_policy_that_never_trades_is_refused(card, cfg) -> None:  # type: ignore[no-untyped-def]
    """It loses to nobody where all lose, but nothing speaks for it: it has no PSR."""
    idle = copy.deepcopy(card)
    idle["strategies"]["policy"]["psr"] = None
    idle["series"]["locked"]["ret"]["policy"] = [0.0] * idle["span"]["num_bars"]
    for found in idle["paired"]["policy"].values():
        found["sharpe"]["ci"] = [0.5, 5.0]
    rule = replace(cfg.promotion, needs_median_seed=False)
    assert decide(idle, None, rule, cfg.bootstrap).reason == "not promoted: PSR against 0"


def test_the_supervised_rule_is_a_baseline_of_the_policy(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    decision = decide(card, None, replace(rule, baselines=("sized_hybrid", "no_trade")), cfg.bootstrap)
    assert decision.best_baseline == "sized_hybrid"
    found = {check.name: check.found for check in decision.checks}
    assert found["lower end of Sharpe minus sized_hybrid"] == card["paired"]["policy"]["sized_hybrid"]["sharpe"]["ci"][0]


def test_each_threshold_can_refuse(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    assert "bars of the locked window" in decide(card, None, replace(rule, min_bars=10_000), cfg.bootstrap).reason
    weak = copy.deepcopy(card)
    weak["strategies"]["policy"]["psr"] = 0.9
    assert "PSR against 0" in decide(weak, None, rule, cfg.bootstrap).reason


def test_what_cannot_be_computed_fails(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    blind = copy.deepcopy(card)
    blind["strategies"]["policy"]["psr"] = None
    blind["paired"] = {}
    decision = decide(blind, None, rule, cfg.bootstrap)
    assert not decision.promoted and sum(not check.passed for check in decision.checks) == 1 + len(rule.baselines)


def test_a_challenger_must_beat_the_champion_on_shared_bars(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    same = decide(card, card, replace(rule, min_gain_over_champion=0.1), cfg.bootstrap)
    assert not same.promoted and same.checks[-1].found == 0.0
    assert decide(card, card, rule, cfg.bootstrap).promoted
    worse = copy.deepcopy(card)
    worse["series"]["locked"]["ret"]["policy"] = (np.array(card["series"]["locked"]["ret"]["random"])).tolist()
    assert decide(card, worse, rule, cfg.bootstrap).promoted
    strong = decide(worse, card, rule, cfg.bootstrap)
    assert not strong.promoted and strong.checks[-1].found < 0


def test_a_champion_of_another_window_or_market_is_no_comparison(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    elsewhere = copy.deepcopy(card)
    elsewhere["series"]["locked"]["ts_ns"] = [ts + 1 for ts in card["series"]["locked"]["ts_ns"]]
    assert "bars shared with the champion" in decide(card, elsewhere, rule, cfg.bootstrap).reason
    assert not decide(card, {**card, "asset_class": "crypto"}, rule, cfg.bootstrap).promoted


def test_the_decision_is_replayed_from_its_evidence(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    decision = decide(card, card, rule, cfg.bootstrap)
    assert replay(decision, card, card, rule, cfg.bootstrap)
    other = copy.deepcopy(card)
    other["series"]["locked"]["ret"]["policy"][3] += 1e-9
    assert not replay(decision, other, card, rule, cfg.bootstrap)
    assert not replay(decision, card, card, replace(rule, min_psr=0.5), cfg.bootstrap)


def test_a_signed_record_is_read_back_and_an_edited_one_is_not(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    decision = decide(card, None, replace(rule, min_bars=10_000), cfg.bootstrap)
    record = sign(decision, KEY, "")
    assert verify(record, KEY, "") == decision
    edited = {**record, "decision": {**asdict(decision), "promoted": True}}
    for bad, key in ((edited, KEY), (record, b"another key 0123456"), ({**record, "signature": "é"}, KEY)):
        with pytest.raises(ArtifactError, match="the signature does not fit"):
            verify(bad, key, "")


def test_a_record_taken_out_of_the_chain_is_missed(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    decision = decide(card, None, rule, cfg.bootstrap)
    first = sign(decision, KEY, "")
    second = sign(decision, KEY, first["signature"])
    assert verify(second, KEY, first["signature"]) == decision
    with pytest.raises(ArtifactError, match="does not follow the record before it"):
        verify(second, KEY, "")


def test_a_record_that_is_none_and_a_weak_key_are_refused(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ArtifactError, match="not a signed decision"):
        verify({"decision": {}}, KEY, "")
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        sign(decide(card, None, rule, cfg.bootstrap), b"short", "")


def test_a_card_without_the_strategy_is_refused(card, rule, cfg) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ContractError, match="expected strategy 'absent'"):
        decide(card, None, replace(rule, strategy="absent"), cfg.bootstrap)
    with pytest.raises(ContractError, match="one of the baselines"):
        decide(card, None, replace(rule, baselines=("absent",)), cfg.bootstrap)


def test_a_rule_that_makes_no_sense_is_refused(rule) -> None:  # type: ignore[no-untyped-def]
    for change in ({"baselines": ()}, {"baselines": ("policy",)}, {"min_bars": 1}, {"min_psr": 1.5}):
        with pytest.raises(ConfigError):
            replace(rule, **change)
