"""The verdict follows the interval, not the wish."""

import copy

import pytest

from plusultra_core.reporting import words
from plusultra_core.reporting.tables import percent


@pytest.fixture
def card(evidence):  # type: ignore[no-untyped-def]
    return copy.deepcopy(evidence.scorecard)


def test_a_win_is_called_a_win_with_its_interval(card) -> None:  # type: ignore[no-untyped-def]
    assert words.headline(card).startswith("Policy beat the best baseline") or "beat the best baseline" in words.headline(card)
    text = " ".join(words.verdict(card))
    low, high = card["verdict"]["sharpe"]["ci"]
    assert f"{low:.2f} to {high:.2f}" in text and "after costs by" in text


def test_a_policy_that_does_not_beat_its_baselines_is_said_to_have_lost(card) -> None:  # type: ignore[no-untyped-def]
    card["verdict"]["outcome"] = "baseline"
    assert words.headline(card).startswith("The baseline") and "beat every model" in words.headline(card)
    card["verdict"]["outcome"] = "undecided"
    assert "can be told apart" in words.headline(card)
    card["verdict"] = {"outcome": "unknown", "best_model": None, "best_baseline": None, "sharpe": None}
    assert "Nothing can be concluded" in words.headline(card) and len(words.verdict(card)) == 1


def test_models_that_never_traded_are_named_and_called_neither_best_nor_beaten(card) -> None:  # type: ignore[no-untyped-def]
    card["verdict"]["idle_models"] = ["policy"]
    assert any(sentence == "Never traded, and so neither won nor lost: policy." for sentence in words.verdict(card))
    card["verdict"] |= {"outcome": "idle", "best_model": None, "sharpe": None}
    assert words.headline(card) == "No model traded, so none can be compared"
    assert not any("best model" in sentence for sentence in words.verdict(card))


def test_an_undefined_sharpe_is_explained(card) -> None:  # type: ignore[no-untyped-def]
    card["verdict"]["best_baseline"] = "no_trade"
    assert any("its Sharpe is taken as 0" in sentence for sentence in words.verdict(card))


def test_skill_is_better_worse_or_no_different_by_its_interval(card) -> None:  # type: ignore[no-untyped-def]
    found = card["forecasts"]["hybrid"]["1"]
    for ci, phrase in (([0.01, 0.02], "better than"), ([-0.02, -0.01], "worse than"), ([-0.01, 0.01], "no different")):
        found["skill_vs_ewma_ci"] = ci
        assert phrase in words.forecasts(card)[0]
    found["skill_vs_climatology"] = None
    assert "without comparison to climatology" in words.forecasts(card)[0]
    assert words.forecasts({**card, "forecasts": {}}) == ["No forecast could be scored."]


def test_costs_say_how_much_of_them_is_the_markets_move(card) -> None:  # type: ignore[no-untyped-def]
    costs = card["strategies"][card["verdict"]["best_model"]]["costs"]
    costs["terms_ccy"]["latency_drift"] = -0.013 * costs["start_equity_ccy"]
    assert any(f"of which {percent(0.013)} is the market's move between decision and fill." in sentence for sentence in words.verdict(card))
    costs["terms_ccy"]["latency_drift"] = 0.02 * costs["start_equity_ccy"]
    assert any(f"of which {percent(-0.02)} is the market's move between decision and fill." in sentence for sentence in words.verdict(card))
