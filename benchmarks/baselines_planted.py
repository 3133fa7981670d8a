"""The part of docs/baselines.md where the optimum is known: every rule that reads a forecast, and PPO, against the closed form."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch

from plusultra_core import config
from plusultra_core.arrays import Float64Array
from plusultra_core.inference.decide import SizingConfig
from plusultra_core.inference.portfolios.aim import aiming
from plusultra_core.inference.portfolios.planted import COST, DEVIATION_K, REACH, SIGMA, Planted, planted_market, utility
from plusultra_core.inference.portfolios.rules import MeanVarianceConfig, mean_variance
from plusultra_core.inference.strategies import LEVELS, Decide, no_trade, run_strategy, sized
from plusultra_core.models.policy import Policy, build_policy
from plusultra_core.rl.env import World, sleeve
from plusultra_core.rl.train import Place, RLConfig, train_policy
from plusultra_core.rl.world import Rows, Spans
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.observation import OWN_STATE, write_observation, write_own_state
from plusultra_core.simulation.records import Step

ROOT = Path(__file__).resolve().parents[1]
BARS, FIRST, ASSETS = 3_000, 300, 12
LIMIT = 3.0 * REACH
"""What a slot of the policy may hold; the optimal rule asks for more in one bar of a thousand."""
TRAIN_BARS, VALID_BARS = 6_000, 1_000
CHANGES = {
    "policy.kind": "mlp", "policy.head": "gaussian", "policy.memory.kind": "none",
    "reward.variance_coef": LIMIT / (REACH * SIGMA) - 1.0, "reward.drawdown_coef": 0.0, "reward.sharpe_coef": 0.0,
    "ppo.learning_rate": 1.0e-3, "ppo.gamma": 0.97, "ppo.gae_lambda": 0.95, "ppo.target_kl": None, "warmstart.num_steps": 0,
    "train.num_updates": 300, "train.num_accounts": 256, "train.num_steps": 32,
    "train.valid_every": 50, "train.episode_bars": 100, "band": 0.0, "horizon_index": 0,
}  # fmt: skip
"""Against configs/base/rl.yaml: the risk of the world, no band, from scratch, on what the test of the optimum learns with."""


SAMPLES = 300 * 256 * 32


class Silent:
    """Progress that nobody reads."""

    def report(self, message: str, **numbers: float) -> None:
        pass


def table_of(planted: Planted) -> np.ndarray:
    """The predictors in their own deviations, as market rows."""
    return np.ascontiguousarray(planted.predictor_TAK / (SIGMA * np.array(DEVIATION_K)), dtype=np.float32)


def learned(seed: int) -> Policy:
    """A policy that PPO learned from scratch in a planted market of its own, through the kernel."""
    run = config.load(RLConfig, ROOT / "configs" / "base" / "rl.yaml", {**CHANGES, "seed": seed})
    planted = planted_market(TRAIN_BARS + VALID_BARS, ASSETS, 1_000 + seed)
    table, setting = table_of(planted), planted.setting
    own, free = sleeve(setting.simulation, setting.guard, LIMIT)
    world = World(setting.market, setting.bar_ns, table, np.ones(table.shape[:2], dtype=np.bool_), own, setting.costs, free)
    t_R, n_R = (place.reshape(-1).astype(np.int64) for place in np.indices((TRAIN_BARS, ASSETS)))
    quantiles = torch.from_numpy(planted.quantiles_TAQ[t_R, n_R, None].astype(np.float32))
    rows = Rows(torch.from_numpy(table[t_R, n_R]), quantiles, LEVELS, n_R, t_R)
    policy = build_policy(run.policy.size, table.shape[2], len(OWN_STATE), seed)
    spans = Spans(train=(0, TRAIN_BARS), valid=(TRAIN_BARS, TRAIN_BARS + VALID_BARS))
    with tempfile.TemporaryDirectory() as folder:
        trained = train_policy(run, Place(world, rows, spans, LIMIT), policy, Path(folder) / "policy.pt", Silent())
    policy.load_state_dict(trained.tensors)
    return policy.eval()


def at_work(policy: Policy, planted: Planted, first: int, episode_bars: int) -> Decide:
    """The learned rule on every asset at once, each slot against its own limit."""
    table, start_E = table_of(planted), np.array([first], dtype=np.int64)

    def decide(t: int, env: Environment, last: Step) -> Float64Array:
        own_EAO, obs_EAP = np.zeros((1, ASSETS, len(OWN_STATE))), np.zeros((1, ASSETS, table.shape[2] + len(OWN_STATE)), dtype=np.float32)
        write_own_state(env.accounts, last, LIMIT, start_E, episode_bars, own_EAO)
        write_observation(table, env.accounts, own_EAO, 0, obs_EAP)
        with torch.inference_mode():
            part: Float64Array = policy.act(torch.from_numpy(obs_EAP[0])).double().numpy()
        return LIMIT * part.reshape(1, ASSETS)

    return decide


def rules_of(planted: Planted, policy: Policy) -> dict[str, Decide]:
    """What is compared, the optimum first."""
    own = planted.setting
    cfg = MeanVarianceConfig(risk_aversion=planted.risk_aversion, lookback_bars=250, cost_factor=1.0, band=0.0)
    limits = dataclasses.replace(own.guard, max_weight=LIMIT)
    sizing = SizingConfig(gain=REACH / LIMIT, horizon_index=0, band=0.1, cost_factor=2.0)
    return {
        "aim portfolio, the optimum": aiming(planted.rules, planted.predictor_TAK, 0),
        "policy, PPO from scratch": at_work(policy, planted, FIRST, int(CHANGES["train.episode_bars"])),  # type: ignore[call-overload]
        "mean_variance, covariance estimated": mean_variance(planted.quantiles_TAQ, 0, 1, own.market, own.guard, cfg),
        "myopic, exact covariance": aiming(planted.myopic, planted.predictor_TAK, 0),
        "sized by the forecast, no-trade band": sized(planted.quantiles_TAQ, 0, 1, limits, sizing),
        "no_trade": no_trade,
    }


def optimum(seeds: int) -> str:
    """The section: utility of each rule over that of the optimal one, in as many worlds as seeds."""
    torch.set_num_threads(1)
    parts: dict[str, list[float]] = {}
    for seed in range(seeds):
        planted = planted_market(BARS, ASSETS, seed)
        rules = rules_of(planted, learned(seed))
        earned = {name: float(utility(planted, run_strategy(planted.setting, (FIRST, BARS), rule)).mean()) for name, rule in rules.items()}
        best = next(iter(earned.values()))
        for name, value in earned.items():
            parts.setdefault(name, []).append(value / best)
    text = f"""## Where the optimum is known

Garleanu and Pedersen's world through the same kernel: {ASSETS} independent assets, two predictors of each next return that revert
at different speeds, impact linear in what is traded, so that cost is quadratic ({COST:g} times the charge of risk). The aim
portfolio is the closed form (`inference/portfolios/aim.py`). Utility is expected gain less half the risk aversion times variance,
less what was paid; {seeds} worlds of {BARS - FIRST:,} bars. The policy is trained from scratch for each world, with its own seed,
in another world of the same kind ({SAMPLES / 1e6:.1f} million samples), on the predictors; the other rules have the exact forecast.
Without one a rule can only lose. The estimated covariance counts what can be predicted as risk too, which happens to slow the
myopic rule less; the sizing rule prices the whole order at once and finds none that pays.
"""
    lines = ["| rule | utility, parts of the optimum | least and most over the worlds |", "|---|---|---|"]
    lines += [f"| {name} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} |" for name, values in parts.items()]
    return "\n".join([text, *lines, ""])


if __name__ == "__main__":
    print(optimum(1))
