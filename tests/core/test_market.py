"""Facts of a market: every shipped file loads, and what cannot be is refused."""

from pathlib import Path

import pytest

from plusultra_core import config
from plusultra_core.errors import ConfigError
from plusultra_core.market import ASSET_CLASSES, CostsConfig, MarginConfig, MarketConfig

CASH = {
    "account": "cash", "max_leverage": 1.0, "maintenance_margin": 0.0, "liquidation_penalty_bps": 0.0, "shorts": False,
    "reserve_frac": 0.02,
}  # fmt: skip
PERIODS = {"equity": 252.0, "etf": 252.0, "forex": 312.0, "commodity": 258.0, "crypto": 365.0, "crypto_perpetual": 8760.0}


@pytest.fixture
def markets(root: Path) -> dict[str, MarketConfig]:
    return {name: config.load(MarketConfig, root / "configs" / "markets" / f"{name}.yaml") for name in ASSET_CLASSES}


def test_every_class_has_its_file_and_no_file_is_left_over(markets: dict[str, MarketConfig], root: Path) -> None:
    assert {market.asset_class for market in markets.values()} == set(ASSET_CLASSES)
    assert all(market.asset_class == name for name, market in markets.items())
    assert {path.stem for path in (root / "configs" / "markets").glob("*.yaml")} == set(ASSET_CLASSES)


def test_periods_per_year_are_those_of_the_bar_and_the_calendar(markets: dict[str, MarketConfig]) -> None:
    for name, periods in PERIODS.items():
        assert markets[name].periods_per_year == pytest.approx(periods, rel=0.02)


def test_only_perpetuals_pay_funding(markets: dict[str, MarketConfig]) -> None:
    assert [name for name, market in markets.items() if market.costs.funding] == ["crypto_perpetual"]


def test_a_symbol_belongs_to_at_most_one_class_by_rule(markets: dict[str, MarketConfig]) -> None:
    import re

    for symbol in ("BTC-USD", "BTC-PERP", "BTC/USDT:USDT", "EURUSD", "XAUUSD", "^VIX", "^GSPC", "AAPL", "WTI"):
        owners = [name for name, market in markets.items() if any(re.fullmatch(rule, symbol) for rule in market.symbol_rules)]
        assert len(owners) <= 1, (symbol, owners)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"costs.fee_bps": -1}, "fee_bps: expected >= 0"),
        ({"costs.borrow_bps_year": -0.1}, "borrow_bps_year: expected >= 0"),
        ({"costs.impact_exponent": 0}, r"impact_exponent: expected in \(0, 1\]"),
        ({"costs.impact_exponent": 1.5}, r"impact_exponent: expected in \(0, 1\]"),
        ({"bar": "daily"}, "expected a length such as 1d"),
        ({"session_tz": "New York"}, "session_tz: expected a time zone such as America/New_York, found 'New York'"),
        ({"session_tz": "America"}, "session_tz: expected a time zone"),
        ({"session_tz": ""}, "session_tz: expected a time zone"),
        ({"periods_per_year": 0}, "periods_per_year: expected > 0"),
        ({"fallback_adv_ccy": 0}, "fallback_adv_ccy: expected > 0"),
        ({"context_classes": ["stocks"]}, "context_classes: expected names of"),
        ({"symbol_rules": ["("]}, "is no regular expression"),
        ({"exchange_rules": ["["]}, "exchange_rules: .* is no regular expression"),
        ({"asset_class": "stock"}, "asset_class: expected one of"),
        ({"costs.margin.max_leverage": 0.0}, "margin: expected max_leverage > 0"),
        ({"costs.margin.maintenance_margin": 0.5}, r"maintenance_margin: expected in \[0, 1 / max_leverage\)"),
        ({"costs.margin.liquidation_penalty_bps": -1.0}, "margin: expected max_leverage > 0 and liquidation_penalty_bps >= 0"),
        ({"costs.margin.reserve_frac": 0.01}, "margin.reserve_frac: expected 0 on margin"),
        ({"costs.margin.account": "cash"}, "margin: cash lends nothing; expected max_leverage 1"),
        ({"costs.margin.shorts": False}, "borrow_bps_year: expected 0 where nothing is sold short"),
        ({"costs.margin": {**CASH, "reserve_frac": 0.0}}, r"margin.reserve_frac: expected in \(0, 0.5\) in cash"),
        ({"costs.margin": {**CASH, "shorts": True}}, "margin: cash lends nothing"),
        ({"costs.margin": CASH, "costs.borrow_bps_year": 0.0, "costs.funding": True}, "funding: expected false in a cash account"),
        ({"costs.margin": CASH, "costs.borrow_bps_year": 0.0, "exchange.settlement": "margin"}, "exchange.settlement: expected cash"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], message: str, root: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml", change)


def test_only_what_is_paid_for_cannot_be_sold_short(markets: dict[str, MarketConfig]) -> None:
    cash = {name for name, market in markets.items() if market.costs.margin.account == "cash"}
    assert cash == {"crypto", "other"}
    assert cash == {name for name, market in markets.items() if not market.costs.margin.shorts}
    equity = markets["equity"].costs.margin
    assert (equity.max_leverage, equity.maintenance_margin) == (2.0, 0.25)


def test_coins_can_be_lent_where_the_file_says_so(root: Path) -> None:
    lent = {
        "account": "margin", "max_leverage": 3.0, "maintenance_margin": 0.1, "liquidation_penalty_bps": 50.0, "shorts": True,
        "reserve_frac": 0.0,
    }  # fmt: skip
    change = {"costs.margin": lent, "costs.borrow_bps_year": 1000.0}
    assert config.load(MarketConfig, root / "configs" / "markets" / "crypto.yaml", change).costs.margin.shorts


def test_free_trading_is_allowed() -> None:
    lent = MarginConfig(
        account="margin", max_leverage=1.0, maintenance_margin=0.0, liquidation_penalty_bps=0.0, shorts=True, reserve_frac=0.0
    )
    free = CostsConfig(
        fee_bps=0.0, fee_min_ccy=0.0, half_spread_bps=0.0, impact_coef=0.0, impact_exponent=0.5, borrow_bps_year=0.0, funding=False,
        margin=lent,
    )  # fmt: skip
    assert free.impact_exponent == 0.5
