"""PPO in the world of Garleanu and Pedersen: CPU-seconds and samples until a given part of the optimal utility, beside Stable-Baselines3.

    OMP_NUM_THREADS=1 python benchmarks/ppo_return.py

The world, its closed form and the measure of a rule are those of tests/core/rl/test_optimum.py. Same networks, same hyper-parameters,
same scaling of rewards, constant learning rate, 256 accounts x 32 steps; the rule is measured every 5 updates, outside the time.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.learning.learner import Alone, Learner
from plusultra_core.rl.ppo import PPOConfig, update
from plusultra_core.rl.reward import RewardScale
from plusultra_core.rl.rollout import collect

ROOT = Path(__file__).resolve().parents[1]
ACCOUNTS, STEPS, LENGTH, EVERY, MOST = 256, 32, 100, 5, 150
PARTS = (0.85, 0.9)
PPO = PPOConfig(
    learning_rate=1e-3, anneal_lr=False, norm_reward=True, gamma=0.95, gae_lambda=0.95, update_epochs=4, num_minibatches=4, clip_coef=0.2,
    ent_coef=0.0, vf_coef=0.5, max_grad_norm=0.5, target_kl=None,
)  # fmt: skip
Rule = Callable[[Any], np.ndarray]


def optimum() -> Any:
    """The module of the world."""
    spec = importlib.util.spec_from_file_location("optimum", ROOT / "tests" / "core" / "rl" / "test_optimum.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["optimum"] = module
    spec.loader.exec_module(module)
    return module


def own(world: Any, module: Any, seed: int) -> tuple[Callable[[int], None], Rule]:
    """One update of this station, and the rule it has learned so far."""
    learner = Learner(build_policy(PolicyConfig(width=64, num_layers=2, init_std=0.1), 2, 1, seed), PPO.learning_rate)
    env, scale = module.GarleanuEpisodes(world, ACCOUNTS, LENGTH, np.random.default_rng(seed)), RewardScale(ACCOUNTS)

    def turn(number: int) -> None:
        rng = np.random.default_rng((seed, number))
        rollout, _ = collect(learner, env, STEPS, PPO.gamma, PPO.gae_lambda, rng, scale)
        update(learner, rollout, PPO, rng)

    return turn, lambda e: e.reach * np.tanh(learner.networks.outputs(torch.from_numpy(e.obs_EP), 1)[0].astype(np.float64))


def peer(world: Any, module: Any, seed: int) -> tuple[Callable[[int], None], Rule]:
    """The same of Stable-Baselines3; its actions are cut at the limits instead of squashed."""
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.vec_env import VecEnv

    box = gymnasium.spaces.Box

    class Behind(VecEnv):
        def __init__(self) -> None:
            self.rng = np.random.default_rng(seed)
            self.env, self.scale = module.GarleanuEpisodes(world, ACCOUNTS, LENGTH, self.rng), RewardScale(ACCOUNTS)
            super().__init__(ACCOUNTS, box(-np.inf, np.inf, (3,), np.float32), box(-1, 1, (1,), np.float32))

        def reset(self) -> Any:
            return self.env.obs_EP.copy()

        def step_async(self, actions: Any) -> None:
            self.actions = np.clip(actions[:, 0], -1, 1).astype(np.float64)

        def step_wait(self) -> Any:
            outcome = self.env.step(self.actions, self.rng)
            infos: list[dict[str, Any]] = [{} for _ in range(ACCOUNTS)]
            for e in np.flatnonzero(outcome.ended_E):
                infos[e] = {"terminal_observation": outcome.final_obs_EP[e], "TimeLimit.truncated": True}
            reward = self.scale.scaled(outcome.reward_E[None], outcome.ended_E[None], PPO.gamma, Alone())[0]
            return self.env.obs_EP.copy(), reward.astype(np.float32), outcome.ended_E, infos

        def close(self) -> None: ...
        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            return [None] * ACCOUNTS

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...
        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any: ...
        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> Any:
            return [False] * ACCOUNTS

    model = stable_baselines3.PPO(
        "MlpPolicy", Behind(), learning_rate=PPO.learning_rate, n_steps=STEPS, n_epochs=PPO.update_epochs, gamma=PPO.gamma,
        batch_size=ACCOUNTS * STEPS // PPO.num_minibatches, gae_lambda=PPO.gae_lambda, seed=seed, device="cpu",
        policy_kwargs={"net_arch": [64, 64], "log_std_init": float(np.log(0.1))},
    )  # fmt: skip

    def rule(e: Any) -> np.ndarray:
        return e.reach * np.clip(model.predict(e.obs_EP, deterministic=True)[0][:, 0], -1, 1).astype(np.float64)

    return lambda _: model.learn(ACCOUNTS * STEPS, reset_num_timesteps=False) and None, rule


def until(made: tuple[Callable[[int], None], Rule], world: Any, module: Any, best: float) -> dict[str, Any]:
    """CPU-seconds and samples until each part of the optimal utility."""
    turn, rule = made
    spent, found, part = 0.0, {}, 0.0
    for number in range(MOST):
        start = time.process_time()
        turn(number)
        spent += time.process_time() - start
        if (number + 1) % EVERY == 0:
            part = module.utility(world, rule, num_accounts=2_000, length=150) / best
            for asked in PARTS:
                if part >= asked and asked not in found:
                    found[asked] = {"cpu_s": round(spent, 2), "samples": (number + 1) * ACCOUNTS * STEPS}
            if len(found) == len(PARTS):
                break
    return {str(asked): found.get(asked, f"not within {MOST} updates, {part:.3f}") for asked in PARTS}


if __name__ == "__main__":
    torch.set_num_threads(1)
    made_module = optimum()
    made_world = made_module.Garleanu()
    most = made_module.utility(made_world, made_module.optimal(made_world), num_accounts=2_000, length=150)
    loops = {"own": own, "stable-baselines3": peer} if importlib.util.find_spec("stable_baselines3") else {"own": own}
    own(made_world, made_module, 0)[0](0)
    rows = {
        name: [until(loop(made_world, made_module, seed), made_world, made_module, most) for seed in range(2)]
        for name, loop in loops.items()
    }
    print(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))
