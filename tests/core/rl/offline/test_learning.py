"""Cloning finds the behaviour, implicit Q-learning does better than it, in a world whose optimum is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError, ContractError
from plusultra_core.models.policy import Policy, PolicyConfig, build_policy
from plusultra_core.rl.offline.learning import OfflineConfig, as_tensors, clone_behaviour, learn_implicitly


def fresh() -> Policy:
    return build_policy(PolicyConfig(width=32, num_layers=2, init_std=0.3), 0, 2, 3)


def acts(policy: Policy) -> Any:
    return lambda obs: policy.act(torch.from_numpy(obs)).detach().numpy()


def test_cloning_finds_the_behaviour(quadratic: Any, steps: OfflineConfig) -> None:
    data, _ = quadratic.play(quadratic.optimal, 200, 50, seed=0)
    policy = fresh()
    history = clone_behaviour(policy, data, steps, np.random.default_rng(0))
    assert history[-1]["clone_loss"] < history[0]["clone_loss"]
    off = acts(policy)(data.obs_BP) - data.action_B
    assert np.sqrt((off**2).mean()) < 0.02


@pytest.mark.slow
def test_implicit_learning_does_better_than_who_it_watched(quadratic: Any, steps: OfflineConfig) -> None:
    noise = np.random.default_rng(5)
    watched, _ = quadratic.play(lambda obs: quadratic.myopic(obs) + 0.15 * noise.normal(size=len(obs)), 600, 50, seed=1)
    _, behaviour = quadratic.play(quadratic.myopic, 4_000, 50, seed=2)
    _, best = quadratic.play(quadratic.optimal, 4_000, 50, seed=2)
    cloned, learned = fresh(), fresh()
    clone_behaviour(cloned, watched, steps, np.random.default_rng(0))
    learn_implicitly(learned, watched, steps, np.random.default_rng(0), seed=0)
    value = {name: quadratic.play(acts(policy), 4_000, 50, seed=2)[1] for name, policy in (("cloned", cloned), ("learned", learned))}
    assert value["cloned"] == pytest.approx(behaviour, abs=0.1 * (best - behaviour))
    assert value["learned"] > behaviour + 0.5 * (best - behaviour)


def test_without_temperature_implicit_learning_clones(quadratic: Any, steps: OfflineConfig) -> None:
    data, _ = quadratic.play(quadratic.optimal, 50, 20, seed=0)
    few = replace(steps, num_steps=50, temperature=0.0)
    cloned, learned = fresh(), fresh()
    clone_behaviour(cloned, data, few, np.random.default_rng(0))
    learn_implicitly(learned, data, few, np.random.default_rng(0), seed=0)
    assert np.allclose(acts(cloned)(data.obs_BP), acts(learned)(data.obs_BP), atol=1e-6)


def test_equal_seeds_give_equal_weights(quadratic: Any, steps: OfflineConfig) -> None:
    data, _ = quadratic.play(quadratic.optimal, 50, 20, seed=0)
    few = replace(steps, num_steps=20)
    once, again = fresh(), fresh()
    for policy in (once, again):
        learn_implicitly(policy, data, few, np.random.default_rng(0), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_what_cannot_be_learned_from_is_refused(quadratic: Any, steps: OfflineConfig) -> None:
    data, _ = quadratic.play(quadratic.optimal, 4, 5, seed=0)
    with pytest.raises(ContractError, match="reward: expected finite numbers, found 20"):
        as_tensors(data._replace(reward_B=np.full(20, np.nan, np.float32)))
    for change in ({"expectile": 0.4}, {"gamma": 1.0}, {"num_steps": 0}):
        with pytest.raises(ConfigError, match="offline"):
            replace(steps, **change)
