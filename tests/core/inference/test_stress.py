"""The stress job: the same strategies in every world, deciding where they see, and repeating themselves where they cannot."""

import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from plusultra_core.artifacts import Artifact
from plusultra_core.inference.stress import LOOPED, UNGUARDED, families, players_of, run_stress
from plusultra_core.inference.trace import Stage, open_stage, rules_of, run_locked
from plusultra_core.job import Job
from plusultra_core.simulation.worlds.specs import CALM, draw_worlds, open_past
from plusultra_core.simulation.worlds.sweep import Terms, run_scenarios
from plusultra_core.windows.panel import publish_panel, replace


class Silent:
    """Progress that nobody reads."""

    def report(self, message: str, **numbers: float) -> None:
        pass


@pytest.fixture(scope="module")
def stress(chain: Any) -> Artifact:
    return chain.run("stress")


@pytest.fixture(scope="module")
def stage(chain: Any) -> Stage:
    return open_stage(Job("stress", "x", chain.settings(), chain.paths, chain.base, chain.base, {}))


def test_there_is_a_row_for_every_world_and_strategy_and_the_calm_world_is_the_trace(stress: Artifact, stage: Stage) -> None:
    rows = pq.read_table(stress.path / "stress.parquet").to_pydict()
    ledgers = run_locked(stage)
    past = open_past(stage.setting.market, *stage.locked, stage.cfg.stress.min_assets_frac, stage.cfg.seed)
    worlds = draw_worlds(past, stage.cfg.stress, stage.setting.costs.funding)
    assert len(rows["world"]) == len(worlds) * len(ledgers)
    calm = {name: ret for name, ret, world in zip(rows["strategy"], rows["ret"], rows["world"], strict=True) if world == "calm"}
    assert calm == {name: float(ledger.equity[-1] / ledger.equity[0] - 1.0) for name, ledger in ledgers.items()}


def test_closed_loops_in_the_calm_world_are_the_strategies_themselves_bit_for_bit(stage: Stage) -> None:
    past = open_past(stage.setting.market, *stage.locked, 0.5, 7)
    players = players_of(stage)
    setting = stage.setting
    found = run_scenarios(past, (CALM, CALM), players, Terms(setting.bar_ns, setting.simulation, setting.costs), 10, 64, 1, True)
    for p, (name, ledger) in enumerate(run_locked(stage).items()):
        assert found.looped_SP[0, p] == (name in (*LOOPED, "policy"))
        assert set(found.numbers["ret"][:, p]) == {float(ledger.equity[-1] / ledger.equity[0] - 1.0)}, name
        assert np.allclose(found.numbers["fees"][:, p], ledger.account()["fees"].sum() / ledger.equity[0], rtol=1e-12)


def test_who_runs_without_limits_in_the_trace_does_so_under_stress(stage: Stage) -> None:
    rules = {name: setting.guard for name, (setting, _) in rules_of(stage, stage.locked).items()}
    players = {player.name: player for player in players_of(stage)}
    for name, guard in rules.items():
        assert players[name].guard == guard
        assert (guard != stage.setting.guard) == (name in UNGUARDED)
    assert players["policy"].guard == stage.setting.guard


def test_the_summary_says_how_each_strategy_decided_and_what_was_left_out(stress: Artifact, stage: Stage) -> None:
    summary = json.loads((stress.path / "stress.json").read_text())
    made = summary["families"]
    assert {"calm", "crash", "all_at_once", "crisis", "bootstrap"} <= set(made)
    for family, entry in made.items():
        assert entry["replaced"] == (family in ("crisis", "bootstrap") or family.endswith("_volatility"))
        for name, numbers in entry["strategies"].items():
            looped = name in (*LOOPED, "policy") and not entry["replaced"]
            assert numbers["decides"] == ("closed_loop" if looped else "calm_targets")
            assert numbers["worst"] <= numbers["q05"] <= numbers["median"] <= numbers["q95"]
            assert numbers["max_drawdown_worst"] >= numbers["max_drawdown_median"]
    assert made["crash"]["strategies"]["buy_and_hold"]["worst"] < made["calm"]["strategies"]["buy_and_hold"]["worst"] - 0.05
    assert made["crash"]["strategies"]["no_trade"]["worst"] == 0.0
    assert summary["left_out"] == []
    assert all(crisis["end_ns"] < summary["span"]["start_ns"] for crisis in summary["crises"])


def test_the_capacity_curve_goes_through_the_calm_world(stress: Artifact, stage: Stage) -> None:
    summary = json.loads((stress.path / "stress.json").read_text())
    for name, curve in summary["capacity"].items():
        capitals = [point["capital_ccy"] for point in curve]
        assert capitals == sorted({1e6, *(1e6 * factor for factor in stage.cfg.stress.capital_factors)})
        own = next(point for point in curve if point["capital_ccy"] == 1e6)
        assert own["ret"] == summary["families"]["calm"]["strategies"][name]["median"]
    bought = summary["capacity"]["buy_and_hold"]
    assert bought[-1]["cost"] > bought[0]["cost"] > 0


def test_fans_hold_the_quantiles_of_the_paths_and_end_at_the_net_return(stress: Artifact) -> None:
    fans = pq.read_table(stress.path / "fans.parquet").to_pylist()
    summary = json.loads((stress.path / "stress.json").read_text())
    for row in fans:
        assert row["worst"] <= row["q_05"] <= row["q_25"] <= row["q_50"] <= row["q_75"] <= row["q_95"]
    last = {(row["family"], row["strategy"]): row for row in fans if row["ts_ns"] == summary["span"]["end_ns"]}
    for family, entry in summary["families"].items():
        for name, numbers in entry["strategies"].items():
            assert last[family, name]["q_50"] == pytest.approx(1.0 + numbers["median"], abs=1e-6)


def test_an_asset_that_begins_in_the_span_stops_nobody_and_is_named(stress: Artifact, chain: Any, stage: Stage) -> None:
    assert json.loads((stress.path / "stress.json").read_text())["short_history"] == []
    panel, first = chain.panel, stage.locked[0] + 2
    young = {name: getattr(panel, name).copy() for name in ("open_NT", "high_NT", "low_NT", "close_NT", "tradable_NT", "anchor_NT")}
    for values in young.values():
        values[2, :first] = False if values.dtype == bool else np.nan
    windows = publish_panel(replace(panel, **young), chain.base / "young", "windows", {}).path
    job = Job("stress", "young", chain.settings(), {**chain.paths, "windows": windows}, chain.base / "young", chain.base, {})
    run_stress(job, Silent())  # below the door that compares the digests of inputs: the forecasts were made of the older panel
    summary = json.loads((chain.base / "young" / "young" / "stress.json").read_text())
    assert summary["short_history"] == [{"symbol": panel.symbols[2], "num_bars": 0, "first_ns": int(panel.ts_ns_T[first])}]
    assert summary["left_out"] == []
    assert summary["history"]["eligible"] > 50


def test_equal_jobs_give_equal_bytes_whatever_the_chunks_and_threads(stress: Artifact, chain: Any) -> None:
    settings = chain.settings()
    settings["inference"]["stress"] |= {"chunk_mib": 1, "num_threads": 3}
    assert chain.run("stress", place="again", settings=settings).manifest["files"] == stress.manifest["files"]


def test_the_capacity_worlds_are_no_family() -> None:
    assert families((CALM, CALM._replace(family="capacity"), CALM._replace(family="crash"))) == {"calm": [0], "crash": [2]}
