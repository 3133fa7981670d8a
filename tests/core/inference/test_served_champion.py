"""The champion behind the door: what the signed decision names, deciding as in its backtest, swapped and rolled back while it serves."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from plusultra_core.artifacts import Artifact, canonical_json, open_artifact, publish, sha256_bytes
from plusultra_core.config import load
from plusultra_core.errors import ArtifactError, ContractError
from plusultra_core.evaluation.registry.chain import DECISIONS, append, make_key, roll_back
from plusultra_core.evaluation.registry.champions import find_champion
from plusultra_core.evaluation.registry.records import Decision
from plusultra_core.guardrails.limits import STATES
from plusultra_core.inference.decide import PolicyDesk
from plusultra_core.inference.portfolios.rules import mean_variance
from plusultra_core.inference.strategies import by_policy
from plusultra_core.models.bundle import Bundle, load_bundle, save_bundle
from plusultra_core.service.__main__ import main
from plusultra_core.service.app import ServiceConfig, create_app
from plusultra_core.service.auth import KeysConfig
from plusultra_core.service.auth import make_key as make_api_key
from plusultra_core.service.champions.publish import Follower, publish_champion
from plusultra_core.service.desk import open_desk
from plusultra_core.service.journal import open_journal
from plusultra_core.service.state import Books, Held, ServiceState, Slot, publish_served
from plusultra_core.simulation.engine import open_account
from plusultra_core.simulation.records import empty_step
from plusultra_core.simulation.sizing import working_weights
from plusultra_core.windows.panel import Panel, publish_panel


class Home:
    """A registry and its artifacts where the house keeps them."""

    def __init__(self, base: Path, chain: Any) -> None:
        self.base, self.chain = base, chain
        self.registry, self.artifacts, self.store = base / "registry", base / "artifacts", base / "served"
        self.key = make_key(self.registry)

    def promote(self, strategy: str, name: str, promoted: bool = True, panel: Panel | None = None, policy: Path | None = None) -> str:
        """Artifacts of a partition and the decision about them; the signature comes back."""
        windows = publish_panel(panel or self.chain.panel, self.artifacts / "windows", name, {"partition": f"equity|{name}"})
        parts = {"windows": windows, "supervised": self._copy("supervised_checkpoint", self.chain.paths["supervised"])}
        parts["policy"] = self._copy("policy_checkpoint", policy or self.chain.paths["policy"])
        config = {k: v for k, v in self.chain.settings().items() if k != "rl"}
        manifest = {"config": config, "lineage": {part: artifact.sha256 for part, artifact in parts.items()}}
        trace = publish(self.artifacts / "simulator_trace", name, lambda folder: write(folder / "trace.json", {"name": name}), manifest)
        card = {
            "asset_class": "equity",
            "snapshot": name,
            "span": {"end": f"2020-01-{len(list(self.artifacts.glob('scorecard/*'))) + 1:02d}"},
        }
        card["lineage"] = {"input.simulator_trace": trace.sha256[:16]}
        publish(self.artifacts / "scorecard", name, lambda folder: write(folder / "scorecard.json", card), {})
        evidence = {"challenger_sha256": sha256_bytes(canonical_json(card)), "champion_sha256": "none"}
        reason = "promoted: every condition of the rule holds" if promoted else "not promoted: PSR against 0"
        record = append(self.registry / "equity", self.key, Decision(promoted, strategy, None, reason, (), evidence))
        return str(record["signature"])

    def publish(self) -> Artifact:
        return publish_champion(self.registry, self.artifacts, "equity", self.store)

    def _copy(self, asset: str, source: Path) -> Artifact:
        """The artifact under its own key, as a store of the house holds it."""
        target = self.artifacts / asset / source.name
        if not target.exists():
            shutil.copytree(source, target)
        return open_artifact(target)


def write(path: Path, content: object) -> None:
    path.write_bytes(canonical_json(content))


def truncate(panel: Panel, num_times: int) -> Panel:
    """The panel as it was when its newest bar was `num_times - 1`."""
    cut = {field.name: getattr(panel, field.name)[:, :num_times] for field in fields(Panel) if "_NT" in field.name}
    return replace(panel, ts_ns_T=panel.ts_ns_T[:num_times], **cut)


def loud(bundle: Bundle) -> Bundle:
    """The policy with last layers that ask for something: what a short training keeps may be the one that never trades."""
    made = torch.Generator().manual_seed(3)
    tensors = {**bundle.tensors, "policy.actor.4.weight": torch.randn(bundle.tensors["policy.actor.4.weight"].shape, generator=made)}
    return replace(bundle, tensors=tensors)


@pytest.fixture
def at(tmp_path: Path, chain: Any) -> Home:
    return Home(tmp_path, chain)


@pytest.fixture
def policy(tmp_path: Path, chain: Any) -> Path:
    """A policy artifact that trades."""
    bundle = loud(load_bundle(chain.paths["policy"]))
    return publish(tmp_path / "made", "loud", lambda folder: save_bundle(folder, bundle), {"lineage": {}}).path


@pytest.mark.parametrize("strategy", ["sized_hybrid", "sized_linear", "mean_variance", "policy"])
def test_whichever_strategy_won_is_served_with_its_decision(at: Home, strategy: str) -> None:
    signature = at.promote(strategy, "first")
    served = open_desk((artifact := at.publish()).path, artifact)
    assert served.lineage["strategy"] == strategy
    assert served.lineage["decision"] == signature
    assert served.lineage["windows_of"] == "equity|first"
    assert served.whole_account == (strategy == "policy")
    assert (artifact.path / "policy").exists() == (strategy == "policy")
    assert at.publish().path == artifact.path


def test_a_served_policy_decides_as_it_did_in_the_backtest(at: Home, policy: Path, chain: Any) -> None:
    """The account of a bar of the backtest, told to the desk that knows nothing later, gets that bar's target."""
    panel, setting = chain.panel, chain.setting()
    start, end = panel.folds[-1].test
    desk = PolicyDesk(load_bundle(policy), panel, (start, end))
    decide = by_policy(desk, start)
    t = start + 9
    account, last, step = follow(setting, panel, decide, start, t)
    assert np.nanmax(np.abs(step.target)) > 0.01
    assert np.abs(account.weight_EA).max() > 0.01

    at.promote("policy", "first", panel=truncate(panel, t + 1), policy=policy)
    artifact = at.publish()
    verdicts, state = open_desk(artifact.path, artifact).decide(panel.symbols, *told(account, last, panel, t - start))
    expected = [float(value) for value in step.target[0]]
    assert [np.nan if verdicts[name].target is None else verdicts[name].target for name in panel.symbols] == pytest.approx(
        expected, nan_ok=True, rel=1e-4, abs=1e-7
    )
    assert state == STATES[int(account.guard_E[0])]


def test_a_served_mean_variance_decides_as_it_did_in_the_backtest(at: Home, chain: Any) -> None:
    from plusultra_core.inference.predict import predict

    panel, setting = chain.panel, chain.setting()
    start = panel.folds[-1].test[0]
    t, inference = start + 9, at_inference(chain)
    fold = panel.folds[-1].index
    bundle = load_bundle(chain.paths["supervised"] / f"fold_{fold}" / "hybrid")
    n_B, t_B = np.nonzero(panel.anchor_NT[:, start : t + 1])
    quantiles = np.full((t + 1 - start, len(panel.symbols), 7), np.nan)
    quantiles[t_B, n_B] = predict(bundle, panel, n_B, t_B + start).quantiles_BKQ[:, inference.sizing.horizon_index]
    horizon = panel.horizons[inference.sizing.horizon_index]
    decide = mean_variance(quantiles, start, horizon, setting.market, setting.guard, inference.mean_variance)
    account, last, step = follow(setting, panel, decide, start, t)
    at.promote("mean_variance", "first", panel=truncate(panel, t + 1))
    artifact = at.publish()
    verdicts, _ = open_desk(artifact.path, artifact).decide(panel.symbols, *told(account, last, panel, t - start))
    found = [np.nan if verdicts[name].target is None else verdicts[name].target for name in panel.symbols]
    assert found == pytest.approx([float(value) for value in step.target[0]], nan_ok=True, rel=1e-4, abs=1e-6)


def at_inference(chain: Any) -> Any:
    from plusultra_core import config
    from plusultra_core.inference.trace import InferenceConfig

    return config.parse(InferenceConfig, chain.settings()["inference"], "inference")


def follow(setting: Any, panel: Panel, decide: Any, start: int, t: int) -> tuple[Any, Any, Any]:
    """The account at the close of bar t, what its last step did, and the step that it decides then."""
    env = open_account(setting.market, start, panel.bar_ns, setting.simulation, setting.costs, setting.guard)
    last = empty_step(env.accounts.asset_EA.shape)
    for bar in range(start, t):
        step = empty_step(env.accounts.asset_EA.shape)
        env.step(decide(bar, env, last), step)
        last = step
    before = type(env.accounts)(*(np.array(column) for column in env.accounts))
    step = empty_step(env.accounts.asset_EA.shape)
    env.step(decide(t, env, last), step)
    return before, last, step


def told(account: Any, last: Any, panel: Panel, age_bars: int) -> tuple[dict[str, Held], Books]:
    """The account as a request would say it."""
    equity = float(account.equity_E[0])
    working, fill = working_weights(account)[0], last.fill[0] * account.mark_EA[0] / equity
    slots = {
        name: Slot(float(account.pnl_EA[0, a]), float(account.pnl_peak_EA[0, a]), float(working[a]), float(fill[a]))
        for a, name in enumerate(panel.symbols)
    }
    held = {name: Held(float(account.weight_EA[0, a]), True) for a, name in enumerate(panel.symbols)}
    books = Books(equity, float(account.peak_E[0]), STATES[int(account.guard_E[0])], float(account.capital_E[0]), age_bars, slots)
    return held, books


def test_without_a_standing_promotion_nothing_is_published_and_the_sentence_says_why(at: Home) -> None:
    with pytest.raises(ContractError, match="equity: no champion in 0 signed decisions"):
        at.publish()
    at.promote("policy", "first", promoted=False)
    with pytest.raises(ContractError, match="no champion in 1 signed decisions, the last: not promoted: PSR against 0"):
        at.publish()
    (at.base / "elsewhere" / "equity").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="no signing key"):
        find_champion(at.base / "elsewhere", at.artifacts, "equity")
    with pytest.raises(ArtifactError, match="expected the name of an asset class"):
        find_champion(at.registry, at.artifacts, "../registry")


def test_an_edited_decision_scorecard_trace_or_model_is_refused(at: Home) -> None:
    at.promote("sized_hybrid", "first")
    chain = at.registry / "equity" / DECISIONS
    whole = chain.read_bytes()
    chain.write_bytes(whole.replace(b"sized_hybrid", b"sized_linear"))
    with pytest.raises(ArtifactError, match="line 1: promotion record: the signature does not fit"):
        at.publish()
    chain.write_bytes(whole)
    for path, words in (
        (at.artifacts / "scorecard" / "first" / "scorecard.json", "no scorecard with the signed sha256"),
        (at.artifacts / "simulator_trace" / "first" / "trace.json", "expected .* found"),
        (at.artifacts / "simulator_trace" / "first" / "manifest.json", "no artifact with sha256"),
        (next(at.artifacts.glob("supervised_checkpoint/*/fold_0/hybrid/bundle.json")), "expected .* found"),
    ):
        before = path.read_bytes()
        path.write_bytes(before.replace(b"first", b"worse") if b"first" in before else before + b" ")
        with pytest.raises(ArtifactError, match=words):
            at.publish()
        path.write_bytes(before)
    assert at.publish().path.is_dir()


def test_a_directory_that_was_put_in_the_store_is_not_served_for_the_signed_one(at: Home) -> None:
    """Whoever may write to the store makes a whole artifact of another model under the name that the champion gets."""
    at.promote("sized_hybrid", "first")
    genuine = at.publish()
    other = next(at.artifacts.glob("supervised_checkpoint/*/fold_0/linear"))
    for change in ({}, {"strategy": "sized_linear"}):
        shutil.rmtree(genuine.path)
        facts = {name: genuine.manifest[name] for name in ("settings", "lineage", "strategy")} | change
        bundle = next(at.artifacts.glob("supervised_checkpoint/*/fold_0/hybrid")) if change else other
        publish_served(bundle, at.artifacts / "windows" / "first", at.store, genuine.path.name, facts)
        with pytest.raises(
            ArtifactError, match="other settings, lineage or strategy" if change else "not the file that the decision rests on"
        ):
            at.publish()


def test_a_baseline_is_not_served(at: Home) -> None:
    at.promote("buy_and_hold", "first")
    with pytest.raises(ArtifactError, match="found 'buy_and_hold'; a baseline is not served"):
        at.publish()


def test_the_newest_bars_that_a_decision_rests_on_are_served_whoever_is_champion(at: Home, chain: Any) -> None:
    at.promote("sized_hybrid", "first", panel=truncate(chain.panel, 150))
    at.promote("sized_hybrid", "second", promoted=False)
    champion = find_champion(at.registry, at.artifacts, "equity")
    assert champion.scorecard.path.name == "first"
    assert champion.windows.path.name == "second"
    shutil.rmtree(at.artifacts / "windows" / "second")
    assert find_champion(at.registry, at.artifacts, "equity").windows.path.name == "first"


def test_a_rollback_is_a_signed_decision_and_leads_one_champion_back(at: Home, capsys: pytest.CaptureFixture[str]) -> None:
    first = at.promote("sized_hybrid", "first")
    rollback = ["rollback", "--champion", "equity", "--registry", str(at.registry), "--by", "ana", "--reason", "loses money"]
    assert main(rollback) == 1
    assert "equity: no champion to go back to (1 promotions stand)" in capsys.readouterr().err
    at.promote("sized_linear", "second")
    assert find_champion(at.registry, at.artifacts, "equity").strategy == "sized_linear"
    assert main(rollback) == 0
    assert capsys.readouterr().out == f"champion of equity: sized_hybrid again, decision {first[:16]}\n"
    assert find_champion(at.registry, at.artifacts, "equity").decision == first
    record = json.loads((at.registry / "equity" / DECISIONS).read_text().splitlines()[-1])
    assert record["decision"]["reason"] == "rolled back by ana: loses money"
    with pytest.raises(ContractError, match="rollback --by: expected 1-500 printable"):
        roll_back(at.registry / "equity", at.key, "equity", " ", "x")


def test_a_policy_that_remembers_is_refused_with_what_to_do(at: Home, chain: Any) -> None:
    settings = chain.settings()
    settings["rl"]["policy"] |= {"memory": {"kind": "gru", "bars": 3, "width": 4}, "norm_obs": "running"}
    at.promote("policy", "first", policy=chain.run("policy", place="remembers", settings=settings).path)
    with pytest.raises(ArtifactError, match="it remembers bars that a request does not tell; train one with memory kind none"):
        at.publish()


class Door:
    """A client of the real app, behind which a follower of the registry stands."""

    def __init__(self, at: Home, cfg: ServiceConfig, now: Callable[[], int]) -> None:
        text, key = make_api_key("desk", ("predict",))
        self.state = ServiceState(open_desk)
        self.follower = Follower(at.registry, at.artifacts, "equity", at.store)
        app = create_app(self.state, cfg, KeysConfig(keys=(key,)), open_journal(at.base / "journal.sqlite"), now)
        self.app, self.headers = app, {"Authorization": f"Bearer {text}"}

    def ask(self, **account: Any) -> Any:
        return self.send("POST", "/v1/forecast", json={"symbols": ["S00"], "account": account or None})

    def send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        async def knock() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://door") as client:
                return await client.request(method, path, headers=self.headers, **rest)

        return asyncio.run(knock())


@pytest.fixture
def door(at: Home, root: Path, chain: Any) -> Door:
    return Door(at, load(ServiceConfig, root / "configs/smoke/service.yaml"), lambda: int(chain.panel.ts_ns_T[-1]))


def test_the_champion_changes_under_load_and_no_request_is_lost_or_mixed(at: Home, door: Door) -> None:
    import threading

    assert door.follower.look(door.state) is False
    assert door.send("GET", "/v1/ready").json() == {"ready": False, "why": "there is no champion"}
    assert "no champion" in door.state.refusal
    strategies, turns = ("sized_hybrid", "sized_linear", "mean_variance"), threading.Event()
    names = {at.promote(strategies[0], "0"): strategies[0]}
    assert door.follower.look(door.state) is True
    assert door.follower.look(door.state) is None
    answers: list[tuple[int, str, str]] = []

    def load() -> None:
        while not turns.is_set():
            answer = door.ask()
            answers.append((answer.status_code, *(answer.json()["lineage"][name] for name in ("decision", "strategy"))))

    asking = threading.Thread(target=load, daemon=True)
    asking.start()
    try:
        for turn in range(1, 5):
            names[at.promote(strategies[turn % 3], str(turn))] = strategies[turn % 3]
            assert door.follower.look(door.state) is True, door.state.refusal
        roll_back(at.registry / "equity", at.key, "equity", "ana", "loses")
        assert door.follower.look(door.state) is True
    finally:
        turns.set()
        asking.join()
    back = door.ask().json()["lineage"]
    assert len(answers) > 5
    assert {status for status, _, _ in answers} == {200}
    assert all(names[decision] == strategy for _, decision, strategy in answers)
    assert len({decision for _, decision, _ in answers}) > 1
    assert back["decision"] == list(names)[-2]


def test_a_decision_that_does_not_verify_keeps_the_old_champion_and_says_why(at: Home, door: Door) -> None:
    first = at.promote("sized_hybrid", "first")
    assert door.follower.look(door.state) is True
    at.promote("sized_linear", "second")
    chain = at.registry / "equity" / DECISIONS
    chain.write_bytes(chain.read_bytes().replace(b"sized_linear", b"sized_hybrid"))
    assert door.follower.look(door.state) is False
    assert "line 2: promotion record: the signature does not fit" in door.state.refusal
    assert door.ask().json()["lineage"]["decision"] == first
    assert door.send("GET", "/v1/ready").json() == {
        "ready": True,
        "refused": "what is named is not there, is not what was signed, or does not fit",
    }


def test_a_policy_is_told_its_whole_account_or_says_what_is_missing(at: Home, door: Door, policy: Path, chain: Any) -> None:
    at.promote("policy", "first", policy=policy)
    assert door.follower.look(door.state) is True, door.state.refusal
    said = {"equity_ccy": 1e6, "peak_ccy": 1e6, "state": "active", "weights": {"S00": 0.0}}
    answer = door.ask(**said)
    assert answer.status_code == 422
    assert answer.json() == {"error": "account_incomplete", "where": ["account.capital_ccy", "account.age_bars", "account.slots"]}
    slot = {"pnl_ccy": 0.0, "pnl_peak_ccy": 0.0, "working_weight": 0.0, "last_fill_weight": 0.0}
    whole = {**said, "capital_ccy": 1e6, "age_bars": 0, "slots": {"S00": slot}}
    assert door.ask(**{**whole, "slots": {"S01": slot}}).json()["where"] == ["account.slots"]
    row = door.ask(**whole).json()["predictions"][0]
    assert row["proposed_weight"] is not None
    limit = chain.settings()["guardrails"]["max_weight"]
    assert abs(row["target_weight"]) <= min(limit, abs(row["proposed_weight"])) + 1e-12
    without = door.ask().json()["predictions"][0]
    assert (without["proposed_weight"], without["target_weight"]) == (None, None)


def test_the_door_needs_no_orchestrator_no_tracker_and_no_statistics(root: Path) -> None:
    import subprocess
    import sys

    code = "import sys; import plusultra_core.service.__main__, plusultra_core.service.champions.publish\n"
    code += "print(sorted({'dagster', 'mlflow', 'lightning', 'arch', 'pandas', 'statsmodels', 'polars'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
