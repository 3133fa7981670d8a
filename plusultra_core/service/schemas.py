"""What the live door takes and gives, as JSON."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Symbol = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Weight = Annotated[float, Field(allow_inf_nan=False, ge=-100.0, le=100.0)]


class _Strict(BaseModel):
    """Exact types, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class AccountSlot(_Strict):
    """What a policy sees of its own position in one symbol; all 0 at the account's start."""

    pnl_ccy: Number
    """Result of the symbol after all its costs since the account began."""
    pnl_peak_ccy: Annotated[float, Field(allow_inf_nan=False, ge=0.0)]
    """Highest it has been, 0 at the start."""
    working_weight: Weight
    """Still to be traded by the order at work, signed fraction of equity."""
    last_fill_weight: Weight
    """Filled in the newest bar, signed fraction of equity."""


class Account(_Strict):
    """The account that targets are for. Without it there are forecasts, and no target passes the guardrails."""

    equity_ccy: Number
    peak_ccy: Number
    state: Literal["active", "reducing", "halted"]
    weights: dict[Symbol, Weight] = Field(max_length=10_000)
    """Signed fraction of equity held; a requested symbol that is not named is held at unknown weight and fails closed."""
    capital_ccy: Annotated[float, Field(allow_inf_nan=False, gt=0.0)] | None = None
    """What the account began with; asked for, with `age_bars` and `slots`, where the champion is a policy."""
    age_bars: Annotated[int, Field(ge=0, le=10**9)] | None = None
    """Bars of the panel's grid since the account's first decision."""
    slots: dict[Symbol, AccountSlot] | None = Field(default=None, max_length=10_000)


class ForecastRequest(_Strict):
    """Which symbols; the newest bar is meant, always."""

    symbols: list[Symbol] = Field(min_length=1, max_length=10_000)
    account: Account | None = None


class HorizonForecast(_Strict):
    """Return from the newest bar over `horizon_bars` bars of the symbol."""

    horizon_bars: int
    quantiles_ret_log: dict[str, float]
    """Level -> log return over the horizon."""
    p_down: float
    p_flat: float
    p_up: float
    confidence: float


class Prediction(_Strict):
    """One symbol's newest bar."""

    prediction_id: str
    symbol: str
    ts: str
    ts_ns: int
    known_ns: int
    staleness_bars: float
    sigma_per_bar: float
    forecasts: list[HorizonForecast]
    proposed_weight: float | None
    """What the sizing rule asks for."""
    target_weight: float | None
    """What the guardrails let pass; null: keep what is held."""
    reason: str


class ForecastAnswer(_Strict):
    """Predictions, newest bar first, and where they come from."""

    request_id: str
    predictions: list[Prediction]
    account_state: str
    lineage: dict[str, str]


class Refusal(_Strict):
    """Why there is no answer; never what was sent."""

    error: str
    where: list[str]
