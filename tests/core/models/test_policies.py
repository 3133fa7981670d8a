"""Policies of every recipe: the same numbers in any batch, what is remembered, what learns how fast."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ArtifactError, ConfigError, ContractError
from plusultra_core.models.forecaster import Forecaster, ForecasterConfig, InputShape, build_forecaster
from plusultra_core.models.hybrid import HybridConfig
from plusultra_core.models.policies.acting import Acting, allowed_parts
from plusultra_core.models.policies.actors import BookPolicy, SlotPolicy
from plusultra_core.models.policies.body import WindowRows
from plusultra_core.models.policies.build import AnyPolicy, build, learning_rates
from plusultra_core.models.policies.recipe import BackboneConfig, MemoryConfig, RecipeConfig
from plusultra_core.models.policy import Policy, PolicyConfig, market_rows, num_market_columns

HYBRID = HybridConfig(
    width=8, num_blocks=2, num_heads=2, feedforward_factor=2, patch_bars=4, kernel_bars=2, dilations=(1,), ssm_states=2,
    state_embedding=False, dropout=0.5,
)  # fmt: skip
FORECASTER = ForecasterConfig(kind="hybrid", hybrid=HYBRID, linear=None, quantile_levels=(0.25, 0.5, 0.75), num_classes=3)
SHAPE = InputShape(num_features=3, lookback=8, num_states=(), num_horizons=2)
PLAIN = RecipeConfig(
    kind="mlp",
    head="gaussian",
    size=PolicyConfig(width=8, num_layers=2, init_std=0.3),
    grid=(-1.0, -0.5, 0.0, 0.5, 1.0),
    memory=MemoryConfig(kind="none", bars=3, width=4),
    norm_obs="train_span",
    backbone=BackboneConfig(source="supervised", tuning="full", depth_decay=0.5),
)
NUM_OWN, NUM_WINDOWS, NUM_SLOTS = 5, 12, 3
HEADS = ("gaussian", "categorical", "dirichlet")
MEMORIES = ("none", "window", "gru")


def recipe(kind: str = "mlp", head: str = "gaussian", memory: str = "none", **changes: Any) -> RecipeConfig:
    return replace(PLAIN, kind=kind, head=head, memory=replace(PLAIN.memory, kind=memory), **changes)


def forecaster() -> Forecaster:
    return build_forecaster(FORECASTER, SHAPE, seed=1)


def gather(n_B: torch.Tensor, t_B: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    window = torch.stack([x[n, t - 7 : t + 1] for n, t in zip(n_B.tolist(), t_B.tolist(), strict=True)])
    return window, torch.zeros(len(window), 8, 0, dtype=torch.int64), torch.ones(len(window), 8, dtype=torch.bool)


def windows() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(NUM_WINDOWS) % 2, 8 + np.arange(NUM_WINDOWS)


def make(cfg: RecipeConfig, seed: int = 0) -> AnyPolicy:
    """A policy whose last layers are not next to nothing."""
    policy = build(cfg, forecaster(), (1.0, 2.0), NUM_OWN, NUM_SLOTS if cfg.is_book else 1, seed)
    with torch.no_grad():
        for net in (policy.score, policy.cash) if isinstance(policy, BookPolicy) else (policy.actor[-1],):
            net.weight.mul_(50.0)
    if not isinstance(policy, Policy) and policy.body.rows is not None:
        policy.body.rows.attach(gather, *windows())
    return policy


def observations(policy: AnyPolicy, cfg: RecipeConfig, num: int, seed: int = 0) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    slots = NUM_SLOTS if cfg.is_book else 1
    if isinstance(policy, Policy):
        return torch.randn(num, policy.actor[0].in_features, generator=made)
    obs = torch.randn(num, slots, policy.body.num_obs, generator=made)
    if policy.body.rows is not None:
        obs[..., 0] = torch.randint(0, NUM_WINDOWS, (num, slots), generator=made).float()
    return obs.reshape(num, -1)


def fingerprint(policy: AnyPolicy, obs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    state = policy.remember(obs, state)
    distribution = policy.distribution(obs, state)
    mode = distribution.mode()
    return torch.cat([x.reshape(len(obs), -1) for x in (mode, distribution.log_prob(mode), policy.value(obs, state), state)], dim=1)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["mlp", "backbone"])
def test_a_row_gives_the_same_in_any_batch_and_dropout_never_speaks(kind: str, head: str, memory: str) -> None:
    cfg = recipe(kind, head, memory)
    policy = make(cfg)
    policy.train()
    obs, state = observations(policy, cfg, 16), torch.rand(16, policy.num_state)
    whole = fingerprint(policy, obs, state)
    assert torch.allclose(whole[5:9], fingerprint(policy, obs[5:9], state[5:9]), atol=1e-5)
    assert torch.equal(whole, fingerprint(policy, obs, state))
    assert policy.has_memory == (memory != "none")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["mlp", "backbone"])
def test_equal_seeds_give_equal_weights_and_weights_are_the_whole_policy(kind: str, head: str) -> None:
    cfg = recipe(kind, head, "gru", norm_obs="running")
    first, second, other = make(cfg), make(cfg), make(cfg, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    obs, state = observations(first, cfg, 4), torch.zeros(4, first.num_state)
    assert not isinstance(first, Policy)
    first.body.absorb(first.body.moments(observations(first, cfg, 64, seed=2)))
    other.load_state_dict(first.state_dict())
    assert torch.equal(fingerprint(first, obs, state), fingerprint(other, obs, state))


def test_the_plain_recipe_is_the_policy_of_the_compiled_learner() -> None:
    assert isinstance(make(PLAIN), Policy)
    assert isinstance(make(recipe(memory="gru")), SlotPolicy)
    obs = torch.randn(6, make(PLAIN).actor[0].in_features)
    policy = make(PLAIN)
    acting = Acting(policy, 6)
    with torch.no_grad():
        assert np.array_equal(acting.act(obs.numpy()), policy.act(obs).double().numpy())


def test_a_backbone_inside_reads_what_the_frozen_forecaster_says() -> None:
    policy = make(recipe("backbone"))
    assert isinstance(policy, SlotPolicy) and policy.body.rows is not None
    n, t = (torch.from_numpy(axis) for axis in windows())
    rows = market_rows(forecaster().eval(), (1.0, 2.0), gather, n, t)
    policy.fit_rows(rows)
    obs = observations(policy, recipe("backbone"), 6)
    state = policy.remember(obs, torch.zeros(6, policy.num_state))
    assert torch.allclose(state, policy.scale_rows(rows)[obs[:, 0].long()], atol=1e-5)
    pretrained = make(recipe("backbone", backbone=replace(PLAIN.backbone, source="pretrained")))
    assert pretrained.num_state == HYBRID.width


@pytest.mark.parametrize("tuning", ["frozen", "discriminative", "full"])
def test_what_learns_of_a_backbone_and_how_fast(tuning: str) -> None:
    cfg = recipe("backbone", backbone=replace(PLAIN.backbone, tuning=tuning))
    policy = make(cfg)
    rates = learning_rates(policy, cfg)
    obs = observations(policy, cfg, 16)
    state = policy.remember(obs, torch.zeros(16, policy.num_state))
    distribution = policy.distribution(obs, state)
    (distribution.log_prob(distribution.mode().detach() + 1.0).sum() + policy.value(obs, state).sum()).backward()
    moved = {name for name, parameter in policy.named_parameters() if parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)}
    inside = {name.removeprefix("body.rows.forecaster.backbone."): rate for name, rate in rates.items() if ".backbone." in name}
    assert moved <= set(rates)
    assert not any("_head." in name for name in rates)
    assert rates["actor.0.weight"] == rates["critic.0.weight"] == 1.0
    if tuning == "frozen":
        assert inside == {}
    else:
        assert {name for name in moved if ".backbone." in name}
        expected = {"norm_out.weight": 1, "skip.weight": 1, "blocks.1.feedforward.up.weight": 2, "blocks.0.feedforward.up.weight": 3,
                    "patch.weight": 4, "ssm.skip_D": 5, "stem.0.tap_KD": 6, "embed.weight": 7, "missing_D": 7}  # fmt: skip
        for name, depth in expected.items():
            assert inside[name] == (0.5**depth if tuning == "discriminative" else 1.0), name


@pytest.mark.parametrize("memory", ["window", "gru"])
def test_memory_reads_earlier_own_states_and_forgets_them_with_a_fresh_episode(memory: str) -> None:
    cfg = recipe(memory=memory)
    policy = make(cfg)
    first, second, third = (observations(policy, cfg, 2, seed=seed) for seed in range(3))
    acting, other = Acting(policy, 2), Acting(policy, 2)
    acting.act(first.numpy())
    moved = acting.act(second.numpy())
    assert not np.array_equal(moved, other.act(second.numpy()))
    again = acting.act(third.numpy(), fresh_B=np.array([True, False]))
    fresh = Acting(policy, 2).act(third.numpy())
    assert again[0] == pytest.approx(fresh[0], abs=1e-6)
    assert again[1] != fresh[1]


def test_a_window_holds_the_last_own_states_in_order() -> None:
    cfg = recipe(memory="window")
    policy = make(cfg)
    state = torch.zeros(2, policy.num_state)
    seen = [observations(policy, cfg, 2, seed=seed) for seed in range(5)]
    for obs in seen:
        state = policy.remember(obs, state)
    assert torch.equal(state, torch.cat([obs[:, -NUM_OWN:] for obs in seen[2:]], dim=1))


def test_running_statistics_scale_what_was_seen_to_mean_0_and_deviation_1() -> None:
    cfg = recipe(norm_obs="running")
    policy = make(cfg)
    assert isinstance(policy, SlotPolicy)
    obs = 5.0 + 3.0 * observations(policy, cfg, 400)
    before = policy.body(obs, torch.zeros(400, 0))
    assert torch.equal(before, obs)
    for part in obs.split(100):
        policy.body.absorb(policy.body.moments(part))
    normed = policy.body(obs, torch.zeros(400, 0))
    assert torch.allclose(normed.mean(dim=0), torch.zeros(obs.shape[1]), atol=1e-2)
    assert torch.allclose(normed.std(dim=0), torch.ones(obs.shape[1]), atol=2e-2)


@pytest.mark.parametrize("head", HEADS)
def test_a_silenced_policy_asks_for_nothing(head: str) -> None:
    for kind in ("mlp", "backbone"):
        cfg = recipe(kind, head)
        policy = make(cfg)
        obs = observations(policy, cfg, 9)
        assert np.abs(Acting(policy, 9).act(obs.numpy())).max() > 0.01
        policy.silence()
        assert np.abs(Acting(policy, 9).act(obs.numpy())).max() < 1e-15


def test_a_book_does_not_care_in_which_order_its_slots_stand() -> None:
    cfg = recipe(head="dirichlet", memory="window")
    policy = make(cfg)
    assert isinstance(policy, BookPolicy)
    obs = observations(policy, cfg, 6)
    order = torch.tensor([2, 0, 1])
    turned = obs.reshape(6, NUM_SLOTS, -1)[:, order].reshape(6, -1)
    first, second = Acting(policy, 6).act(obs.numpy()), Acting(policy, 6).act(turned.numpy())
    assert np.allclose(first[:, order.numpy()], second, atol=1e-6)
    assert first.shape == (6, NUM_SLOTS)
    assert np.all(first.sum(axis=1) < 1.0)


def test_a_book_gives_masked_slots_nothing() -> None:
    cfg = recipe(head="dirichlet")
    policy = make(cfg)
    obs = observations(policy, cfg, 6)
    allowed = np.array([[True, False, True]] * 3 + [[False, False, False]] * 3)
    parts = Acting(policy, 6).act(obs.numpy(), allowed_BC=allowed)
    assert np.array_equal(parts > 0, allowed)


def test_where_nothing_may_grow_a_slot_may_close_or_keep() -> None:
    grid = np.array([-1.0, -0.5, 0.0, 0.5, 1.0], np.float32)
    allowed = allowed_parts(grid, np.array([0.3, -0.7, 0.0, 0.3]), np.array([False, False, False, True]))
    assert allowed.tolist() == [
        [False, False, True, True, False],
        [True, True, True, False, False],
        [False, False, True, False, False],
        [True] * 5,
    ]


def test_weights_for_another_grid_than_the_recipe_says_are_refused() -> None:
    policy = build(recipe("mlp", "categorical"), forecaster(), (1.0, 2.0), NUM_OWN, 1, 0)
    weights = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    sent = pickle.loads(pickle.dumps(policy))  # as workers get it
    sent.load_state_dict(weights)
    with pytest.raises(ArtifactError, match=r"policy.grid_G: expected \[-1.0, .*found \[-50.0"):
        sent.load_state_dict({**weights, "grid_G": 50.0 * weights["grid_G"]})


def test_windows_that_an_observation_cannot_number_are_refused() -> None:
    rows = WindowRows(forecaster(), (1.0, 2.0), with_heads=False)
    places = np.zeros((1 << 24) + 1, dtype=np.int64)
    with pytest.raises(ContractError, match="at most 16777216 windows, found 16777217"):
        rows.attach(gather, places, places)


@pytest.mark.parametrize("plain", [True, False])
def test_a_column_that_stood_still_in_training_is_never_heard(plain: bool) -> None:
    cfg = PLAIN if plain else recipe("mlp", "categorical")
    policy = build(cfg, forecaster(), (1.0, 2.0), NUM_OWN, 1, 0)
    rows = torch.randn(50, num_market_columns(forecaster()), generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 0.3
    policy.fit_rows(rows)
    later = policy.scale_rows(torch.full((1, rows.shape[1]), 0.9))
    assert abs(later[0, 1]) < 1e-20
    assert (later[0, 2:].abs() > 0.01).any()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="with 0 among them"):
        replace(PLAIN, grid=(-1.0, 1.0))
    with pytest.raises(ConfigError, match="fresh weights know nothing"):
        BackboneConfig(source="none", tuning="frozen", depth_decay=0.5)
    policy = build(recipe("backbone"), forecaster(), (1.0, 2.0), NUM_OWN, 1, 0)
    with pytest.raises(ContractError, match="no windows are attached"):
        policy.remember(torch.zeros(1, 6), torch.zeros(1, policy.num_state))
