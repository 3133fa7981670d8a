"""What may be held, at most: limits, states of the account, reason codes."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from plusultra_core.errors import ConfigError

ACTIVE: Final = 0
REDUCING: Final = 1
HALTED: Final = 2
STATES: Final = {ACTIVE: "active", REDUCING: "reducing", HALTED: "halted"}

NONE: Final = 0
NOT_FINITE: Final = 1
NO_EQUITY: Final = 2
STALE_PRICE: Final = 3
MAX_WEIGHT: Final = 4
MAX_PARTICIPATION: Final = 5
MAX_GROSS: Final = 6
MAX_NET: Final = 7
STATE_REDUCING: Final = 8
STATE_HALTED: Final = 9
GUARD_REASONS: Final = {
    NONE: "none",
    NOT_FINITE: "not_finite",
    NO_EQUITY: "no_equity",
    STALE_PRICE: "stale_price",
    MAX_WEIGHT: "max_weight",
    MAX_PARTICIPATION: "max_participation",
    MAX_GROSS: "max_gross",
    MAX_NET: "max_net",
    STATE_REDUCING: "state_reducing",
    STATE_HALTED: "state_halted",
}


class Limits(NamedTuple):
    """GuardrailsConfig as the kernel takes it: scalars only."""

    max_weight: float
    max_gross: float
    max_net: float
    max_participation: float
    reduce_drawdown: float
    resume_drawdown: float
    halt_drawdown: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardrailsConfig:
    """Limits on target weights (signed fractions of equity) and on the drawdown of the account."""

    max_weight: float
    """Largest absolute weight of one asset."""
    max_gross: float
    """Largest sum of absolute weights."""
    max_net: float
    """Largest absolute sum of weights."""
    max_participation: float
    """Largest increase of a position by one decision, fraction of the average notional traded per bar."""
    reduce_drawdown: float
    """Drawdown at which the account may only reduce (ACTIVE -> REDUCING)."""
    resume_drawdown: float
    """Drawdown below which a reducing account is active again."""
    halt_drawdown: float
    """Drawdown at which every target becomes zero, for good (HALTED)."""

    def __post_init__(self) -> None:
        for name in ("max_weight", "max_gross", "max_net", "max_participation"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected > 0, found {getattr(self, name)}")
        if not 0 <= self.resume_drawdown <= self.reduce_drawdown <= self.halt_drawdown <= 1:
            raise ConfigError(
                "drawdowns: expected 0 <= resume <= reduce <= halt <= 1, "
                f"found {self.resume_drawdown}, {self.reduce_drawdown}, {self.halt_drawdown}"
            )

    def limits(self) -> Limits:
        """The same numbers for the kernel."""
        return Limits(
            max_weight=float(self.max_weight),
            max_gross=float(self.max_gross),
            max_net=float(self.max_net),
            max_participation=float(self.max_participation),
            reduce_drawdown=float(self.reduce_drawdown),
            resume_drawdown=float(self.resume_drawdown),
            halt_drawdown=float(self.halt_drawdown),
        )
