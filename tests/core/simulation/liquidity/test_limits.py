"""A limit order of a pair in another currency would know the close to come: it is refused as long as limits are in account money."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.errors import ConfigError
from plusultra_core.market import MarketConfig
from plusultra_core.simulation.market import market_arrays
from plusultra_core.simulation.twin.engine import TensorEnvironment

T = 300


def yen(root: Path, rate: bool = True) -> Any:
    """Dollars in yen, a random walk within bars and from bar to bar, for an account in dollars."""
    rng = np.random.default_rng(1)
    path = 110.0 * np.exp(np.cumsum(rng.normal(0, 0.003, T * 24))).reshape(T, 24)
    first = np.concatenate(([path[0, 0]], path[:-1, -1]))
    bars = {"open": first, "high": np.maximum(path.max(axis=1), first), "low": np.minimum(path.min(axis=1), first), "close": path[:, -1]}
    bars = {name: values[None] for name, values in bars.items()}
    bars |= {"volume": np.full((1, T), np.nan), "funding": np.zeros((1, T)), "fx": 1.0 / bars["close"] if rate else np.ones((1, T))}
    forex = config.load(MarketConfig, root / "configs" / "markets" / "forex.yaml")
    return market_arrays(NS_PER_DAY * np.arange(T), bars, np.full((1, T), 0.01), np.ones((1, T), bool), forex, 20, 0.01)


def test_market_orders_gain_nothing_from_a_random_walk_and_limits_of_a_pair_abroad_are_refused(root: Path, world: Any) -> None:
    market = yen(root)
    target = np.tile([1.0, -1.0], T)[: T - 1, None]
    assert abs(world.run(market, target).equity[-1] / 1e6 - 1.0) < 0.5
    with pytest.raises(ConfigError, match="limit orders in 1 assets quoted abroad"):
        world.run(market, target, order_type="limit", limit_offset_bps=50.0)
    rules = (NS_PER_DAY, replace(world.plain, order_type="limit"), world.free, world.wide)
    with pytest.raises(ConfigError, match="limit orders in 1 assets quoted abroad"):
        TensorEnvironment(market, *rules, dtype=torch.float64)


def test_limits_of_a_pair_at_home_are_taken(root: Path, world: Any) -> None:
    target = np.tile([1.0, -1.0], T)[: T - 1, None]
    assert world.run(yen(root, rate=False), target, order_type="limit", limit_offset_bps=50.0).orders()["qty_filled"].any()
