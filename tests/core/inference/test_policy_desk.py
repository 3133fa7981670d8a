"""Policies of every recipe at the desk: what is decided in a backtest is what the environment of PPO would do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.inference.decide import PolicyDesk, load_policy
from plusultra_core.inference.strategies import by_policy, run_strategy
from plusultra_core.models.bundle import Bundle, load_bundle, save_bundle
from plusultra_core.models.policies.acting import Acting
from plusultra_core.rl.env import TradingEnv, World, sleeve
from plusultra_core.rl.episodes.book import BookEnv
from plusultra_core.simulation.engine import Environment
from plusultra_core.simulation.records import empty_step

RECIPES = [
    {"head": "categorical"},
    {"memory": {"kind": "gru", "bars": 3, "width": 4}, "norm_obs": "running"},
    {"memory": {"kind": "window", "bars": 3, "width": 4}},
    {"kind": "backbone"},
    {"kind": "backbone", "head": "dirichlet", "memory": {"kind": "gru", "bars": 3, "width": 4}},
    {"head": "dirichlet"},
]
NUM_STEPS = 8


def trained(chain: Any, recipe: dict[str, Any]) -> Bundle:
    """A bundle of the recipe whose last layers are loud: what a short training keeps may be the policy that never trades."""
    settings = chain.settings()
    settings["rl"]["policy"] |= recipe
    settings["rl"]["band"] = 0.0
    name = f"desk-{RECIPES.index(recipe)}"
    bundle = load_bundle(chain.run("policy", place=name, settings=settings).path)
    made = torch.Generator().manual_seed(3)
    loud = {"policy.actor.4.weight", "policy.score.weight", "policy.cash.weight"} & set(bundle.tensors)
    loud -= {"policy.actor.4.weight"} if "policy.score.weight" in loud else set()
    silent = {"policy.score.bias", "policy.cash.bias", "policy.actor.4.bias"} & set(bundle.tensors)
    tensors = {**bundle.tensors, **{k: torch.randn(bundle.tensors[k].shape, generator=made) for k in sorted(loud)}}
    return replace(bundle, tensors={**tensors, **{k: torch.zeros_like(tensors[k]) for k in silent}})


def world_of(desk: PolicyDesk, chain: Any, span: tuple[int, int], is_book: bool) -> World:
    """What the desk sees, as the environment of training would hold it."""
    setting = chain.setting()
    shape = setting.market.tradable.shape
    table, present = np.zeros((*shape, desk._table_TNF.shape[2]), np.float32), np.zeros(shape, np.bool_)
    table[span[0] : span[1]], present[span[0] : span[1]] = desk._table_TNF, desk._present_TN
    own, free = (setting.simulation, setting.guard) if is_book else sleeve(setting.simulation, setting.guard, 1.0)
    return World(setting.market, chain.panel.bar_ns, table, present, own, setting.costs, free)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: "-".join(str(part) for part in recipe))
def test_a_decision_of_the_desk_is_that_of_the_environment_and_survives_the_store(
    chain: Any, recipe: dict[str, Any], tmp_path: Path
) -> None:
    bundle, panel, is_book = trained(chain, recipe), chain.panel, recipe.get("head") == "dirichlet"
    save_bundle(tmp_path / "bundle", bundle)
    span = (panel.folds[-1].test[0], panel.folds[-1].test[1])
    desk = PolicyDesk(load_bundle(tmp_path / "bundle"), panel, span)
    world, cfg = world_of(desk, chain, span, is_book), chain.rl
    start = np.array([span[0]])
    if is_book:
        training: Any = BookEnv(world, 1, None, cfg.train.episode_bars, desk.limit, 0.0, cfg.reward)
        training.start_at(start)
    else:
        desk.limit = 1.0
        training = TradingEnv(world, 1, None, cfg.train.episode_bars, 0.0, cfg.reward)
        training.start_at(np.array([2]), start)
    slots = np.arange(4)[None] if is_book else np.array([[2]])
    working = Environment(world.market, 1, slots.size, panel.bar_ns, world.simulation, world.costs, world.guard)
    working.reset(np.zeros(1, np.int64), start, slots, np.zeros(1, np.int64))
    acting, step, moved = Acting(load_policy(bundle, 4), 1), empty_step(slots.shape), 0.0
    rows = getattr(getattr(acting.policy, "body", None), "rows", None)
    if rows is not None:
        source = desk.policy.body.rows
        rows.requires_grad_(False)
        rows.attach(source._gather, source._n_R.numpy(), source._t_R.numpy())
    for _ in range(NUM_STEPS):
        training.step(acting.act(training.obs_EP, None, training.allowed() if is_book else None), None)
        step = working.step(desk.decide(working.accounts, step, start))
        assert np.array_equal(training.env.accounts.equity_E, working.accounts.equity_E)
        assert np.array_equal(training.env.accounts.position_EA, working.accounts.position_EA)
        moved += float(np.abs(step.fill).sum())
    assert moved > 0


def test_the_desk_forgets_when_an_account_starts_anew_and_refuses_one_that_is_under_way(chain: Any) -> None:
    bundle, panel = trained(chain, RECIPES[1]), chain.panel
    span = (panel.folds[-1].test[0], panel.folds[-1].test[1])
    setting = chain.setting()

    def run(desk: PolicyDesk, num: int, first: int) -> np.ndarray:
        env = Environment(setting.market, num, 4, panel.bar_ns, setting.simulation, setting.costs, setting.guard)
        rows, start = np.arange(num), np.full(num, span[0])
        env.reset(rows, start + first, np.tile(np.arange(4), (num, 1)), np.zeros(num, np.int64))
        step = empty_step((num, 4))
        for _ in range(5):
            step = env.step(desk.decide(env.accounts, step, start))
        return np.array(env.accounts.equity_E)

    desk = PolicyDesk(bundle, panel, span)
    first = run(desk, 1, 0)
    assert np.array_equal(run(desk, 1, 0), first)
    assert np.array_equal(run(desk, 3, 0), np.repeat(first, 3))
    with pytest.raises(ContractError, match="under way"):
        run(desk, 2, 1)


def test_a_categorical_asks_for_no_more_than_the_rulebook_would_let_it(chain: Any) -> None:
    """An account that may only reduce is asked for nothing beyond what it holds."""
    bundle, panel = trained(chain, RECIPES[0]), chain.panel
    span = (panel.folds[-1].test[0], panel.folds[-1].test[1])
    desk, setting = PolicyDesk(bundle, panel, span), chain.setting()
    env = Environment(setting.market, 1, 4, panel.bar_ns, setting.simulation, setting.costs, setting.guard)
    env.reset(np.zeros(1, np.int64), np.array([span[0]]), np.arange(4)[None], np.zeros(1, np.int64))
    start, step = np.array([span[0]]), empty_step((1, 4))
    free = desk.decide(env.accounts, step, start)
    assert np.nansum(np.abs(free)) > 0
    stopped = desk.decide(env.accounts._replace(guard_E=np.ones(1, np.int8)), step, start)
    assert np.nansum(np.abs(stopped)) == 0.0


def test_a_bundle_with_another_recipe_than_its_tensors_is_refused(chain: Any) -> None:
    bundle = trained(chain, RECIPES[0])
    wide = {"size": {**bundle.config["policy"]["size"], "width": 1 << 22}}
    for change, word in (
        ({"head": "gaussian"}, "tensor "),
        ({"head": "wheel"}, "expected one of"),
        ({"wheel": 1}, "unknown key"),
        (wide, "asks for"),
    ):
        broken = replace(bundle, config={**bundle.config, "policy": {**bundle.config["policy"], **change}})
        with pytest.raises(ArtifactError, match=word):
            load_policy(broken, 4)


@pytest.mark.parametrize("value", [None, 1, "true"])
def test_a_bundle_that_does_not_say_whether_it_sells_short_is_refused(chain: Any, value: object) -> None:
    bundle, panel = trained(chain, RECIPES[0]), chain.panel
    with pytest.raises(ArtifactError, match=r"config\.shorts: expected true or false"):
        PolicyDesk(replace(bundle, config={**bundle.config, "shorts": value}), panel, panel.folds[-1].test)


def test_a_policy_of_a_market_that_lends_nothing_asks_for_no_short(chain: Any) -> None:
    bundle, panel, span = trained(chain, RECIPES[0]), chain.panel, chain.panel.folds[-1].test
    told = [PolicyDesk(replace(bundle, config={**bundle.config, "shorts": value}), panel, span) for value in (True, False)]
    lent, paid = (run_strategy(chain.setting(), span, by_policy(desk, span[0])) for desk in told)
    assert np.nanmin(lent.steps.request) < 0.0
    assert np.nanmin(paid.steps.request) >= 0.0


@pytest.mark.parametrize("name", ["limit", "gross", "band", "episode_bars"])
@pytest.mark.parametrize("value", [None, "1", True, -1.0, float("nan"), float("inf"), [1.0]])
def test_a_bundle_whose_numbers_make_no_sense_is_refused(chain: Any, name: str, value: object) -> None:
    bundle, panel = trained(chain, RECIPES[0]), chain.panel
    for config in ({**bundle.config, name: value}, {k: v for k, v in bundle.config.items() if k != name}):
        with pytest.raises(ArtifactError, match=f"config.{name}"):
            PolicyDesk(replace(bundle, config=config), panel, panel.folds[-1].test)
