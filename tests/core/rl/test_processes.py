"""A team learns what one process would from all samples, every member the same, and the same bytes twice."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import JobError
from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.learning.learner import Alone, Learner, Team
from plusultra_core.rl.learning.processes import align, run_team
from plusultra_core.rl.ppo import PPOConfig, update
from plusultra_core.rl.rollout import Rollout

NUM = 600


def samples(part: slice) -> Rollout:
    made = torch.Generator().manual_seed(0)
    obs = torch.randn(NUM, 11, generator=made)
    columns = [torch.randn(NUM, generator=made) for _ in range(5)]
    columns[1] = -columns[1].abs()
    whole = Rollout(obs, *columns, (torch.rand(NUM, generator=made) < 0.8).float())
    return Rollout(*(field[part].contiguous() for field in whole[:7]))


def learn(team: Team, cfg: PPOConfig) -> np.ndarray:
    """Two updates on the member's part of the samples; asserts that all members hold the same weights."""
    policy = build_policy(PolicyConfig(width=16, num_layers=2, init_std=0.4), 6, 5, 3)
    learner = Learner(policy, 1e-3, team)
    share = NUM // team.size
    for number in range(2):
        rollout = samples(slice(team.rank * share, (team.rank + 1) * share))
        update(learner, rollout, cfg, np.random.default_rng(number))
    flat = learner.networks.flat.numpy()
    total = flat.astype(np.float64)
    team.total(total)
    assert np.array_equal(total / team.size, flat.astype(np.float64))
    return flat.copy()


def fail(team: Team) -> None:
    if team.rank:
        raise ValueError("planted")
    team.total(np.zeros(1))


def test_a_team_learns_what_one_process_does_from_all_samples_and_the_same_twice(lab: Any) -> None:
    """With one minibatch the order of samples is all that differs."""
    cfg = replace(lab.run.ppo, num_minibatches=1)
    first, second = (run_team(2, 4_000, lambda team: learn(team, cfg), learn, cfg) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.abs(first - learn(Alone(), cfg)).max() < 1e-5


def test_where_a_member_fails_all_stop() -> None:
    with pytest.raises(JobError, match="one of 2 processes failed"):
        run_team(2, 4, fail, fail)


def begun(team: Team) -> None:
    """Every member begins with weights of its own, as clones made with other numbers of threads do."""
    policy = build_policy(PolicyConfig(width=16, num_layers=2, init_std=0.4), 6, 5, team.rank)
    align(policy, team)
    first = build_policy(PolicyConfig(width=16, num_layers=2, init_std=0.4), 6, 5, 0)
    assert all(torch.equal(found, wanted) for found, wanted in zip(policy.state_dict().values(), first.state_dict().values(), strict=True))
    team.total(np.zeros(1))


def test_a_team_begins_with_the_weights_of_its_first_member() -> None:
    run_team(2, 1_000, begun, begun)
