"""What the third door does: S worlds x P policies in one call. `python benchmarks/stress.py [--worlds 1000 --policies 8]`.

Half of the worlds are made of blocks of history, half are the market's own bars made worse; every world and policy is an account
of its own on the step kernel, with latency, caps, impact, fees, funding, borrow, margin and rulebook. Two lines: what the issue asks
for, and the same with every cost term kept.
"""

import argparse
import resource
import time

import numpy as np
from simulation import CONFIG, COSTS, GUARD, made_market

from plusultra_core.clock import NS_PER_DAY
from plusultra_core.simulation.worlds.families import BootstrapConfig, CrisisConfig, EventConfig, PerturbationConfig, StressConfig
from plusultra_core.simulation.worlds.specs import Past, World, draw_worlds, open_past
from plusultra_core.simulation.worlds.sweep import Player, Terms, run_scenarios


def stress_config(num_worlds: int, num_threads: int, chunk_mib: int) -> StressConfig:
    """Worlds of both kinds."""
    crash = EventConfig(kind="gap", scope="market", size_frac=(-0.35, -0.1), at_frac=(0.1, 0.9), num_events=1, num_bars=1)
    worse = PerturbationConfig(
        name="all_at_once",
        num_worlds=num_worlds // 2,
        factors={"sigma": (2.0, 5.0), "spread": (2.0, 5.0), "volume": (0.25, 1.0)},
        events=(crash,),
    )
    return StressConfig(
        perturbations=(worse,),
        crises=CrisisConfig(num_bars=60, num_windows=0, num_places=1),
        bootstrap=BootstrapConfig(num_worlds=num_worlds - num_worlds // 2 - 1, num_worlds_state=0, kind="stationary", block_bars=20),
        capital_factors=(),
        min_assets_frac=0.8,
        path_points=100,
        chunk_mib=chunk_mib,
        num_threads=num_threads,
    )


def timed(past: Past, worlds: tuple[World, ...], players: list[Player], cfg: StressConfig, with_costs: bool) -> str:
    """One line: seconds of the clock and of the processors, and account-bars a second."""
    terms = Terms(NS_PER_DAY, CONFIG, COSTS)
    wall, cpu = time.perf_counter(), time.process_time()
    found = run_scenarios(past, worlds, players, terms, cfg.path_points, cfg.chunk_mib, cfg.num_threads, with_costs)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    work = len(worlds) * len(players) * past.num_steps * past.market.close.shape[1]
    rate = f"{work / cpu / 1e6:.1f} M account-slot-bars a CPU-second"
    return f"{wall:7.2f} s by the clock {cpu:7.2f} CPU-s   {rate}   worst net return {found.numbers['ret'].min():.3f}"


def main() -> None:
    """Print both lines and the peak of memory."""
    parser = argparse.ArgumentParser()
    for name, value in (("worlds", 1000), ("policies", 8), ("bars", 2500), ("assets", 30), ("threads", 2), ("chunk-mib", 128)):
        parser.add_argument(f"--{name}", type=int, default=value)
    ask = parser.parse_args()
    market = made_market(2 * ask.bars + 1, ask.assets)
    past = open_past(market, ask.bars, 2 * ask.bars + 1, 0.8, 7)
    rng = np.random.default_rng(1)
    limit = 2.0 / ask.assets
    tables = [rng.uniform(-limit, limit, (past.num_steps, ask.assets)) for _ in range(ask.policies)]
    players = [Player(f"policy_{p}", GUARD, np.where(rng.random(table.shape) < 0.1, table, np.nan)) for p, table in enumerate(tables)]
    small = stress_config(8, 1, ask.chunk_mib)
    for with_costs in (False, True):
        timed(past, draw_worlds(past, small, True)[:4], players, small, with_costs)  # compiles
    cfg = stress_config(ask.worlds, ask.threads, ask.chunk_mib)
    worlds = draw_worlds(past, cfg, True)
    print(f"{len(worlds)} worlds x {ask.policies} policies x {past.num_steps} bars x {ask.assets} assets, {ask.threads} threads")
    for with_costs in (False, True):
        print(f"{'with cost terms' if with_costs else 'net numbers    '} {timed(past, worlds, players, cfg, with_costs)}", flush=True)
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
