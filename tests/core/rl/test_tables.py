"""Market rows that are looked up teach what market rows that are multiplied teach."""

from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.learning import kernels
from plusultra_core.rl.learning.learner import Learner
from plusultra_core.rl.learning.tables import Lookup, market_of, pays
from plusultra_core.rl.ppo import update
from plusultra_core.rl.rollout import Rollout, collect, finish, roll
from plusultra_core.rl.train import make_env

OWN = 5


def twins(num_columns: int, num_rows: int, num: int, num_layers: int = 2) -> tuple[Learner, Rollout, Learner, Rollout]:
    """One policy twice, and its samples with whole observations and with rows of a table."""
    rng = np.random.default_rng(num_columns)
    table = rng.standard_normal((num_rows, num_columns)).astype(np.float32)
    row, own = rng.integers(0, num_rows, num), rng.standard_normal((num, OWN)).astype(np.float32)
    policies = [build_policy(PolicyConfig(width=16, num_layers=num_layers, init_std=0.4), num_columns, OWN, 3) for _ in range(2)]
    columns = [torch.from_numpy(rng.standard_normal(num).astype(np.float32)) for _ in range(5)]
    heard = torch.from_numpy((rng.random(num) < 0.8).astype(np.float32))
    whole = Rollout(torch.from_numpy(np.hstack((table[row], own))), *columns, heard)
    looked = Rollout(torch.from_numpy(own), *columns, heard, market=market_of(table, row))
    return Learner(policies[0], 1e-3), whole, Learner(policies[1], 1e-3), looked


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("size", [(16, 40, 700), (70, 500, 2_500), (16, 3, 30), (300, 4_000, 1_500)])
def test_gradients_are_those_of_whole_observations(size: tuple[int, int, int], num_layers: int) -> None:
    a, whole, b, looked = twins(*size, num_layers)
    index = np.concatenate(looked.market.parts(3, np.random.default_rng(0)))
    said = [learner.gradient(samples, index, 20.0, len(index), 0.2, 0.5) for learner, samples in ((a, whole), (b, looked))]
    assert said[0] == pytest.approx(said[1], rel=1e-5, abs=1e-6)
    largest = float(a.networks.grad.abs().max())
    assert float((a.networks.grad - b.networks.grad).abs().max()) < 1e-6 * max(largest, 1.0)
    assert largest > 1e-3


def test_parts_hold_every_sample_once_and_all_samples_of_a_row_side_by_side() -> None:
    _, _, _, looked = twins(16, 40, 700)
    parts = looked.market.parts(4, np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(700))
    assert sorted(len(set(looked.market.place_B[part])) for part in parts) == [10, 10, 10, 10]
    for part in parts:
        assert (np.diff(looked.market.place_B[part]) != 0).sum() == 9


def test_the_table_gives_back_the_row_of_every_sample() -> None:
    table = np.arange(30, dtype=np.float32).reshape(10, 3)
    row = np.array([7, 7, 2, 9, 2, 7])
    market = market_of(table, row)
    assert market.row_D.tolist() == [7, 2, 9]
    assert np.array_equal(market.table_RF[market.row_D[market.place_B]], table[row])


def test_products_are_made_once_for_every_row() -> None:
    asked: list[int] = []

    def multiply(table: Any, row: Any, z: Any) -> None:
        asked.append(len(row))
        z[...] = table[row]

    table = np.arange(60, dtype=np.float32).reshape(20, 3)
    lookup = Lookup(table, 40, 3)
    for rows in ([3, 4, 5, 6, 3], [6, 5], [7, 3]):
        z, place = lookup.places(np.array(rows), multiply)
        assert np.array_equal(z[place], table[rows])
    assert asked == [4, 4], "rows that were met need no product; a single one is made in a block that rounds as larger ones do"


def test_looking_up_pays_where_rows_are_wide_or_seen_often() -> None:
    assert pays(num_rows=1_000, num_samples=65_536, num_columns=20)
    assert pays(num_rows=30_000, num_samples=65_536, num_columns=64)
    assert not pays(num_rows=30_000, num_samples=8_192, num_columns=15)
    assert not pays(num_rows=10_000_000, num_samples=8_192, num_columns=512)


def test_a_policy_that_looks_up_acts_and_learns_as_one_that_multiplies(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same episodes to the last bit of their bars; weights after an update on the same minibatch within 1e-6."""
    world = lab.world(num_bars=60, columns=30)
    found = []
    for looks in (True, False):
        monkeypatch.setattr("plusultra_core.rl.rollout.pays", lambda *_, looks=looks: looks)
        learner = Learner(lab.policy(world), 1e-3)
        env = make_env(lab.run, world, 64, (0, 55))
        env.reset(np.random.default_rng(0))
        rollout, summary = collect(learner, env, 16, 0.9, 0.9, np.random.default_rng(1))
        assert (rollout.market is not None) is looks
        assert learner.first_distance(rollout) == 0.0
        rng = np.random.default_rng(2)
        row = update(learner, rollout, lab.changed().ppo.__class__(**{**options(lab.run.ppo), "num_minibatches": 1}), rng)
        found.append((learner.networks.flat.clone(), summary.reward_mean, row["pg_loss"], rollout.u_B))
    assert torch.allclose(found[0][3], found[1][3], atol=1e-6)
    assert found[0][1:3] == pytest.approx(found[1][1:3], rel=1e-4, abs=1e-7)
    assert float((found[0][0] - found[1][0]).abs().max()) < 2e-6


def options(cfg: Any) -> dict[str, Any]:
    return {name: getattr(cfg, name) for name in cfg.__dataclass_fields__}


def test_densities_of_few_accounts_are_those_that_the_update_sees(lab: Any) -> None:
    """Products of one to three rows round otherwise than those of a chunk."""
    world = lab.world()
    for num_accounts in (1, 3, 5):
        learner = Learner(lab.policy(world), 1e-3)
        env = make_env(lab.run, world, num_accounts, (0, 200))
        env.reset(np.random.default_rng(0))
        rollout, _ = collect(learner, env, 8, 0.9, 0.9, np.random.default_rng(1))
        assert learner.first_distance(rollout) == 0.0


def test_a_shipped_trajectory_makes_the_same_rollout_as_collecting_here(lab: Any) -> None:
    world = lab.world()
    made = []
    for whole in (True, False):
        learner = Learner(lab.policy(world), 1e-3)
        env = make_env(lab.run, world, 16, (0, 200))
        env.reset(np.random.default_rng(0))
        if whole:
            made.append(collect(learner, env, 8, 0.9, 0.9, np.random.default_rng(1))[0])
        else:
            made.append(finish(roll(learner, env, 8, np.random.default_rng(1)), None, 0.9, 0.9, None, learner.team))
    assert all(torch.equal(a, b) for a, b in zip(made[0][:7], made[1][:7], strict=True))


@pytest.mark.parametrize("name", ["expand", "collapse", "runs", "meet", "ranges", "draw"])
def test_kernels_are_their_python(name: str) -> None:
    rng = np.random.default_rng(1)
    m, own = rng.normal(size=(7, 8)).astype(np.float32), rng.normal(size=(7, 2)).astype(np.float32)
    place = np.array([2, 2, 0, 1, 1, 1, 3])
    weight, row = rng.normal(size=(2, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    arguments: tuple[Any, ...] = {
        "expand": (m, place, own, weight, row, np.zeros((7, 8), np.float32)),
        "collapse": (m, place, own, np.zeros((4, 8), np.float32), weight),
        "runs": (np.array([6, 0, 1, 2]), place, np.array([50, 40, 30, 20]), np.zeros(4, np.int64), np.zeros(4, np.int64)),
        "meet": (place, np.array([-1, 5, -1, -1]), 9, np.zeros(7, np.int64)),
        "ranges": (np.array([2, 0]), np.array([0, 2, 3, 7]), np.arange(7)[::-1].copy(), np.zeros(6, np.int64)),
        "draw": (row, -0.3, row[::-1].copy(), np.zeros(8, np.float32)),
    }[name]
    kernel = getattr(kernels, name)
    first, second = ([a.copy() if isinstance(a, np.ndarray) else a for a in arguments] for _ in range(2))
    assert kernel(*first) == getattr(kernel, "py_func", kernel)(*second)
    assert any(not np.array_equal(a, b) for a, b in zip(first, arguments, strict=True) if isinstance(a, np.ndarray))
    for a, b in zip(first, second, strict=True):
        assert np.allclose(a, b, atol=1e-6)
