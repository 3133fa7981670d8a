"""Workers elsewhere give the bytes of workers here; teams on several devices learn what one process does."""

import importlib.util
import signal
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ConfigError, ContractError, JobError
from plusultra_core.models.policies.distributions import SquashedGaussian
from plusultra_core.models.policy import PolicyConfig, build_policy
from plusultra_core.rl.env import Outcome, TradingEnv
from plusultra_core.rl.learning.autograd import TorchConfig, TorchLearner
from plusultra_core.rl.learning.learner import Alone, Learner, Team
from plusultra_core.rl.ppo import PPOConfig, update
from plusultra_core.rl.rollout import Rollout, Trajectory, collect, finish
from plusultra_core.rl.workers.crew import Here, Station, Supply, Worker, generator, merge, pack, unpack
from plusultra_core.rl.workers.fabric import FabricConfig, run_fabric
from plusultra_core.rl.workers.local import Processes

ACCOUNTS, STEPS, SEED = 12, 6, 3
HAS_RAY = importlib.util.find_spec("ray") is not None


class Walk:
    """E accounts on a random walk, each paid for its sign; episodes of 5 bars."""

    def __init__(self, num_accounts: int, rank: int) -> None:
        self.x_E = np.random.default_rng(rank).normal(size=num_accounts)
        self.age_E = np.arange(num_accounts) % 5

    @property
    def obs_EP(self) -> np.ndarray:
        return np.column_stack((self.x_E, self.age_E / 5)).astype(np.float32)

    def present(self) -> np.ndarray:
        return self.age_E != 3

    def step(self, action_E: np.ndarray, rng: Any) -> Outcome:
        reward_E = action_E * np.sign(self.x_E)
        self.x_E, self.age_E = self.x_E + 0.3 * rng.normal(size=self.x_E.size), self.age_E + 1
        final, ended_E = self.obs_EP, self.age_E >= 5
        self.x_E, self.age_E = np.where(ended_E, rng.normal(size=self.x_E.size), self.x_E), np.where(ended_E, 0, self.age_E)
        return Outcome(reward_E, reward_E, np.zeros_like(ended_E), ended_E, final)

    def state(self) -> dict[str, np.ndarray]:
        return {"x_E": self.x_E.copy(), "age_E": self.age_E.copy()}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.x_E, self.age_E = state["x_E"].copy(), state["age_E"].copy()


def policy() -> Any:
    return build_policy(PolicyConfig(width=8, num_layers=2, init_std=0.4), 1, 1, 0)


def recruit(rank: int, size: int) -> Station:
    made = policy()
    return Station(Learner(made, 1e-3), made, Walk(ACCOUNTS // size, rank))


def broken(rank: int, size: int) -> Station:
    if rank:
        raise ValueError("planted")
    return recruit(rank, size)


def train(crew: Any, cfg: PPOConfig, lag: Any = 0, num_updates: int = 3) -> tuple[np.ndarray, list[int], list[Trajectory]]:
    made = policy()
    learner, supply, ages, seen = Learner(made, 1e-2), Supply(crew, lag), [], []
    for number in range(num_updates):
        trajectory, age = supply.take(pack(made), number)
        update(learner, finish(trajectory, None, 0.9, 0.9, None, learner.team), cfg, np.random.default_rng(number))
        ages.append(age)
        seen.append(trajectory)
    return learner.networks.flat.numpy().copy(), ages, seen


def same(a: Trajectory, b: Trajectory) -> bool:
    flat = [[*t.record, *t[1:]] for t in (a, b)]
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in zip(*flat, strict=True))


def test_processes_give_the_bytes_of_workers_here_and_go_on_from_states(lab: Any) -> None:
    """With a lag of 1 every rollout but the first is one update old, and the last is on its way when the training ends."""
    there = Processes(recruit, 2, STEPS, SEED)
    try:
        for lag in (0, 1):
            here = Here(recruit, 2, STEPS, SEED)
            there.load_states(here.states())
            (flat, ages, seen), found = (train(crew, lab.run.ppo, lag) for crew in (here, there))
            assert np.array_equal(flat, found[0])
            assert ages == found[1] == ([0, 0, 0] if lag == 0 else [0, 1, 1])
            assert all(same(a, b) for a, b in zip(seen, found[2], strict=True))
            assert seen[0].reward_TE.shape == (STEPS, ACCOUNTS)
        there.receive()
        here.load_states(there.states())
        here.receive()
        for crew in (here, there):
            crew.send(pack(policy()), 9, 9)
        assert all(same(a.trajectory, b.trajectory) for a, b in zip(here.receive(), there.receive(), strict=True))
    finally:
        there.close()


def test_workers_that_inherited_deafness_to_sigterm_go_home_all_the_same() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        crew = Processes(recruit, 1, STEPS, SEED)
    finally:
        signal.signal(signal.SIGTERM, before)
    closing = threading.Thread(target=crew.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()


def test_a_crew_of_one_acts_as_a_training_without_workers() -> None:
    crew = Here(recruit, 1, STEPS, SEED)
    made = policy()
    learner, env = Learner(made, 1e-3), Walk(ACCOUNTS, 0)
    for number in range(2):
        crew.send(pack(made), number, number)
        shipped = finish(merge([s.trajectory for s in crew.receive()]), None, 0.9, 0.9, None, learner.team)
        alone, _ = collect(learner, env, STEPS, 0.9, 0.9, generator(SEED, number, 0))
        assert all(torch.equal(a, b) for a, b in zip(shipped[:7], alone[:7], strict=True))


def test_states_are_not_asked_for_while_rollouts_are_on_their_way() -> None:
    """They would be taken for the answer."""
    crew = Processes(recruit, 1, STEPS, SEED)
    try:
        crew.send(pack(policy()), 0, 0)
        with pytest.raises(ContractError, match="on their way"):
            crew.states()
        with pytest.raises(ContractError, match="on their way"):
            crew.load_states([{}])
        assert crew.receive()[0].version == 0
        assert set(crew.states()[0]) == {"x_E", "age_E"}
    finally:
        crew.close()


def test_what_a_policy_remembers_goes_with_the_state_of_its_worker(lab: Any) -> None:
    run = lab.recipe(memory="gru")
    world = lab.world()

    def remembering(rank: int, size: int) -> Station:
        made, env = lab.policy(world, run=run), TradingEnv(world, ACCOUNTS, (0, 300), 40, 0.0, run.reward)
        env.reset(np.random.default_rng(0))
        return Station(TorchLearner(made, 1e-3, run.autograd), made, env)

    first, other = (Here(remembering, 1, STEPS, SEED) for _ in range(2))
    weights = pack(lab.policy(world, seed=2, run=run))
    begun = first.states()
    for number in range(2):
        first.send(weights, number, number)
        first.receive()
    for states in (first.states(), begun):
        other.load_states(states)
        first.load_states(states)
        for crew in (first, other):
            crew.send(weights, 7, 7)
        a, b = (crew.receive()[0].trajectory for crew in (first, other))
        assert same(a, b)
        assert bool(a.record.state_ES.any()) == (states is not begun)


def test_a_worker_that_fails_is_named() -> None:
    crew = Processes(broken, 2, STEPS, SEED)
    try:
        with pytest.raises(JobError, match="number 1 of 2 failed"):
            for number in range(2):
                crew.send(pack(policy()), number, number)
                crew.receive()
    finally:
        crew.close()


def test_weights_come_back_as_they_went_and_others_are_refused() -> None:
    a, b = policy(), build_policy(PolicyConfig(width=8, num_layers=2, init_std=0.4), 1, 1, 9)
    learner = Learner(b, 1e-3)
    unpack(b, pack(a))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert np.array_equal(learner.networks.flat.numpy()[-1:], a.logstd.detach().numpy()), "the learner sees them at once"
    with pytest.raises(ContractError, match="recruit workers with the learner's policy"):
        unpack(build_policy(PolicyConfig(width=4, num_layers=2, init_std=0.4), 1, 1, 9), pack(a))


def test_a_shipment_is_made_with_the_weights_that_were_sent() -> None:
    worker, made = Worker(recruit, 0, 1, STEPS, SEED), policy()
    with torch.no_grad():
        made.actor[-1].bias.fill_(30.0)
    assert worker.work(pack(made), 0, 0).trajectory.action_TE.min() > 0.99


@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_actors_on_two_machines_give_the_bytes_of_workers_here(lab: Any) -> None:
    """Two nodes of one core each on this machine: the actors cannot share one."""
    import ray
    from ray.cluster_utils import Cluster

    from plusultra_core.rl.workers.actors import Actors

    node = {"num_cpus": 1, "object_store_memory": 128 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False)
        crew = Actors(recruit, 2, STEPS, SEED)
        found = train(crew, lab.run.ppo, 1)
        crew.send(pack(policy()), 9, 9)
        crew.receive()
        states = crew.states()
        crew.load_states(states)
        lost = Actors(broken, 2, STEPS, SEED)
        crew.close()
        lost.send(pack(policy()), 0, 0)
        with pytest.raises(JobError, match="one of 2 actors failed"):
            lost.receive()
        assert len({worker["NodeID"] for worker in ray.nodes() if worker["Alive"]}) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    here = train(Here(recruit, 2, STEPS, SEED), lab.run.ppo, 1)
    assert np.array_equal(here[0], found[0])
    assert all(same(a, b) for a, b in zip(here[2], found[2], strict=True))


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_ray_the_extra_is_named() -> None:
    from plusultra_core.rl.workers.actors import Actors

    with pytest.raises(JobError, match="install the extra `ray`"):
        Actors(recruit, 2, STEPS, SEED)


NUM = 600


class Adapted(torch.nn.Module):
    """The default policy in the words of the interface."""

    num_state, has_memory = 0, False

    def __init__(self) -> None:
        super().__init__()
        self.policy = build_policy(PolicyConfig(width=16, num_layers=2, init_std=0.4), 6, 5, 3)

    def remember(self, obs: Any, state: Any) -> Any:
        return state

    def distribution(self, obs: Any, state: Any, allowed: Any = None) -> Any:
        return SquashedGaussian(self.policy.mean(obs), self.policy.logstd)

    def value(self, obs: Any, state: Any) -> Any:
        return self.policy.value(obs)


def learn_both(team: Team, cfg: PPOConfig) -> list[np.ndarray]:
    return [learn(team, kind, cfg) for kind in ("autograd", "compiled")]


def learn(team: Team, kind: str, cfg: PPOConfig) -> np.ndarray:
    """An update on the member's part of the samples; asserts that all members hold the same weights."""
    torch.set_num_threads(1)
    made = torch.Generator().manual_seed(0)
    columns = [torch.randn(NUM, *shape, generator=made) for shape in ((11,), (), (), (), (), ())]
    columns[2] = -columns[2].abs()
    part = slice(team.rank * NUM // team.size, (team.rank + 1) * NUM // team.size)
    rollout = Rollout(*(column[part].contiguous() for column in (*columns, (torch.rand(NUM, generator=made) < 0.8).float())))
    if kind == "autograd":
        learner: Any = TorchLearner(Adapted(), 1e-3, TorchConfig(device="cpu", precision="32-true", compile=False, chunk=128), team)
        weights = list(learner.policy.parameters())
    else:
        made_policy = Adapted().policy
        learner, weights = Learner(made_policy, 1e-3, team), list(made_policy.parameters())
    update(learner, rollout, cfg, np.random.default_rng(0))
    flat = torch.cat([weight.detach().flatten() for weight in weights]).numpy().copy()
    total = flat.astype(np.float64)
    team.total(total)
    assert np.array_equal(total / team.size, flat.astype(np.float64))
    return flat


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_members_of_fabric_learn_what_one_process_does(lab: Any) -> None:
    """With one minibatch the order of samples is all that differs."""
    cfg = replace(lab.run.ppo, num_minibatches=1, update_epochs=2)
    two = run_fabric(FabricConfig(accelerator="cpu", devices=2, num_nodes=1), learn_both, cfg)
    for found, alone in zip(two, learn_both(Alone(), cfg), strict=True):
        assert np.abs(found - alone).max() < 1e-6


def test_one_device_is_a_team_of_one_in_this_process(lab: Any) -> None:
    cfg = replace(lab.run.ppo, num_minibatches=1)
    one = run_fabric(FabricConfig(accelerator="cpu", devices=1, num_nodes=1), learn, "compiled", cfg)
    assert np.array_equal(one, learn(Alone(), "compiled", cfg))


def test_a_config_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="devices, num_nodes >= 1"):
        FabricConfig(accelerator="cpu", devices=0, num_nodes=1)
