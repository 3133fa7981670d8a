"""Tapes of random worlds, run through the kernel and written as the trace writes them."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.evaluation.execution.sheet import Tape, load_tape
from plusultra_core.inference.ledgers import ledger_tables, market_table, write_groups, write_ledger
from plusultra_core.inference.strategies import Setting
from plusultra_core.simulation.engine import backtest
from plusultra_core.simulation.liquidity.currency import in_account
from plusultra_core.simulation.market import foreign_terms

SYMBOLS = ("AAA", "BBB", "CCC", "<b>D&D</b>")


def _simulated() -> ModuleType:
    """The simulator's conftest, which cannot be imported by name."""
    name = "simulation_worlds"
    if name not in sys.modules:
        path = Path(__file__).resolve().parents[2] / "simulation" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


class Worlds:
    """Writes the trace of strategies in a random market, or in one that is given."""

    def __init__(self, base: Path) -> None:
        self.base, self.made = base, 0

    @property
    def simulated(self) -> ModuleType:
        return _simulated()

    def trace(self, targets: dict[str, Any], market: Any, costs: Any = None, most: float = 0.6, **changes: Any) -> Path:
        own = _simulated()
        cfg, own_costs = own.World().bent(costs or own.COSTLY, **changes)
        guard = replace(own.WIDE, max_weight=most, max_gross=2.5 * most)
        setting = Setting(market, NS_PER_DAY, cfg, own_costs, guard)
        ledgers = {
            name: backtest(market, np.asarray(target, dtype=np.float64), 0, NS_PER_DAY, cfg, setting.costs, guard)
            for name, target in targets.items()
        }
        num_bars, num_assets = market.close.shape
        panel: Any = SimpleNamespace(
            symbols=SYMBOLS[:num_assets], currencies=("USD",) * num_assets, folds=[SimpleNamespace(index=0, test=(0, num_bars))]
        )
        self.made += 1
        directory = self.base / str(self.made)
        directory.mkdir()
        write_ledger(directory, ledger_tables(ledgers, panel, setting))
        write_groups(directory / "market.parquet", [market_table(setting, panel, (0, num_bars))])
        rules = {name: getattr(cfg, name) for name in ("latency_ms", "latency_prob", "participation", "time_in_force", "order_type")}
        (directory / "trace.json").write_text(json.dumps({"execution": rules, "strategies": {}}))
        return directory

    def random(self, seed: int, num_bars: int = 40, settlement: str = "home", **changes: Any) -> Path:
        """Two strategies that trade, and one that does not, in a market with gaps, perhaps quoted abroad."""
        market = _simulated().make_market(num_bars, len(SYMBOLS), seed=seed, gaps=0.1, half_spread_bps=2.0)
        if settlement != "home":
            walk = np.cumsum(np.random.default_rng(seed).normal(0, 0.01, market.close.shape), axis=0)
            rate, cost = np.where(market.tradable, np.exp(walk), np.nan), np.full(len(SYMBOLS), 0.5)
            money = in_account(market.open, market.high, market.low, market.close, rate, settlement == "margin")
            prices = {name: getattr(money, name) for name in ("open", "high", "low", "close")}
            market = market._replace(**prices, **foreign_terms(money.translation, cost, settlement == "margin"))
        rng = np.random.default_rng(seed)
        shape = (num_bars - 1, len(SYMBOLS))
        wishes = [np.where(rng.random(shape) < 0.5, rng.normal(0, 0.4, shape), np.nan) for _ in range(2)]
        changes = {"participation": 0.01, "time_in_force": "gtc", **changes}
        targets = {"policy": wishes[0], "sized_hybrid": wishes[1], "no_trade": np.zeros(shape)}
        return self.trace(targets, market, **changes)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return Worlds(tmp_path_factory.mktemp("tapes"))


@pytest.fixture(scope="session")
def tape(worlds: Worlds) -> Tape:
    """A random tape with three latencies and orders that stay open."""
    return load_tape(worlds.random(5, num_bars=120, latency_ms=(0.0, 250.0, 1e8), latency_prob=(0.3, 0.6, 0.1)))


@pytest.fixture(scope="session")
def edited() -> Callable[..., Tape]:
    """A tape whose orders or positions somebody has touched."""

    def edit(tape: Tape, **tables: Any) -> Tape:
        return replace(tape, trace=replace(tape.trace, **tables))

    return edit
