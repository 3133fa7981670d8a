"""A ledger of two strategies, two symbols and six closes, small enough to check by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from plusultra_core.artifacts import publish

CLOSES = [100, 200, 300, 400, 500, 600]
COSTS = ("spread", "impact", "latency_drift", "fees", "funding", "borrow")

Ledger = dict[str, pl.DataFrame]


@pytest.fixture
def ledger() -> Ledger:
    """`policy` holds A in steps 1-4 and B in step 2; `no_trade` holds nothing."""
    steps = [
        (200, "A", 0.5, 10.0, 1.0),
        (300, "A", 0.5, -4.0, 0.0),
        (300, "B", -0.2, 2.0, 0.5),
        (400, "A", 0.5, 6.0, 0.0),
        (500, "A", 0.0, 0.0, 1.0),
    ]
    positions = pl.DataFrame(
        [
            {"strategy": "policy", "ts_ns": ts, "symbol": name, "position": w, "weight": w, "target_weight": w, "price_pnl": pnl}
            | dict.fromkeys(COSTS, 0.0)
            | {"fees": cost}
            for ts, name, w, pnl, cost in steps
        ]
    )
    net = {ts: sum(pnl - cost for at, _, _, pnl, cost in steps if at == ts) for ts in CLOSES}
    account = pl.DataFrame(
        [
            {"strategy": strategy, "fold": 1, "ts_ns": ts, "equity": equity, "drawdown": 0.0}
            for strategy, change in (("no_trade", dict.fromkeys(CLOSES, 0.0)), ("policy", net))
            for ts, equity in zip(CLOSES, 1000.0 + np.cumsum([change[ts] for ts in CLOSES]), strict=True)
        ]
    )
    order = {"side": 1, "qty_filled": 1.0, "price": 10.0, "status": "filled", "reason": "none", "strategy": "policy"}
    orders = pl.DataFrame(
        [
            {"order_id": 0, "symbol": "A", "decision_ns": 100} | order,
            {"order_id": 3, "symbol": "B", "decision_ns": 200} | order,
            {"order_id": 8, "symbol": "A", "decision_ns": 500} | order,
        ]
    )
    return {"account": account, "positions": positions, "orders": orders}


@pytest.fixture
def publish_ledger(tmp_path: Path) -> Callable[[Ledger], Path]:
    """Write a ledger as a trace artifact and return its directory."""

    def write(ledger: Ledger) -> Path:
        def fill(directory: Path) -> None:
            for name, frame in ledger.items():
                frame.write_parquet(directory / f"{name}.parquet")

        return publish(tmp_path / "store", "trace", fill, {"task": "trace"}).path

    return write
