"""A small world with a planted signal, run through a ten-line ledger and written as the stations write it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core import config
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.evaluation.scorecard import EvaluationConfig
from plusultra_core.market import MarketConfig

LEVELS = {"q_05": -1.645, "q_10": -1.282, "q_25": -0.674, "q_50": 0.0, "q_75": 0.674, "q_90": 1.282, "q_95": 1.645}
COSTS = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")


@dataclass(frozen=True)
class World:
    """Frames of one class, and a forecast of which `signal` is the correlation with what comes."""

    signal: float = 0.3
    num_bars: int = 260
    symbols: tuple[str, ...] = ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF")
    seed: int = 3
    shuffle: bool = False
    costless: bool = False
    other_seeds: tuple[float, ...] = ()
    """Of each seed of the policy that is not served, the part of the served one's weights that it holds: -1 is its contrary."""
    start_ns: int = field(default=1_500_000_000 * 10**9, kw_only=True)

    @property
    def ts_ns(self) -> np.ndarray:
        return self.start_ns + NS_PER_DAY * np.arange(self.num_bars, dtype=np.int64)

    @property
    def folds(self) -> np.ndarray:
        """-1 is the train span; then two test spans."""
        return np.searchsorted([0.5 * self.num_bars, 0.75 * self.num_bars], np.arange(self.num_bars), side="right") - 1

    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """What comes (y) and the median forecast of it, both (T, A)."""
        random = np.random.default_rng(self.seed)
        shape = (self.num_bars, len(self.symbols))
        f, noise = random.normal(size=shape), random.normal(size=shape)
        y = self.signal * f + np.sqrt(1 - self.signal**2) * noise
        if self.shuffle:
            f = random.permuted(f, axis=0)
        return y, self.signal * f

    def closes(self) -> np.ndarray:
        """y at t is the move from t to t + 1."""
        moves = 0.01 * self.draws()[0][:-1]
        return 100.0 * np.exp(np.vstack([np.zeros((1, len(self.symbols))), np.cumsum(moves, axis=0)]))

    def keys(self) -> pl.DataFrame:
        names = np.repeat(np.array(self.symbols), self.num_bars)
        ts = np.tile(self.ts_ns, len(self.symbols))
        return pl.DataFrame({"symbol": names.tolist(), "ts_ns": ts, "known_ns": ts})

    def bars(self) -> pl.DataFrame:
        close = self.closes().T.ravel()
        flags = {"gap_bars": np.zeros(close.size, np.int32), "has_ohl": True, "has_volume": True}
        return self.keys().with_columns(
            pl.Series("close", close), *(pl.lit(v).alias(k) if np.isscalar(v) else pl.Series(k, v) for k, v in flags.items())
        )

    def regimes(self) -> pl.DataFrame:
        state = (np.arange(self.num_bars) // 7 % 3 + 1).astype(np.int8)
        tiled = np.tile(state, len(self.symbols))
        return self.keys().with_columns(
            pl.Series("volatility_state", tiled),
            pl.Series("liquidity_state", tiled[::-1].copy()),
            *(pl.Series(name, tiled) for name in ("rotation_state", "trend_state", "hmm_state")),
        )

    def targets(self) -> pl.DataFrame:
        y = self.draws()[0]
        end = np.append(self.ts_ns[1:], 0)
        ends = np.tile(end, len(self.symbols))
        known = ends > 0
        return self.keys().with_columns(
            pl.Series("target_1", np.where(known, y.T.ravel(), np.nan)),
            pl.when(pl.Series(known)).then(pl.Series(ends)).otherwise(None).alias("label_end_ns_1"),
        )

    def forecasts(self) -> pl.DataFrame:
        y, f = self.draws()
        spread = np.sqrt(1 - self.signal**2)
        base = self.keys().join(
            self.targets().rename({"target_1": "y", "label_end_ns_1": "label_end_ns"}).drop("known_ns"), on=["symbol", "ts_ns"]
        )
        frames = []
        for model, weight in (("hybrid", 1.0), ("linear", 0.5)):
            median = weight * f.T.ravel()
            p_up = np.clip(0.5 + 0.3 * median, 0.05, 0.85)
            frames.append(
                base.with_columns(
                    pl.Series("fold", np.tile(self.folds, len(self.symbols)).astype(np.int32)),
                    pl.lit("test").alias("split"),
                    pl.lit(model).alias("model"),
                    pl.lit(1, dtype=pl.Int32).alias("horizon"),
                    *(pl.Series(name, median + spread * z) for name, z in LEVELS.items()),
                    pl.Series("p_down", 0.9 - p_up),
                    pl.lit(0.1).alias("p_flat"),
                    pl.Series("p_up", p_up),
                    pl.lit(0.5).alias("confidence"),
                    pl.lit(0.01).alias("sigma"),
                    pl.Series("direction", np.where(y.T.ravel() > 0, 2, 0).astype(np.int8)),
                )
            )
        return (
            pl.concat(frames)
            .with_columns((pl.col("y") * 0.01).alias("ret_log"))
            .filter(pl.col("fold") >= 0)
            .sort("model", "symbol", "ts_ns", "horizon")
        )

    def weights(self) -> dict[str, np.ndarray]:
        """Target weights by strategy, decided at t."""
        f = self.draws()[1]
        num = len(self.symbols)
        sized = np.sign(f) / num
        return {
            "no_trade": np.zeros_like(f),
            "buy_and_hold": np.full_like(f, 1.0 / num),
            "equal_weight": np.full_like(f, 0.8 / num),
            "random": np.sign(np.random.default_rng(9).normal(size=f.shape)) / num,
            "sized_linear": 0.5 * sized,
            "sized_hybrid": sized,
            "mean_variance": np.clip(8.0 * f, -1.0, 1.0) / num,
            "policy": (own := np.where(np.abs(f) > 0.05, 1.5 * sized, 0.0)),
            **{f"policy_seed_{8 + place}": part * own for place, part in enumerate(self.other_seeds)},
        }

    def seeds(self) -> list[dict[str, object]]:
        """What the trace tells of the policy's seeds: the served one is 7, and validated best."""
        told = [("policy", 7), *((f"policy_seed_{8 + place}", 8 + place) for place in range(len(self.other_seeds)))]
        shared = {"update": 20, "is_flat": False}
        return [{"strategy": name, "seed": seed, "valid_reward": 0.05 - 0.001 * (seed - 7), **shared} for name, seed in told]

    def write_trace(self, directory: Path) -> Path:
        """Account, orders and positions of every strategy on the last fold, and of policy over both."""
        directory.mkdir(parents=True, exist_ok=True)
        tables: dict[str, list[pl.DataFrame]] = {"account": [], "orders": [], "positions": []}
        for name, target in self.weights().items():
            runs = [(name, np.flatnonzero(self.folds == 1))]
            if name in ("policy", "sized_hybrid"):
                runs.append((f"{name}_walk_forward", np.flatnonzero(self.folds >= 0)))
            for strategy, span in runs:
                for table, frame in self._run(strategy, target, span).items():
                    tables[table].append(frame)
        for table, frames in tables.items():
            pl.concat(frames).write_parquet(directory / f"{table}.parquet")
        limits = {name: {"limit": 0.25} for name in ("policy", "sized_linear", "sized_hybrid")}
        (directory / "trace.json").write_text(json.dumps({"strategies": limits, "policy_seeds": self.seeds()}))
        return directory

    def _run(self, strategy: str, target: np.ndarray, span: np.ndarray) -> dict[str, pl.DataFrame]:
        close, ts, cost = self.closes(), self.ts_ns, 0.0 if self.costless else 1.0
        equity, quantity = 100_000.0, np.zeros(len(self.symbols))
        opened = {
            "strategy": strategy,
            "ts_ns": int(ts[span[0]]),
            "fold": int(self.folds[span[0]]),
            "equity": equity,
            "cash": equity,
            "gross": 0.0,
            "net": 0.0,
        }
        account, orders, positions = [{**opened, **dict.fromkeys(("price_pnl", *COSTS, "drawdown"), 0.0)}], [], []
        for t in span[1:]:
            wanted = target[t - 1] * equity / close[t - 1]
            traded = wanted - quantity if not np.allclose(target[t - 1], 0) or quantity.any() else np.zeros_like(quantity)
            notional = np.abs(traded) * close[t - 1]
            terms = {name: np.zeros_like(notional) for name in COSTS}
            terms |= {"spread": cost * 2e-4 * notional, "impact": cost * 1e-4 * notional, "fees": cost * 1e-4 * notional}
            quantity = wanted if traded.any() else quantity
            gain = quantity * (close[t] - close[t - 1])
            opening, equity = equity, equity + float(gain.sum() - sum(term.sum() for term in terms.values()))
            shared = {"strategy": strategy, "ts_ns": int(ts[t])}
            sums = {name: float(term.sum()) for name, term in terms.items()}
            gross = float(np.abs(quantity * close[t]).sum())
            account.append(
                {
                    **shared,
                    "fold": int(self.folds[t]),
                    "equity": equity,
                    "cash": equity,
                    "gross": gross,
                    "net": gross,
                    "price_pnl": float(gain.sum()),
                    **sums,
                    "drawdown": 0.0,
                }
            )
            for a, symbol in enumerate(self.symbols):
                each = {name: float(term[a]) for name, term in terms.items()}
                positions.append(
                    {
                        **shared,
                        "symbol": symbol,
                        "position": quantity[a],
                        "weight": quantity[a] * close[t - 1, a] / opening,
                        "target_weight": target[t - 1, a],
                        "price_pnl": float(gain[a]),
                        **each,
                    }
                )
                if traded[a]:
                    orders.append(
                        {
                            "strategy": strategy,
                            "order_id": len(orders),
                            "symbol": symbol,
                            "decision_ns": int(ts[t - 1]),
                            "arrival_ns": int(ts[t - 1]) + 1,
                            "fill_ns": int(ts[t - 1]) + 60 * 10**9,
                            "side": "buy" if traded[a] > 0 else "sell",
                            "qty_ordered": abs(traded[a]),
                            "qty_filled": abs(traded[a]),
                            "price": close[t - 1, a],
                            "status": "filled",
                            "reason": "none",
                        }
                    )
        return {
            "account": pl.DataFrame(account),
            "positions": pl.DataFrame(positions),
            "orders": pl.DataFrame(orders, schema=_ORDERS),
        }


_ORDERS = {
    "strategy": pl.String, "order_id": pl.Int64, "symbol": pl.String, "decision_ns": pl.Int64, "arrival_ns": pl.Int64, "fill_ns": pl.Int64,
    "side": pl.String, "qty_ordered": pl.Float64, "qty_filled": pl.Float64, "price": pl.Float64, "status": pl.String, "reason": pl.String,
}  # fmt: skip


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Builds a world; see World."""
    return World


@pytest.fixture(scope="session")
def world_trace(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """The default world and its trace directory."""
    world = World()
    return world, world.write_trace(tmp_path_factory.mktemp("trace"))


@pytest.fixture(scope="session")
def market(root: Path) -> MarketConfig:
    """A daily market with 252 bars a year."""
    costs = {"costs.fee_bps": 1.0, "costs.fee_min_ccy": 0.0, "costs.half_spread_bps": 2.0, "costs.borrow_bps_year": 0.0}
    return config.load(MarketConfig, root / "configs" / "markets" / "equity.yaml", {**costs, "fallback_adv_ccy": 1.0e7})


@pytest.fixture(scope="session")
def cfg(root: Path) -> EvaluationConfig:
    """The smoke profile with a lower floor for short windows."""
    return config.load(EvaluationConfig, root / "configs" / "smoke" / "evaluation.yaml", {"promotion.min_bars": 30})
