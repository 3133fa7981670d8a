"""What the simulator does in a second of one core: `python benchmarks/simulation.py [--vectorbt PYTHON]`.

Rates are millions of account-bars a CPU-second (threads: a second of the clock), the best of several runs. The bound of the same
arithmetic by hand is `simulation_bare.py`. `--vectorbt` names an interpreter that has vectorbt (a throw-away environment), with
each of its engines; without it that line is skipped by name. Of every order size, price and fee are kept, by both.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.market import CostsConfig, MarginConfig
from plusultra_core.simulation.engine import Environment, SimulationConfig
from plusultra_core.simulation.market import plain_terms
from plusultra_core.simulation.observation import write_own_state
from plusultra_core.simulation.records import MarketArrays, empty_step

COSTS = CostsConfig(
    fee_bps=5.0, fee_min_ccy=1.0, half_spread_bps=2.0, impact_coef=1.0, impact_exponent=0.5, borrow_bps_year=50.0, funding=True,
    margin=MarginConfig(
        account="margin", max_leverage=2.0, maintenance_margin=0.1, liquidation_penalty_bps=50.0, shorts=True, reserve_frac=0.0
    ),
)  # fmt: skip
GUARD = GuardrailsConfig(
    max_weight=1.0, max_gross=1.0, max_net=1.0, max_participation=0.1, reduce_drawdown=0.5, resume_drawdown=0.2, halt_drawdown=0.9
)
CONFIG = SimulationConfig(
    initial_capital_ccy=1e6, latency_ms=(50.0, 250.0, 2000.0), latency_prob=(0.3, 0.6, 0.1), participation=0.05, time_in_force="gtc",
    order_type="market", limit_offset_bps=0.0, maker_fee_factor=1.0, permanent_coef=0.0, permanent_decay_frac=0.0, min_order_ccy=100.0,
    retarget_frac=0.1, adv_bars=20, fallback_sigma=0.02, seed=7,
)  # fmt: skip
VECTORBT = """
import time, numpy as np, vectorbt as vbt
rng = np.random.default_rng(0)
close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (10000, 1000)), axis=0))
size = rng.uniform(-0.5, 0.5, close.shape)
for engine in ("numba", "rust"):
    best = 1e9
    try:
        for _ in range(3):
            start = time.process_time()
            vbt.Portfolio.from_orders(
                close, size, size_type="targetpercent", fees=5e-4, slippage=2e-4, init_cash=1e6, freq="1D", engine=engine
            )
            best = min(best, time.process_time() - start)
        print(vbt.__version__, engine, close.size / best / 1e6)
    except ImportError:
        pass
"""


def made_market(num_bars: int, num_assets: int, seed: int = 0) -> MarketArrays:
    """A random walk with everything that a market has."""
    rng = np.random.default_rng(seed)
    shape = (num_bars, num_assets)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.005, shape), axis=0) - 0.0)
    opened = np.vstack((close[:1], close[:-1])) * np.exp(rng.normal(0, 0.002, shape))
    ts_ns = np.arange(num_bars, dtype=np.int64) * NS_PER_DAY
    return MarketArrays(
        ts_ns=ts_ns, open=opened, high=np.maximum(opened, close) * 1.002, low=np.minimum(opened, close) * 0.998, close=close,
        volume=rng.uniform(1e4, 1e6, shape), funding=rng.normal(0, 1e-5, shape), sigma=np.full(shape, 0.01),
        adv_ccy=np.full(shape, 5e7), half_spread_bps=np.full(shape, 2.0), tradable=np.ones(shape, np.bool_),
        proxy=np.zeros(shape, np.int8), **plain_terms(ts_ns, num_assets),
    )  # fmt: skip


def best_of(work: Callable[[], None], clock: Callable[[], float] = time.process_time, times: int = 4) -> float:
    """Seconds of the fastest run, after one that compiles."""
    work()
    found = math.inf
    for _ in range(times):
        start = clock()
        work()
        found = min(found, clock() - start)
    return found


def placed(market: MarketArrays, num_accounts: int, num_threads: int, same: bool, span: int) -> Callable[[], Environment]:
    """A function that puts accounts back to their start: all on one asset and bar, or anywhere."""
    rng = np.random.default_rng(1)
    env = Environment(market, num_accounts, 1, NS_PER_DAY, CONFIG, COSTS, GUARD, num_threads)
    rows, zero = np.arange(num_accounts), np.zeros(num_accounts, np.int64)
    t = zero if same else rng.integers(0, span, num_accounts)
    asset = (zero if same else rng.integers(0, market.close.shape[1], num_accounts))[:, None]

    def start() -> Environment:
        env.reset(rows, t, asset, rows)
        return env

    return start


def environment_rate(num_accounts: int, num_threads: int, market: MarketArrays) -> float:
    """One call a bar, every account at its own bar and asset; then its own state is written: what a rollout of PPO does."""
    num_steps = 200
    start = placed(market, num_accounts, num_threads, False, market.ts_ns.size - num_steps - 2)
    request = np.random.default_rng(2).uniform(-1, 1, (4, num_accounts, 1))
    own, begun = np.zeros((num_accounts, 1, 5)), np.zeros(num_accounts, np.int64)
    env = start()

    def work() -> None:
        start()
        for k in range(num_steps):
            env.advance(request[k % 4])
            write_own_state(env.accounts, env.last, 1.0, begun, 1000, own)

    return num_accounts * num_steps / best_of(work, time.process_time if num_threads == 1 else time.perf_counter) / 1e6


def path_rate(num_accounts: int, num_steps: int, ledger: bool, num_threads: int, same: bool, market: MarketArrays) -> float:
    """Many bars in one call: policies or worlds in lockstep, without a ledger or with every order, fill and cost written down."""
    start = placed(market, num_accounts, num_threads, same, market.ts_ns.size - num_steps - 1)
    request = np.random.default_rng(2).uniform(-1, 1, (num_steps, num_accounts, 1))
    out = empty_step(request.shape) if ledger else None
    books = np.zeros((num_steps, num_accounts, 4)) if ledger else None
    seconds = best_of(lambda: start().run(request, out, books), time.process_time if num_threads == 1 else time.perf_counter)
    return num_accounts * num_steps / seconds / 1e6


def plain_rate(num_steps: int, num_accounts: int, num_chunks: int, columns: tuple[str, ...]) -> float:
    """Columns of a market with a fee and a spread and nothing else, no limit that could bind; in chunks, so that the ledger's memory
    is bounded."""
    market = made_market(num_steps * num_chunks + 1, num_accounts)
    market = market._replace(volume=np.full(market.close.shape, 1e12))
    plain = replace(CONFIG, latency_ms=(0.0,), latency_prob=(1.0,), participation=1.0, retarget_frac=0.0, min_order_ccy=1e-3)
    free = replace(COSTS, fee_min_ccy=0.0, impact_coef=0.0, borrow_bps_year=0.0, funding=False)
    guard = replace(GUARD, max_participation=1e9, reduce_drawdown=1.0, resume_drawdown=1.0, halt_drawdown=1.0)
    env = Environment(market, num_accounts, 1, NS_PER_DAY, plain, free, guard)
    rows, zero = np.arange(num_accounts), np.zeros(num_accounts, np.int64)
    size = 0.5 if num_accounts > 1 else 0.01  # one path is long: with more it would be broke after a part of it
    request = np.random.default_rng(0).uniform(-size, size, (num_steps, num_accounts, 1))
    out = empty_step(request.shape, columns) if columns else None

    def work() -> None:
        env.reset(rows, zero, rows[:, None], rows)
        for _ in range(num_chunks):
            env.run(request, out, None)

    return num_chunks * request.size / best_of(work, times=3) / 1e6


def vectorbt_rates(python: str | None) -> None:
    """vectorbt's own work: target percent at every bar of 1,000 columns x 10,000 bars, fee and slippage, no limits, every order kept."""
    if not python:
        print("vectorbt                                skipped: no interpreter with vectorbt named (--vectorbt)")
        return
    found = subprocess.run([python, "-c", VECTORBT], capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"vectorbt                                skipped: {found.stderr.strip().splitlines()[-1]}")
        return
    peers = [line.split() for line in found.stdout.splitlines()]
    rate = plain_rate(500, 1000, 20, ("fill", "price", "fees"))
    print(f"vectorbt's work here, every order kept  {rate:8.1f}")
    for version, engine, peer in peers:
        print(f"vectorbt {version} {engine:24s}      {float(peer):8.1f}   {rate / float(peer):.1f} x")


def main() -> None:
    """Print a line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vectorbt", help="interpreter of an environment with vectorbt")
    python = parser.parse_args().vectorbt
    market = made_market(2600, 30)
    print(f"numba path, python {sys.version.split()[0]}; millions of account-bars a second")
    for num_accounts in (64, 1024, 16384):
        rates = [environment_rate(num_accounts, threads, market) for threads in (1, 2)]
        print(f"environment, {num_accounts:6d} accounts, 1 / 2 threads {rates[0]:8.1f} {rates[1]:8.1f}")
    for ledger, same in ((False, True), (False, False), (True, True)):
        rates = [path_rate(1024, 1000 if not ledger else 200, ledger, threads, same, market) for threads in (1, 2)]
        words = f"{'with' if ledger else 'without'} ledger, {'one market' if same else 'own bar and asset'}"
        print(f"paths, {words:33s} {rates[0]:8.1f} {rates[1]:8.1f}")
    million = made_market(1_000_001, 1)
    print(f"one path of a million bars              {path_rate(1, 1_000_000, False, 1, True, million):8.1f}")
    for columns in ((), ("fill", "price", "fees")):
        words = f"fee and spread alone, {'fills written' if columns else 'none written'}"
        print(f"one path, {words:29s} {plain_rate(1_000_000, 1, 1, columns):8.1f}")
    vectorbt_rates(python)


if __name__ == "__main__":
    main()
