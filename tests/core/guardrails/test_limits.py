"""Limits refuse what makes no sense."""

import pytest

from plusultra_core.errors import ConfigError
from plusultra_core.guardrails.limits import GUARD_REASONS, GuardrailsConfig

GOOD = {
    "max_weight": 0.2,
    "max_gross": 1.0,
    "max_net": 0.5,
    "max_participation": 0.1,
    "reduce_drawdown": 0.1,
    "resume_drawdown": 0.05,
    "halt_drawdown": 0.2,
}


def test_limits_hold_the_numbers_of_the_config() -> None:
    limits = GuardrailsConfig(**GOOD).limits()
    assert limits._asdict() == GOOD


@pytest.mark.parametrize("name", ["max_weight", "max_gross", "max_net", "max_participation"])
def test_a_limit_that_is_not_positive_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        GuardrailsConfig(**{**GOOD, name: 0.0})


def test_drawdowns_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="resume <= reduce <= halt"):
        GuardrailsConfig(**{**GOOD, "halt_drawdown": 0.05})


def test_every_reason_has_its_own_name() -> None:
    assert len(set(GUARD_REASONS.values())) == len(GUARD_REASONS)
