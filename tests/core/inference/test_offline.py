"""What a ledger says of an account is what the account saw, and a policy is learned from it without the locked window."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plusultra_core import config
from plusultra_core.errors import ArtifactError, ConfigError, JobError
from plusultra_core.inference.decide import PolicyDesk
from plusultra_core.inference.ledgers import ledger_tables, write_ledger
from plusultra_core.inference.strategies import Setting
from plusultra_core.models.bundle import load_bundle
from plusultra_core.rl.jobs import slot_limit
from plusultra_core.rl.offline.tasks import LedgersConfig
from plusultra_core.rl.offline.transitions import SlotTerms, own_states, read_history, transitions_of
from plusultra_core.rl.reward import RewardConfig
from plusultra_core.simulation.engine import open_account
from plusultra_core.simulation.ledger import Recorder
from plusultra_core.simulation.observation import OWN_STATE, write_own_state
from plusultra_core.simulation.records import empty_step

ROOT = Path(__file__).resolve().parents[3]
REWARD = RewardConfig(scale=100.0, variance_coef=2.0, drawdown_coef=0.1, sharpe_coef=0.0, sharpe_decay=0.01)
SPAN = (60, 120)


def played(setting: Setting, span: tuple[int, int], terms: SlotTerms) -> tuple[Any, np.ndarray]:
    """A ledger of random requests, and the own state of every slot at each decision."""
    env = open_account(setting.market, span[0], setting.bar_ns, setting.simulation, setting.costs, setting.guard)
    recorder = Recorder(env.market, env.accounts, span[1] - 1 - span[0])
    last, rng, seen = empty_step(env.accounts.asset_EA.shape), np.random.default_rng(3), []
    start = np.array([span[0]])
    for _ in range(span[0], span[1] - 1):
        own = np.zeros((1, env.accounts.asset_EA.shape[1], len(OWN_STATE)))
        write_own_state(env.accounts, last, terms.limit, start, terms.episode_bars, own)
        seen.append(own[0])
        request = rng.normal(0, 0.2, env.accounts.asset_EA.shape)
        request[rng.random(request.shape) < 0.4] = np.nan
        last = recorder.next_step()
        env.step(request, last)
        recorder.close_step()
    return recorder.ledger(), np.stack(seen)


@pytest.fixture(scope="module")
def told(chain: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, SlotTerms]:
    """A written ledger, what its account saw, and the terms of a slot."""
    setting = chain.setting()
    terms = SlotTerms(
        limit=slot_limit(setting.guard, len(chain.panel.symbols)), capital_ccy=setting.simulation.initial_capital_ccy, episode_bars=20,
        reward=REWARD,
    )  # fmt: skip
    ledger, seen = played(setting, SPAN, terms)
    folder = tmp_path_factory.mktemp("ledger")
    write_ledger(folder, ledger_tables({"random": ledger}, chain.panel, setting))
    return folder, seen, terms


def test_own_states_out_of_a_ledger_are_those_the_account_saw(chain: Any, told: Any) -> None:
    folder, seen, terms = told
    found = own_states(read_history(folder, "random", chain.panel.symbols, chain.panel.ts_ns_T), terms)
    assert found.shape == seen.shape
    for place, name in enumerate(OWN_STATE):
        assert np.allclose(found[:, :, place], seen[:, :, place], atol=1e-9), name


def test_transitions_follow_each_other_and_pay_what_the_slot_earned(chain: Any, told: Any) -> None:
    folder, _, terms = told
    history = read_history(folder, "random", chain.panel.symbols, chain.panel.ts_ns_T)
    num_times, num_assets = len(chain.panel.ts_ns_T), len(chain.panel.symbols)
    table, present = np.zeros((num_times, num_assets, 2), np.float32), np.ones((num_times, num_assets), np.bool_)
    table[..., 0] = np.arange(num_times)[:, None]
    present[80, 1] = False
    span = (65, 110)
    data = transitions_of(history, terms, table, present, span)
    assert data.obs_BP[:, 0].min() == span[0]
    assert data.next_BP[:, 0].max() == span[1] - 1
    assert np.array_equal(data.next_BP[:, 0], data.obs_BP[:, 0] + 1)
    within = np.flatnonzero(np.diff(data.trajectory_B) == 0)
    assert np.array_equal(data.obs_BP[within + 1], data.next_BP[within])
    assert int(data.trajectory_B[-1]) + 1 == num_assets + 1, "where a forecast is missing a trajectory ends"
    step, slot = 70 - SPAN[0], 2
    row = np.flatnonzero((data.obs_BP[:, 0] == 70) & (data.trajectory_B == 3))[0]
    ret = np.log1p(history.pnl[: step + 1, slot] / (terms.limit * history.equity[: step + 1]))
    worth = np.exp(np.concatenate(([0.0], np.cumsum(ret))))
    fall = max(worth[-2] / worth[:-1].max() - worth[-1] / worth.max(), 0.0)
    assert data.reward_B[row] == pytest.approx(100.0 * (ret[-1] - ret[-1] ** 2 - 0.1 * fall), rel=1e-4, abs=1e-6)


def test_what_a_slot_loses_is_never_paid_for_and_counts_as_a_part_of_what_it_may_hold(chain: Any, told: Any) -> None:
    folder, _, terms = told
    history = read_history(folder, "random", chain.panel.symbols, chain.panel.ts_ns_T)
    money = terms.limit * history.equity
    lost = history._replace(pnl=np.repeat(-0.2 * money[:, None], history.pnl.shape[1], axis=1))
    shape = (len(chain.panel.ts_ns_T), len(chain.panel.symbols))
    data = transitions_of(lost, terms, np.zeros((*shape, 1), np.float32), np.ones(shape, np.bool_), SPAN)
    ret = np.log(0.8)
    floor = 100.0 * (ret - ret**2)
    assert data.reward_B == pytest.approx(floor, abs=2.0 + 1e-3)
    assert (data.reward_B <= floor + 1e-3).all()


def test_a_span_without_steps_and_a_strategy_without_a_ledger_are_refused(chain: Any, told: Any) -> None:
    folder, _, terms = told
    history = read_history(folder, "random", chain.panel.symbols, chain.panel.ts_ns_T)
    shape = (len(chain.panel.ts_ns_T), len(chain.panel.symbols))
    with pytest.raises(ArtifactError, match="trace a longer walk-forward"):
        transitions_of(history, terms, np.zeros((*shape, 1), np.float32), np.zeros(shape, np.bool_), (65, 110))
    with pytest.raises(ArtifactError, match="no ledger of strategy 'other'"):
        read_history(folder, "other", chain.panel.symbols, chain.panel.ts_ns_T)


@pytest.fixture(scope="module")
def settings(chain: Any) -> dict[str, Any]:
    own = config.to_dict(config.load(LedgersConfig, ROOT / "configs" / "smoke" / "offline.yaml"))
    return {**chain.settings(), "offline": own}


def test_the_job_publishes_a_policy_learned_before_the_locked_window(chain: Any, settings: dict[str, Any]) -> None:
    trace = chain.run("trace", place="of_offline")
    made = chain.run("offline", settings=settings, trace=trace.path)
    bundle = load_bundle(made.path)
    assert bundle.kind == "policy"
    assert {"trace", "windows", "supervised"} <= set(bundle.lineage)
    again = chain.run("offline", place="again", settings=settings, trace=trace.path)
    assert again.sha256 == made.sha256
    desk = PolicyDesk(bundle, chain.panel, chain.panel.folds[-1].test)
    assert desk.limit == pytest.approx(bundle.config["limit"])


def test_what_lies_in_the_locked_window_teaches_nothing(chain: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from plusultra_core import artifacts

    trace = chain.run("trace", place="of_offline")
    locked_ns = int(chain.panel.ts_ns_T[chain.panel.folds[-1].test[0]])

    def fill(directory: Path) -> None:
        shutil.copytree(trace.path, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        table = pq.read_table(directory / "positions.parquet")
        late = pc.greater(table["ts_ns"], locked_ns)
        for name in ("price_pnl", "weight", "target_weight"):
            column = pc.if_else(late, pa.scalar(0.123), table[name])
            table = table.set_column(table.schema.get_field_index(name), name, column)
        pq.write_table(table, directory / "positions.parquet")

    poisoned = artifacts.publish(tmp_path / "poisoned", "trace", fill, {})
    made = load_bundle(chain.run("offline", place="honest", settings=settings, trace=trace.path).path)
    other = load_bundle(chain.run("offline", place="poisoned", settings=settings, trace=poisoned.path).path)
    assert all(np.array_equal(made.tensors[name], other.tensors[name]) for name in made.tensors)


def test_a_job_without_a_trace_or_for_another_kind_of_policy_is_refused(chain: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="'trace' is missing"):
        chain.run("offline", place="none", settings=settings)
    rl = {**settings["rl"], "policy": {**settings["rl"]["policy"], "head": "categorical"}}
    with pytest.raises(ConfigError, match="squashed Gaussians"):
        chain.run("offline", place="none", settings={**settings, "rl": rl}, trace=chain.base)
