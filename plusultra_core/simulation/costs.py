"""What a trade costs, as scalars for the kernel."""

from typing import NamedTuple

MAX_IMPACT_FRAC = 0.5
"""No fill moves the price by more than half of it; a cap that keeps prices positive under stress."""


class Rules(NamedTuple):
    """Scalars of execution and cost that the step kernel takes."""

    bar_ns: int
    participation: float
    carry: bool
    """Leftovers stay in the market; otherwise they are cancelled at the end of the bar."""
    limit_offset_frac: float
    """Distance of the limit price from the close of the decision; NaN for market orders."""
    min_order_ccy: float
    retarget_frac: float
    max_leverage: float
    maintenance_margin: float
    liquidation_penalty_frac: float
    fee_frac: float
    fee_min_ccy: float
    impact_coef: float
    impact_exponent: float
    max_impact_frac: float
    borrow_frac_year: float
    funding: bool
