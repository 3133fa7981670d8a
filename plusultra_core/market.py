"""Facts of a market: bar, calendar, periods per year, costs. One YAML per asset class in configs/markets/."""

import re
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from plusultra_core.clock import bar_ns
from plusultra_core.errors import ConfigError

ASSET_CLASSES = ("equity", "etf", "index", "forex", "crypto", "crypto_perpetual", "commodity", "volatility_index", "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class CostsConfig:
    """What a trade costs in this market."""

    fee_bps: float
    """Commission per side, basis points of traded notional."""
    fee_min_ccy: float
    """Least commission of an order that fills, account currency."""
    half_spread_bps: float
    """Half the quoted spread, basis points of price; used where the dump has no spread."""
    impact_coef: float
    """Y of the square-root law: impact = Y * sigma * (q / V) ** exponent."""
    impact_exponent: float
    """Exponent of the participation q / V in the impact."""
    borrow_bps_year: float
    """Cost of borrowing what is sold short, basis points of its notional a year."""
    funding: bool
    """Whether funding rates of the dump are paid on the position held."""

    def __post_init__(self) -> None:
        for name in ("fee_bps", "fee_min_ccy", "half_spread_bps", "impact_coef", "borrow_bps_year"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected >= 0, found {getattr(self, name)}")
        if not 0 < self.impact_exponent <= 1:
            raise ConfigError(f"impact_exponent: expected in (0, 1], found {self.impact_exponent}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MarketConfig:
    """One asset class: its grid, its year, its costs."""

    asset_class: Literal["equity", "etf", "index", "forex", "crypto", "crypto_perpetual", "commodity", "volatility_index", "other"]
    bar: str
    """Length of a bar of the class's grid; finer symbols are resampled to it, coarser ones set aside."""
    calendar: str
    """exchange_calendars id, or 24/7, or 24/5."""
    session_tz: str
    """Time zone of the session's close."""
    periods_per_year: float
    """Bars in a year, for annualising."""
    currency: str
    """Currency of the account."""
    costs: CostsConfig
    fallback_adv_ccy: float
    """Notional traded per bar where the dump has no volume, account currency."""
    context_classes: tuple[str, ...]
    """Asset classes of the same snapshot that the cross-asset view reads."""
    symbol_rules: tuple[str, ...]
    """Regular expressions: a symbol whose class the dump does not state belongs here if one matches it whole."""
    exchange_rules: tuple[str, ...]
    """The same for the exchange's name."""

    def __post_init__(self) -> None:
        bar_ns(self.bar)
        try:
            ZoneInfo(self.session_tz)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ConfigError(f"session_tz: expected a time zone such as America/New_York, found {self.session_tz!r}") from error
        if self.periods_per_year <= 0:
            raise ConfigError(f"periods_per_year: expected > 0, found {self.periods_per_year}")
        if self.fallback_adv_ccy <= 0:
            raise ConfigError(f"fallback_adv_ccy: expected > 0, found {self.fallback_adv_ccy}")
        for name in self.context_classes:
            if name not in ASSET_CLASSES:
                raise ConfigError(f"context_classes: expected names of {ASSET_CLASSES}, found {name!r}")
        for name in ("symbol_rules", "exchange_rules"):
            for rule in getattr(self, name):
                try:
                    re.compile(rule)
                except re.error as error:
                    raise ConfigError(f"{name}: {rule!r} is no regular expression ({error})") from error
