"""Facts of a market: bar, calendar, periods per year, money, costs and quotes. One YAML per asset class in configs/markets/."""

import re
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from plusultra_core.clock import bar_ns
from plusultra_core.errors import ConfigError

ASSET_CLASSES = ("equity", "etf", "index", "forex", "crypto", "crypto_perpetual", "commodity", "volatility_index", "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class MarginConfig:
    """What a market lends, and when it wants it back."""

    account: Literal["cash", "margin"]
    """cash: what is bought is paid for, nothing is lent and nobody closes by force; margin: a part is lent."""
    max_leverage: float
    """Gross exposure over equity that a fill may reach (initial margin = 1 / this); 1 in cash."""
    maintenance_margin: float
    """Equity over gross exposure below which everything is closed; 0 in cash, where nothing is."""
    liquidation_penalty_bps: float
    """What a forced close loses on top, basis points of notional; 0 in cash."""
    shorts: bool
    """Whether what is not held can be sold; false in cash: a short is a loan."""
    reserve_frac: float
    """Part of the equity of a cash account that is not asked for, so that prices may rise before the fill; 0 on margin."""

    def __post_init__(self) -> None:
        if not self.max_leverage > 0 or not self.liquidation_penalty_bps >= 0:
            found = (self.max_leverage, self.liquidation_penalty_bps)
            raise ConfigError(f"margin: expected max_leverage > 0 and liquidation_penalty_bps >= 0, found {found}")
        if not 0 <= self.maintenance_margin < 1 / self.max_leverage:
            raise ConfigError(f"maintenance_margin: expected in [0, 1 / max_leverage), found {self.maintenance_margin}")
        if self.account == "margin" and self.reserve_frac != 0:
            raise ConfigError(f"margin.reserve_frac: expected 0 on margin, which lends the costs, found {self.reserve_frac}")
        if self.account == "cash":
            lent = (self.max_leverage, self.maintenance_margin, self.liquidation_penalty_bps)
            if lent != (1, 0, 0) or self.shorts:
                raise ConfigError(
                    "margin: cash lends nothing; expected max_leverage 1, maintenance_margin 0, liquidation_penalty_bps 0, shorts false, "
                    f"found {lent[0]}, {lent[1]}, {lent[2]}, {self.shorts}; or set account to margin"
                )
            if not 0 < self.reserve_frac < 0.5:
                raise ConfigError(f"margin.reserve_frac: expected in (0, 0.5) in cash, found {self.reserve_frac}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CostsConfig:
    """What a trade costs in this market, and what the market lends."""

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
    margin: MarginConfig

    def __post_init__(self) -> None:
        for name in ("fee_bps", "fee_min_ccy", "half_spread_bps", "impact_coef", "borrow_bps_year"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: expected >= 0, found {getattr(self, name)}")
        if not 0 < self.impact_exponent <= 1:
            raise ConfigError(f"impact_exponent: expected in (0, 1], found {self.impact_exponent}")
        if self.borrow_bps_year > 0 and not self.margin.shorts:
            raise ConfigError(f"borrow_bps_year: expected 0 where nothing is sold short (margin.shorts), found {self.borrow_bps_year}")
        if self.funding and self.margin.account == "cash":
            raise ConfigError("funding: expected false in a cash account, which holds the asset itself; set margin.account to margin")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeConfig:
    """How money of another currency becomes the account's."""

    settlement: Literal["cash", "margin"]
    """cash: what is bought is paid for in its currency, so that its value moves with the rate; margin: only results are exchanged."""
    cost_bps: float
    """Cost of exchanging the money of a fill settled in cash, basis points of its notional."""
    max_staleness_hours: float
    """A rate is used for so long after it was known and no longer; a bar without one is not traded."""
    via: tuple[str, ...]
    """Currencies over which a rate is crossed that no pair of the dump quotes."""
    at_par: tuple[str, ...]
    """Currencies that are taken as the account's, one for one."""

    def __post_init__(self) -> None:
        if self.cost_bps < 0 or self.max_staleness_hours <= 0:
            raise ConfigError(
                f"exchange: expected cost_bps >= 0 and max_staleness_hours > 0, found {self.cost_bps}, {self.max_staleness_hours}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadColumn:
    """Where a dump may quote the spread."""

    table: str
    """indicators, or a side table."""
    field: str
    ask_field: str | None
    """With it `field` is the bid and this the ask, both prices; null: `field` is the spread."""
    unit: Literal["price", "bps", "fraction"]
    """Of the spread: in the price's own unit, or in basis points or as a fraction of the price."""
    half: bool
    """Whether it is half the spread already."""

    def __post_init__(self) -> None:
        if self.ask_field is not None and (self.unit != "price" or self.half):
            raise ConfigError(f"spread.columns.{self.field}: a bid and an ask are prices; expected unit price and half false")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadConfig:
    """Where half spreads come from."""

    source: Literal["data", "proxy", "config"]
    """data: quoted where the dump quotes, else `costs.half_spread_bps`; proxy: else estimated from bars; config: never looked for."""
    columns: tuple[SpreadColumn, ...]
    """The first that has a value counts; a dump need not have any."""
    max_staleness_hours: float
    """A quoted spread is used for so long after it was known and no longer."""
    cap_bps: float
    """Most that half a spread is taken to be."""
    estimator: Literal["roll", "corwin_schultz", "abdi_ranaldo", "adv"]
    """What estimates from bars; the least is `costs.half_spread_bps`."""
    window_bars: int
    """Bars that an estimate is made of."""
    ticket_ccy: float
    """Notional of one trade of the market, account currency; the estimator adv needs it."""

    def __post_init__(self) -> None:
        if self.max_staleness_hours <= 0 or self.cap_bps <= 0 or self.ticket_ccy <= 0 or self.window_bars < 4:
            raise ConfigError(
                "spread: expected max_staleness_hours, cap_bps, ticket_ccy > 0 and window_bars >= 4, "
                f"found {self.max_staleness_hours}, {self.cap_bps}, {self.ticket_ccy}, {self.window_bars}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthColumn:
    """Where a dump may quote the size at its best prices."""

    table: str
    field: str
    unit: Literal["units", "money"]
    """Units of the asset, or money in its currency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthConfig:
    """Where quoted sizes come from; where none is quoted the volume of the bar alone bounds a fill."""

    columns: tuple[DepthColumn, ...]
    """The least of those that have a value counts, as of bid and ask."""
    max_staleness_hours: float

    def __post_init__(self) -> None:
        if self.max_staleness_hours <= 0:
            raise ConfigError(f"depth.max_staleness_hours: expected > 0, found {self.max_staleness_hours}")


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
    exchange: ExchangeConfig
    costs: CostsConfig
    spread: SpreadConfig
    depth: DepthConfig
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
        if self.costs.margin.account == "cash" and self.exchange.settlement != "cash":
            raise ConfigError("exchange.settlement: expected cash where the account is one (costs.margin.account), found margin")
        if self.fallback_adv_ccy <= 0:
            raise ConfigError(f"fallback_adv_ccy: expected > 0, found {self.fallback_adv_ccy}")
        if self.spread.cap_bps < self.costs.half_spread_bps:
            raise ConfigError(f"spread.cap_bps: expected >= costs.half_spread_bps, found {self.spread.cap_bps}")
        for name in self.context_classes:
            if name not in ASSET_CLASSES:
                raise ConfigError(f"context_classes: expected names of {ASSET_CLASSES}, found {name!r}")
        for name in ("symbol_rules", "exchange_rules"):
            for rule in getattr(self, name):
                try:
                    re.compile(rule)
                except re.error as error:
                    raise ConfigError(f"{name}: {rule!r} is no regular expression ({error})") from error
