"""What a market lends, as the rulebook knows it: nothing is sold short in cash, and no number that is none sells what is held."""

from dataclasses import replace

import numpy as np

from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.guardrails.margin import within_margin, without_shorts
from plusultra_core.market import MarginConfig

CASH = MarginConfig(account="cash", max_leverage=1.0, maintenance_margin=0.0, liquidation_penalty_bps=0.0, shorts=False, reserve_frac=0.02)
LENT = replace(CASH, account="margin", max_leverage=2.0, shorts=True, reserve_frac=0.0)
DESK = GuardrailsConfig(
    max_weight=0.5, max_gross=2.0, max_net=1.0, max_participation=0.1, reduce_drawdown=0.1, resume_drawdown=0.05, halt_drawdown=0.2
)


def test_what_would_be_sold_short_is_nothing_and_what_is_no_number_stays_none() -> None:
    asked = np.array([[-0.3, 0.0, 0.4], [np.nan, -np.inf, np.inf]])
    kept = without_shorts(asked, CASH)
    assert np.array_equal(kept, [[0.0, 0.0, 0.4], [np.nan, -np.inf, np.inf]], equal_nan=True)
    assert np.array_equal(without_shorts(asked, LENT), asked, equal_nan=True)


def test_a_cash_account_asks_for_all_but_its_reserve_and_for_no_more_than_the_desk_allows() -> None:
    assert within_margin(DESK, CASH) == replace(DESK, max_gross=0.98)
    assert within_margin(replace(DESK, max_gross=0.5), CASH).max_gross == 0.5
    assert within_margin(DESK, LENT) == DESK
