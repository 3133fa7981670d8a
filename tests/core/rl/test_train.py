"""The loop: finds what is planted, begins as the rule it clones, and resumes to the same bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError, JobError
from plusultra_core.rl.train import Trained, train_policy, validate
from plusultra_core.rl.world import Spans

SPANS = Spans((0, 300), (300, 400))


class Listener:
    """Progress that can stop the run at a given report."""

    def __init__(self, stop_at: int = -1) -> None:
        self.left = stop_at

    def report(self, message: str, **numbers: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def train(lab: Any, place: Path, run: Any = None, stop_at: int = -1, world: Any = None) -> Trained:
    made, run = world or lab.world(), run or lab.run
    return train_policy(run, lab.place(made, SPANS, run), lab.policy(made, run=run), place, Listener(stop_at))


def test_ppo_finds_a_planted_signal_and_beats_doing_nothing_on_bars_it_never_saw(lab: Any, tmp_path: Path) -> None:
    run = lab.changed(num_updates=25, num_accounts=128, valid_every=5)
    trained = train(lab, tmp_path / "p.pt", run)
    assert trained.history[0]["valid_ret"] < 5e-4
    assert trained.metrics["valid_ret"] > 1.5e-3
    assert all(row["ratio_first"] == 0.0 for row in trained.history[1:])


def test_without_a_signal_the_costs_keep_the_policy_out_of_the_market(lab: Any, tmp_path: Path) -> None:
    world = lab.world(signal=0.0, half_spread_bps=30.0)
    trained = train(lab, tmp_path / "p.pt", lab.changed(num_updates=15, num_accounts=128, valid_every=5), world=world)
    assert abs(trained.metrics["valid_ret"]) < 3e-4


def test_a_cloned_actor_is_the_sizing_rule(lab: Any, tmp_path: Path) -> None:
    run = lab.changed(num_updates=1)
    run = replace(run, warmstart=run.warmstart.__class__(num_steps=400, batch_size=256, learning_rate=5e-3))
    trained = train(lab, tmp_path / "p.pt", run)
    assert trained.history[0]["clone_loss"] < 0.05
    assert trained.history[0]["valid_ret"] > 1e-3
    assert trained.metrics["clone_valid_reward"] == trained.history[0]["valid_reward"]


def test_the_best_weights_on_validation_are_kept_and_never_worse_than_the_start(lab: Any, tmp_path: Path) -> None:
    trained = train(lab, tmp_path / "p.pt", lab.changed(num_updates=6, valid_every=1))
    scores = [row["valid_reward"] for row in trained.history]
    assert trained.metrics["valid_reward"] == max(0.0, *scores)
    assert trained.metrics["is_flat"] == 0.0
    assert trained.metrics["update"] == float(np.argmax(scores))
    world = lab.world()
    policy = lab.policy(world)
    policy.load_state_dict(trained.tensors)
    assert validate(lab.run, lab.place(world, SPANS), policy)["valid_reward"] == trained.metrics["valid_reward"]


def test_a_policy_that_loses_on_validation_is_not_kept(lab: Any, tmp_path: Path) -> None:
    """Pure noise at a high cost, and an actor that begins in the market: nothing it learns in two updates beats doing nothing."""
    world = lab.world(signal=0.0, half_spread_bps=100.0)
    run = lab.changed(num_updates=2, valid_every=1)
    run = replace(run, warmstart=run.warmstart.__class__(num_steps=200, batch_size=256, learning_rate=5e-3))
    trained = train(lab, tmp_path / "p.pt", run, world=world)
    assert all(row["valid_reward"] < 0 for row in trained.history)
    assert trained.metrics["is_flat"] == 1.0
    assert trained.metrics["valid_reward"] == trained.metrics["valid_position"] == 0.0
    assert trained.metrics["clone_valid_reward"] == trained.history[0]["valid_reward"]
    policy = lab.policy(world)
    policy.load_state_dict(trained.tensors)
    assert float(policy.act(torch.randn(64, policy.actor[0].in_features)).detach().abs().max()) == 0.0


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_a_run_that_was_killed_ends_with_the_bytes_of_one_that_was_not(lab: Any, tmp_path: Path, stop_at: int) -> None:
    whole = train(lab, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        train(lab, tmp_path / "p.pt", stop_at=stop_at)
    resumed = train(lab, tmp_path / "p.pt")
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_another_seed_gives_another_policy(lab: Any, tmp_path: Path) -> None:
    a, b = train(lab, tmp_path / "a.pt"), train(lab, tmp_path / "b.pt", replace(lab.run, seed=8))
    assert a.history != b.history


def test_a_checkpoint_of_another_length_is_refused(lab: Any, tmp_path: Path) -> None:
    train(lab, tmp_path / "p.pt")
    with pytest.raises(JobError, match=r"'num_updates': 4.*asked for .*'num_updates': 5"):
        train(lab, tmp_path / "p.pt", lab.changed(num_updates=5))


def test_two_workers_give_the_same_bytes_twice_and_after_a_kill(lab: Any, tmp_path: Path) -> None:
    run = lab.changed(num_workers=2)
    whole = train(lab, tmp_path / "whole.pt", run)
    with pytest.raises(KeyboardInterrupt):
        train(lab, tmp_path / "p.pt", run, stop_at=3)
    resumed = train(lab, tmp_path / "p.pt", run)
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert all(row["ratio_first"] == 0.0 for row in whole.history[1:])
    with pytest.raises(ConfigError, match="a multiple of 3 workers"):
        lab.changed(num_workers=3)
