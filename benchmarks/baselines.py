"""Every strategy over the last walk-forward folds of the real dumps, policies trained with several seeds: the table in docs/baselines.md.

    PLUSULTRA_HOME=DIR python benchmarks/baselines.py [--seeds 5] [--folds 2] [--first 2] [--write] [CLASS|SNAPSHOT ...]

It starts from a home in which `plusultra run DUMP --asset-class CLASS --profile base` has finished for the partitions that are
named (all that have forecasts unless some are). For each of the last folds it cuts windows and forecasts behind the test span of that
fold, trains the policies of all seeds by one job on what lies before that span, and runs every strategy over the span by the same
job `trace` that the graph runs. What is done already is not done again: an equal job has an equal key. Results are kept beside
the runs, in `data/baselines` of the home; `--write` makes the page from all that are there.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plusultra_core import artifacts, config
from plusultra_core.evaluation.backtests import COSTS, WALK_FORWARD, net_pnl, opening_equity
from plusultra_core.evaluation.scorecard import EvaluationConfig
from plusultra_core.evaluation.seeds.runs import POLICY, read_seed_runs
from plusultra_core.inference.strategies import random_like, run_strategy
from plusultra_core.inference.trace import InferenceConfig, open_stage, rules_of
from plusultra_core.job import Job, write_job
from plusultra_core.market import MarketConfig
from plusultra_core.rl.jobs import TEACHER
from plusultra_core.rl.train import RLConfig
from plusultra_core.windows.panel import Panel, load_panel, publish_panel, replace
from plusultra_dagster.commands.plan import reference_of
from plusultra_dagster.config import digest_of
from plusultra_dagster.partitions import Partition, partition_of
from plusultra_dagster.places import CONFIGS, Places, places, profile
from plusultra_dagster.provenance import code_version

ROOT = Path(__file__).resolve().parents[1]
FIRST_FOLD = 2
"""The policy of a fold trains between the first test span and its own: below fold 2 that is a single span. `--first` says otherwise."""


def settings(cell: Partition) -> dict[str, Any]:
    """Configs of the jobs, as the stations read them."""
    found: dict[str, Any] = {"market": config.read(CONFIGS / "markets" / f"{cell.asset_class}.yaml")}
    for station in ("rl", "inference", "simulation", "guardrails"):
        found[station] = config.read(CONFIGS / profile() / f"{station}.yaml")
    return found


def cells(at: Places, names: list[str]) -> list[Partition]:
    """The partitions that are named, or all that have forecasts."""
    if names:
        return [partition_of(name) for name in names]
    paths = sorted((at.lake / "forecasts").glob("*/*.json"))
    return [Partition(path.stem, path.parent.name) for path in paths]


def cut(panel: Panel, fold: int) -> Panel:
    """The panel as it was when the test span of a fold had passed: no later bar, no label that ends later, no later fold."""
    end = panel.folds[fold].test[1]
    unknown = panel.label_end_NTK[:, :end] >= end
    arrays = {}
    for field in dataclasses.fields(panel):
        axes, value = field.name.rpartition("_")[2], getattr(panel, field.name)
        if isinstance(value, np.ndarray) and "T" in axes:
            arrays[field.name] = np.ascontiguousarray(np.take(value, np.arange(end), axis=axes.index("T")))
    for name, none in (("y_NTK", np.nan), ("ret_NTK", np.nan), ("direction_NTK", -1), ("label_end_NTK", -1)):
        arrays[name] = np.where(unknown, none, arrays[name]).astype(arrays[name].dtype)
    return replace(panel, **arrays, folds=panel.folds[: fold + 1])


def inputs(at: Places, cell: Partition, fold: int, store: Path) -> dict[str, artifacts.Artifact]:
    """Windows and forecasts cut behind a fold, and the teacher of the policies beside them, as artifacts that belong together."""
    found = {name: reference_of(at, name, cell) for name in ("windows", "supervised_checkpoint", "forecasts")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise SystemExit(f"{cell.key}: no {missing[0]} in {at.data}; run `plusultra run DUMP --asset-class {cell.asset_class}` first")
    sources = {name: artifacts.open_artifact(path) for name, path in found.items() if path is not None}
    panel = cut(load_panel(sources["windows"].path), fold)
    key = digest_of(
        {"fold": fold, **{name: source.sha256 for name, source in sources.items()}, "code": code_version(("windows",), __file__)}
    )
    windows = publish_panel(panel, store, f"windows-{key}", {"partition": cell.key})

    def teacher(folder: Path) -> None:
        for source in sorted((sources["supervised_checkpoint"].path / TEACHER).iterdir()):
            (folder / TEACHER).mkdir(parents=True, exist_ok=True)
            (folder / TEACHER / source.name).write_bytes(source.read_bytes())

    def forecasts(folder: Path) -> None:
        table = pl.read_parquet(sources["forecasts"].path / "forecasts.parquet")
        table.filter(pl.col("ts_ns") <= int(panel.ts_ns_T[-1])).write_parquet(folder / "forecasts.parquet")

    lineage = {"lineage": {"windows": windows.sha256}}
    return {
        "windows": windows,
        "supervised": artifacts.publish(store, f"supervised-{key}", teacher, lineage),
        "forecasts": artifacts.publish(store, f"forecasts-{key}", forecasts, lineage),
    }


def spent(store: Path, key: str) -> Path:
    """Where the CPU-seconds of a job are kept: a run that goes on where another stopped tells the whole."""
    return store.parent / "cpu" / key


def child(station: str, task: str, sections: dict[str, Any], given: dict[str, artifacts.Artifact], store: Path) -> artifacts.Artifact:
    """One job in a process of its own, as the graph runs it; nothing where an equal one has been done."""
    versions = {name: artifact.sha256 for name, artifact in given.items()}
    key = f"{task}-{digest_of({'config': sections, 'inputs': versions, 'code': code_version((station,), __file__)})}"
    if not (store / key).exists():
        work = store.parent / "work" / key
        job = Job(task, key, sections, {name: artifact.path for name, artifact in given.items()}, store, work, {})
        path = work.with_suffix(".json")
        write_job(path, job)
        with work.with_suffix(".log").open("w") as log:
            command = [sys.executable, "-m", f"plusultra_core.{station}", str(path)]
            running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
            _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        if running.returncode:
            raise SystemExit(f"{key}: {work.with_suffix('.log').read_text()[-2_000:]}")
        artifacts.write_atomic(spent(store, key), f"{usage.ru_utime + usage.ru_stime:.1f}".encode())
        path.unlink()
    return artifacts.open_artifact(store / key)


def one_fold(base: dict[str, Any], given: dict[str, artifacts.Artifact], store: Path, seeds: int) -> dict[str, Any]:
    """Train the policy with every seed and run every strategy over the last test span of the windows: by seed, metrics and series.

    One job trains and one traces: a seed is to the bit what it is alone. `random` is drawn anew for each seed beside that trace.
    """
    shared = {name: base[name] for name in ("simulation", "guardrails", "market")}
    sections = {"rl": {**base["rl"], "seed": 0, "num_seeds": seeds}, **shared}
    policy = child("rl", "policy", sections, {name: given[name] for name in ("windows", "supervised")}, store)
    parts = {**{name: given[name] for name in ("windows", "forecasts")}, "policy": policy}
    sections = {"inference": {**base["inference"], "seed": 0}, **shared}
    trace = child("inference", "trace", sections, parts, store)
    cpu_s = sum(float(spent(store, artifact.path.name).read_text()) for artifact in (policy, trace))
    found = series(trace.path)
    names = {run.seed: run.strategy for run in read_seed_runs(trace.path, found)}
    others = {name: one for name, one in found.items() if not name.startswith(POLICY)}
    draws = random_draws(Job("trace", "draws", sections, {name: part.path for name, part in parts.items()}, store, store, {}), seeds)
    told = json.loads((policy.path / "metrics.json").read_text())
    return {
        "policies": [{**one, "cpu_s": cpu_s / seeds} for one in told["seeds"]],
        "series": [{**others, POLICY: found[names[seed]], "random": draws[seed]} for seed in range(seeds)],
    }


def random_draws(job: Job, seeds: int) -> list[dict[str, Any]]:
    """What the strategy `random` earns over the locked window with each seed."""
    stage = open_stage(job)
    setting, span = stage.setting, stage.locked
    own, decide = rules_of(stage, span)["sized_hybrid"]
    model = run_strategy(own, span, decide)
    present_TA = np.isfinite(stage.quantiles["hybrid"][span[0] - stage.first :, :, 0])
    shorts = setting.costs.margin.shorts
    runs = [run_strategy(setting, span, random_like(model, present_TA, span[0], seed, shorts)) for seed in range(seeds)]
    return [columns_of(pl.DataFrame(run.account())) for run in runs]


def series(trace: Path) -> dict[str, dict[str, Any]]:
    """`columns_of` every strategy on the last span of a trace."""
    account = pl.read_parquet(trace / "account.parquet").filter(~pl.col("strategy").str.ends_with(f"_{WALK_FORWARD}"))
    return {str(name): columns_of(rows) for (name,), rows in account.group_by("strategy")}


def columns_of(account: pl.DataFrame) -> dict[str, Any]:
    """Returns per bar after and before costs, turnover one way and costs of the account of one strategy."""
    moved = account.sort("ts_ns").slice(1)  # the first row states the capital
    opening, paid = opening_equity(), pl.sum_horizontal(COSTS)
    columns = {
        "ret": net_pnl() / opening,
        "gross": pl.col("price_pnl") / opening,
        "paid": paid / opening,
        "turnover": pl.col("turnover") / 2,
    }
    rows = moved.select("ts_ns", **columns)
    return {column: rows[column].to_list() for column in ("ts_ns", *columns)}


def measure(at: Places, cell: Partition, seeds: int, folds: int, first: int) -> dict[str, Any]:
    """All runs of a partition: by fold and seed what each strategy earned, and what became of each policy."""
    store, base = at.data / "baselines" / str(cell.asset_class), settings(cell)
    config.parse(RLConfig, base["rl"], "rl"), config.parse(InferenceConfig, base["inference"], "inference")
    path = reference_of(at, "windows", cell)
    if path is None:
        raise SystemExit(f"{cell.key}: no windows in {at.data}; run the dump first")
    panel = load_panel(path)
    chosen = list(range(len(panel.folds)))[first:][-folds:]
    if not chosen:
        raise SystemExit(f"{cell.key}: {len(panel.folds)} folds, expected more than {first}; give windows.yaml more folds")
    result: dict[str, Any] = {"partition": cell.key, "num_symbols": len(panel.symbols), "folds": []}
    market = config.parse(MarketConfig, base["market"], "market")
    result |= {"bar": market.bar, "periods_per_year": market.periods_per_year, "profile": profile(), "seeds": seeds}
    for fold in chosen:
        given = inputs(at, cell, fold, store)
        runs = one_fold(base, given, store, seeds)
        span = panel.folds[fold].test
        times = [int(panel.ts_ns_T[span[0]]), int(panel.ts_ns_T[span[1] - 1])]
        result["folds"].append({"fold": fold, "span": times, **runs})
        cpu_s = sum(one["cpu_s"] for one in runs["policies"])
        print(f"{cell.key} fold {fold}: {seeds} policies and their trace, {cpu_s:.0f} CPU-s", flush=True)
    return result


def main() -> None:
    """Run what is asked, keep the results, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("partitions", nargs="*", help="CLASS|SNAPSHOT")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--first", type=int, default=FIRST_FOLD)
    parser.add_argument("--write", action="store_true")
    asked, at = parser.parse_args(), places()
    for cell in cells(at, asked.partitions):
        found = measure(at, cell, asked.seeds, asked.folds, asked.first)
        artifacts.write_atomic(at.data / "baselines" / f"{cell.asset_class}@{cell.snapshot}.json", artifacts.canonical_json(found))
    if asked.write:
        from baselines_page import write_page

        cfg = config.load(EvaluationConfig, CONFIGS / profile() / "evaluation.yaml")
        found = [json.loads(path.read_text()) for path in sorted((at.data / "baselines").glob("*.json"))]
        write_page(ROOT / "docs" / "baselines.md", found, cfg)


if __name__ == "__main__":
    main()
