"""The desk's door to the rulebook fails closed."""

import pytest

from plusultra_core.errors import GuardrailBreach
from plusultra_core.guardrails.check import Holding, check_targets
from plusultra_core.guardrails.limits import GuardrailsConfig

CFG = GuardrailsConfig(
    max_weight=0.3,
    max_gross=1.0,
    max_net=1.0,
    max_participation=0.1,
    reduce_drawdown=0.2,
    resume_drawdown=0.1,
    halt_drawdown=0.4,
)
FLAT = Holding(weight=0.0, fresh=True, adv_ccy=1e9)


def test_a_good_target_passes_with_no_reason() -> None:
    checked = check_targets({"A": 0.2}, {"A": FLAT}, 1e6, 1e6, "active", CFG)
    assert checked.targets == {"A": 0.2}
    assert checked.reasons == {"A": "none"}
    assert checked.state == "active"


@pytest.mark.parametrize(
    ("holding", "equity", "reason"),
    [
        (FLAT, None, "no_equity"),
        (FLAT, float("nan"), "no_equity"),
        (Holding(weight=0.0, fresh=False, adv_ccy=1e9), 1e6, "stale_price"),
        (Holding(weight=0.0, fresh=True, adv_ccy=None), 1e6, "max_participation"),
    ],
)
def test_what_is_missing_lets_nothing_new_pass(holding: Holding, equity: float | None, reason: str) -> None:
    checked = check_targets({"A": 0.2}, {"A": holding}, equity, 1e6, "active", CFG)
    assert checked.targets == {"A": 0.0}
    assert checked.reasons == {"A": reason}


@pytest.mark.parametrize("equity", [-5.0, 0.0])
def test_an_account_that_has_lost_everything_is_halted_and_flattened(equity: float) -> None:
    held = Holding(weight=-0.2, fresh=True, adv_ccy=1e9)
    checked = check_targets({"A": 0.2}, {"A": held, "B": held}, equity, 1e6, "active", CFG)
    assert checked.state == "halted"
    assert checked.targets == {"A": 0.0, "B": 0.0}
    assert checked.reasons == {"A": "state_halted", "B": "state_halted"}


@pytest.mark.parametrize(("equity", "peak"), [(0.0, 0.0), (0.0, None), (None, 1e6), (float("-inf"), 1e6)])
def test_an_account_that_was_never_funded_or_is_not_known_is_not_halted(equity: float | None, peak: float | None) -> None:
    checked = check_targets({"A": 0.2}, {"A": FLAT}, equity, peak, "active", CFG)
    assert checked.state == "active"
    assert checked.reasons == {"A": "no_equity"}


def test_an_unknown_holding_is_left_alone() -> None:
    checked = check_targets({"A": 0.2}, {"A": Holding(weight=None, fresh=True, adv_ccy=1e9)}, 1e6, 1e6, "active", CFG)
    assert checked.targets == {"A": None}
    assert checked.reasons == {"A": "not_finite"}


def test_a_kill_switch_flattens_and_a_missing_target_keeps_the_holding() -> None:
    held = Holding(weight=0.2, fresh=True, adv_ccy=1e9)
    assert check_targets({"A": 0.3}, {"A": held}, 1e6, 1e6, "halted", CFG).targets == {"A": 0.0}
    assert check_targets({}, {"A": held}, 1e6, 1e6, "active", CFG).targets == {"A": None}


def test_a_target_without_a_holding_row_or_an_unknown_state_is_refused() -> None:
    with pytest.raises(GuardrailBreach, match="no row for 'B'"):
        check_targets({"B": 0.1}, {"A": FLAT}, 1e6, 1e6, "active", CFG)
    with pytest.raises(GuardrailBreach, match="state"):
        check_targets({}, {}, 1e6, 1e6, "asleep", CFG)
