"""Stress: the same market, made worse, through the same kernel."""

from dataclasses import dataclass, replace

import numpy as np

from plusultra_core.arrays import Float64Array
from plusultra_core.errors import ConfigError
from plusultra_core.market import CostsConfig
from plusultra_core.simulation.engine import SimulationConfig
from plusultra_core.simulation.records import MarketArrays


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioConfig:
    """One stress. A factor of 1 and a shock of 0 leave things as they are."""

    name: str
    price_shock_frac: float
    """Jump of every price at the first bar after the middle of the span, fraction; -0.2 is a fall by a fifth."""
    sigma_factor: float
    """Every log return is stretched by this, and so is sigma."""
    spread_factor: float
    volume_factor: float
    """Volume of the bars and the average that impact is measured by."""
    latency_factor: float
    fee_factor: float

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("scenario.name: expected a name")
        if not -1 < self.price_shock_frac < 10:
            raise ConfigError(f"scenario {self.name}.price_shock_frac: expected in (-1, 10), found {self.price_shock_frac}")
        for name in ("sigma_factor", "spread_factor", "volume_factor", "latency_factor", "fee_factor"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"scenario {self.name}.{name}: expected > 0, found {getattr(self, name)}")


def stress_market(market: MarketArrays, start: int, end: int, cfg: ScenarioConfig) -> MarketArrays:
    """The market under a scenario, changed from bar `start` on; the shock strikes in the middle of [start, end).

    Prices keep their shape within the bar; bars up to `start` are untouched, so that what was decided on
    them is too.
    """
    num_times = market.ts_ns.size
    after = np.arange(num_times)[:, None] > start
    shocked = np.arange(num_times)[:, None] > (start + end) // 2
    log_close = np.log(market.close)
    anchor = log_close[: start + 1]
    base = _last(anchor) if start >= 0 else np.zeros(market.close.shape[1])
    first = np.where(np.isfinite(base), base, _first(log_close))
    moved = np.where(after, (cfg.sigma_factor - 1.0) * (log_close - first[None, :]), 0.0)
    moved = moved + np.where(shocked, np.log1p(cfg.price_shock_frac), 0.0)
    factor = np.exp(moved)
    wide = {}
    for name in ("open", "high", "low"):
        shape = np.log(getattr(market, name) / market.close)
        wide[name] = market.close * factor * np.exp(np.where(after, cfg.sigma_factor, 1.0) * shape)
    from_start = np.arange(num_times)[:, None] >= start  # what an order decided at `start` meets
    thin = np.where(after, cfg.volume_factor, 1.0)
    return market._replace(
        open=np.ascontiguousarray(wide["open"]),
        high=np.ascontiguousarray(wide["high"]),
        low=np.ascontiguousarray(wide["low"]),
        close=np.ascontiguousarray(market.close * factor),
        volume=np.ascontiguousarray(market.volume * thin),
        adv_ccy=np.ascontiguousarray(market.adv_ccy * thin),
        sigma=np.ascontiguousarray(market.sigma * np.where(after, cfg.sigma_factor, 1.0)),
        half_spread_bps=np.ascontiguousarray(market.half_spread_bps * np.where(from_start, cfg.spread_factor, 1.0)),
        depth=np.ascontiguousarray(market.depth * np.where(from_start, cfg.volume_factor, 1.0)),
    )


def stress_costs(costs: CostsConfig, cfg: ScenarioConfig) -> CostsConfig:
    """Costs under a scenario."""
    return replace(costs, fee_bps=costs.fee_bps * cfg.fee_factor, fee_min_ccy=costs.fee_min_ccy * cfg.fee_factor)


def stress_execution(execution: SimulationConfig, cfg: ScenarioConfig) -> SimulationConfig:
    """Execution under a scenario."""
    return replace(execution, latency_ms=tuple(ms * cfg.latency_factor for ms in execution.latency_ms))


def _last(values: Float64Array) -> Float64Array:
    rows = np.arange(values.shape[0])[:, None]
    last = np.where(np.isfinite(values), rows, -1).max(axis=0)
    found: Float64Array = np.where(last >= 0, values[np.maximum(last, 0), np.arange(values.shape[1])], np.nan)
    return found


def _first(values: Float64Array) -> Float64Array:
    finite = np.isfinite(values)
    found: Float64Array = np.where(finite.any(axis=0), values[finite.argmax(axis=0), np.arange(values.shape[1])], 0.0)
    return found
