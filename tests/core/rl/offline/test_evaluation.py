"""What a policy is said to be worth off policy is what it earns when it is let."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ContractError
from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.offline.evaluation import evaluate, weigh
from plusultra_core.rl.offline.learning import OfflineConfig, clone_behaviour


@pytest.mark.slow
def test_fitted_evaluation_finds_the_value_of_another_rule(quadratic: Any, steps: OfflineConfig) -> None:
    noise = np.random.default_rng(6)
    watched, seen = quadratic.play(lambda obs: quadratic.myopic(obs) + 0.2 * noise.normal(size=len(obs)), 500, 60, seed=3)
    _, true = quadratic.play(quadratic.optimal, 4_000, 100, seed=4)
    longer = replace(steps, num_steps=4_000, target_rate=0.05)
    found = evaluate(lambda obs: torch.from_numpy(quadratic.optimal(obs.numpy())).float(), watched, longer, seed=0, num_refits=3)
    assert found.value == pytest.approx(true, rel=0.1)
    assert found.low < found.value < found.high
    assert abs(found.value - true) < 0.3 * abs(seen - true)


def test_importance_sampling_of_the_behaviour_itself_is_its_own_mean(quadratic: Any, steps: OfflineConfig) -> None:
    policy = build_policy(PolicyConfig(width=16, num_layers=1, init_std=0.5), 0, 2, 1)
    rng = np.random.default_rng(0)

    def explore(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.tanh(policy.mean(torch.from_numpy(obs)).numpy() + 0.5 * rng.normal(size=len(obs)))

    data, value = quadratic.play(explore, 300, 8, seed=0)
    with torch.no_grad():
        u = torch.atanh(torch.from_numpy(data.action_B))
        logprob = policy.logprob(policy.mean(torch.from_numpy(data.obs_BP)), u).numpy()
    found = weigh(policy, data._replace(logprob_B=logprob), 0.9, max_ratio=10.0)
    assert found.value == pytest.approx(value, rel=1e-4)
    assert found.effective_size == pytest.approx(300, rel=1e-3)


def test_importance_sampling_leans_to_what_the_other_would_have_done(quadratic: Any, steps: OfflineConfig) -> None:
    behaviour = build_policy(PolicyConfig(width=16, num_layers=1, init_std=0.6), 0, 2, 1)
    other = build_policy(PolicyConfig(width=16, num_layers=2, init_std=0.6), 0, 2, 2)
    best, _ = quadratic.play(quadratic.optimal, 100, 20, seed=1)
    clone_behaviour(other, best, steps, np.random.default_rng(0))
    with torch.no_grad():
        other.logstd.fill_(np.log(0.3))
    rng = np.random.default_rng(0)

    def explore(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.tanh(behaviour.mean(torch.from_numpy(obs)).numpy() + 0.6 * rng.normal(size=len(obs)))

    data, value = quadratic.play(explore, 4_000, 3, seed=0)
    with torch.no_grad():
        u = torch.atanh(torch.from_numpy(data.action_B))
        logprob = behaviour.logprob(behaviour.mean(torch.from_numpy(data.obs_BP)), u).numpy()
    found = weigh(other, data._replace(logprob_B=logprob), 0.9, max_ratio=1e6)
    turn = np.random.default_rng(1)

    def play(obs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.tanh(other.mean(torch.from_numpy(obs)).numpy() + 0.3 * turn.normal(size=len(obs)))

    _, true = quadratic.play(play, 20_000, 3, seed=9)
    assert abs(found.value - true) < 0.25 * abs(value - true)
    assert found.effective_size < 4_000


def test_densities_that_nobody_knows_are_not_weighed(quadratic: Any) -> None:
    policy = build_policy(PolicyConfig(width=8, num_layers=1, init_std=0.5), 0, 2, 1)
    data, _ = quadratic.play(quadratic.optimal, 3, 4, seed=0)
    with pytest.raises(ContractError, match="log density"):
        weigh(policy, data, 0.9, 10.0)


def test_one_trajectory_is_too_few(quadratic: Any, steps: OfflineConfig) -> None:
    data, _ = quadratic.play(quadratic.optimal, 1, 4, seed=0)
    with pytest.raises(ContractError, match="2 trajectories"):
        evaluate(lambda obs: obs[:, 0], data, steps, seed=0, num_refits=3)
