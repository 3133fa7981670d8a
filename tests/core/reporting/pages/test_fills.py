"""What is said of one fill, and in what form."""

import pytest

from plusultra_core.reporting.pages.blocks import length_of
from plusultra_core.reporting.pages.fills import money_like, price_of, story

FILL = {
    "order_id": 7, "side": "sell", "qty_filled": 2.5, "qty_left": 10.0, "price": 99.5, "decision_ns": 0, "decision_price": 100.0,
    "arrival_ns": 250 * 10**6, "ts_ns": 86_400 * 10**9, "reference": 99.75, "notional_ccy": 248.75, "participation": 0.01,
    "delay": 0.5, "waiting": 0.0, "spread": 0.25, "impact": 0.375, "fees": 1.0,
    "status": "partial", "reason": "capacity", "proxy": "open,volume",
}  # fmt: skip


def test_a_story_holds_the_order_its_times_its_prices_its_costs_and_what_bound_it() -> None:
    assert story(FILL).splitlines() == [
        "order 7: sell 2.5000 of 10.0000 at 99.5000",
        "decided 1970-01-01 00:00:00 at 100.0000",
        "in the market 1970-01-01 00:00:00.250",
        "filled in the bar to 1970-01-02 00:00:00, before costs at 99.7500",
        "249 traded, 1.000\u00a0% of the bar's volume",
        "lost to delay 0.50, waiting 0.00, spread 0.25, impact 0.38, fees 1.00",
        "left as partial, capacity",
        "assumed of this bar: open, volume",
    ]
    whole = story({**FILL, "status": "filled", "reason": "none", "proxy": ""}).splitlines()
    assert whole[-1] == "left as filled" and len(whole) == 7


@pytest.mark.parametrize(("price", "shown"), [(65_000.128, "65,000.13"), (98.302, "98.3020"), (1.08342, "1.083420"), (None, "–")])
def test_prices_keep_the_digits_that_count(price: float | None, shown: str) -> None:
    assert price_of(price) == shown


def test_small_sums_keep_their_cents_and_a_table_one_form() -> None:
    assert [money_like(3.0, -99_999.0)(value) for value in (3.0, -1234.5)] == ["3.00", "−1,234.50"]
    assert [money_like(3.0, -100_000.0, None)(value) for value in (3.0, -1234.6)] == ["3", "−1,235"]


def test_lengths_of_time_read_as_people_say_them() -> None:
    assert [length_of(ms) for ms in (0.0, 250.0, 2000.0, 90_000.0, 3.6e6, 1e8)] == ["0 ms", "250 ms", "2 s", "1.5 min", "1 h", "1.16 d"]
