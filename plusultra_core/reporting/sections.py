"""The report as data: sections of sentences, tables and charts. HTML and Markdown both print this and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plusultra_core.reporting import charts, words
from plusultra_core.reporting.charts import Chart
from plusultra_core.reporting.tables import (
    DASH,
    Table,
    count,
    estimate,
    number,
    percent,
    plain,
    probability,
    small,
)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, in this order: text, charts, tables, notes."""

    identifier: str
    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    columns: int = 1
    """Charts side by side where there is room."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a report is made from. Findings, checks and history rows are JSON dicts as their stations write them."""

    scorecard: Mapping[str, Any]
    significance: Mapping[str, Any] | None = None
    findings: Sequence[Mapping[str, Any]] = ()
    checks: Sequence[Mapping[str, Any]] = ()
    history: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
    decision: Mapping[str, Any] | None = None
    links: tuple[tuple[str, str], ...] = ()
    """Pages beside this one: what they show, and where they lie from here."""
    revisions: Mapping[str, Any] | None = None
    """What the snapshot says otherwise than the one before: `previous`, its key or None, and `by_table`, rows by what became of them."""


def forecasts(card: Mapping[str, Any]) -> Section:
    """What the forecasts were worth and whether their probabilities can be believed."""
    scored = card["forecasts"]
    if not scored:
        return Section("forecasts", "Forecasts and calibration", text=tuple(words.forecasts(card)))
    rows: list[tuple[str, ...]] = []
    calibration: list[tuple[str, ...]] = []
    for model, horizons in scored.items():
        for horizon, f in sorted(horizons.items(), key=lambda item: int(item[0])):
            skill = [
                estimate(f[f"skill_vs_{base}"], f[f"skill_vs_{base}_ci"], lambda part: percent(part, 2)) for base in ("climatology", "ewma")
            ]
            ics = (estimate(f["ic"], f["ic_ci"], lambda part: number(part, 3)), number(f["rank_ic"], 3), number(f["icir"]))
            rows.append((plain(model), horizon, *ics, small(f["crps"]), *skill, count(f["num_rows"])))
            cover = tuple(percent(f.get(f"coverage_{level}")) for level in (50, 80, 90))
            direction = (small(f["brier"]), small(f["nll"]), small(f["ece"]))
            calibration.append((plain(model), horizon, *cover, percent(f["level_error_max"]), *direction, count(f["crossings"])))
    first = ("model", "horizon", "IC", "rank IC", "ICIR", "CRPS", "skill vs climatology", "skill vs EWMA", "rows")
    second = ("model", "horizon", "in 50 %", "in 80 %", "in 90 %", "worst level", "Brier", "NLL", "ECE", "crossings")
    horizon = min((key for horizons in scored.values() for key in horizons), key=int)
    drawn = [charts.reliability_of_levels(scored, horizon), charts.pit(scored, horizon), charts.coverage_by_regime(scored, horizon)]
    if directions := charts.direction_reliability(scored, horizon):
        drawn.append(directions)
    note = (
        "Scored on the test spans of all folds, each by the models that were fitted before it: more bars than the locked window. "
        "CRPS in units of the vol-scaled target. Skill is 1 less the ratio of CRPS to the baseline's, positive is better; "
        "both baselines are known before the test span. IC errors are Newey-West with a lag of twice the horizon."
    )
    tables = (Table("Forecast skill", first, tuple(rows), text_columns=2), Table("Calibration", second, tuple(calibration), text_columns=2))
    return Section("forecasts", "Forecasts and calibration", tuple(words.forecasts(card)), tuple(drawn), tables, (note,), columns=2)


def significance(found: Mapping[str, Any] | None) -> Section:
    """The tests against luck, or that none were run."""
    if found is None:
        return Section("significance", "Could it be luck?", text=("No tests against luck were run.",))
    rows = [
        (
            plain(name),
            probability(e["psr"]),
            probability(e["dsr"]),
            count(e["min_track_record_bars"]),
            count(e["num_bars"]),
            number(e["autocorrelation_1"]),
        )
        for name, e in found["strategies"].items()
    ]
    columns = ("strategy", "PSR", "DSR", "bars needed", "bars there", "autocorrelation")
    spa = [
        (plain(name), *(probability(values[key]) if values else DASH for key in ("lower", "consistent", "upper")))
        for name, values in found["spa"].items()
    ]
    pbo, trials = found["pbo"], found["num_trials"]
    overfit = f"The probability of backtest overfitting needs {found['pbo_min_trials']} trials on one span, which are not there."
    if pbo:
        among = f"over {count(pbo['num_splits'])} splits of {count(pbo['num_trials'])} trials"
        overfit = f"Probability of backtest overfitting: {probability(pbo['pbo'])} {among}."
    text = (
        f"The ledger holds {trials} trial{'s' if trials != 1 else ''} of this asset class; the best of so many "
        f"worthless ones would show a Sharpe of {small(found['expected_max_sharpe_per_bar'])} per bar.",
        overfit,
    )
    notes = (
        "PSR: probability that the true Sharpe is above 0. DSR: above the best that the trials would show by luck; 0.95 passes. "
        "Both take bars as independent: where autocorrelation is far from 0, trust the bootstrap intervals instead.",
    )
    tables = [Table("Sharpe against luck", columns, tuple(rows))]
    if spa:
        tables.append(
            Table("No model is better than the benchmark (SPA p-values)", ("benchmark", "lower", "consistent", "upper"), tuple(spa))
        )
    return Section("significance", "Could it be luck?", text, (), tuple(tables), notes)


def training(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    """Loss and reward of every stage by epoch."""
    drawn = tuple(chart for stage, rows in history.items() for chart in charts.history(stage, rows))
    text = () if drawn else ("No training history was handed to this report.",)
    return Section("training", "Training", text, drawn, columns=2)


def regimes(card: Mapping[str, Any]) -> Section:
    """Transition matrices and the share of each state."""
    drawn = tuple(chart for kind in card["regimes"] if (chart := charts.transitions(card, kind)) is not None)
    rows = [(kind, *(percent(share) for share in found["share"])) for kind, found in card["regimes"].items()]
    words = (" / ".join(dict.fromkeys(places)) for places in zip(*(found["states"] for found in card["regimes"].values()), strict=True))
    table = Table("Share of all bars in each state", ("regime", *words), tuple(rows))
    return Section("regimes", "Regimes", ("Bands are causal: a label never changes when later bars arrive.",), drawn, (table,), columns=3)


def quality(evidence: Evidence, max_rows: int) -> Section:
    """What the tables held, what the gate found, which checks failed."""
    data, findings, checks = evidence.scorecard["data"], evidence.findings, evidence.checks
    facts = (
        ("symbols", count(data["num_symbols"])),
        ("bars", count(data["num_bars"])),
        ("first to last", f"{data['start'][:10]} to {data['end'][:10]}"),
        ("bars missing from the grid", count(data["missing_bars"])),
        ("bars with open, high and low", percent(data["share_with_range"])),
        ("bars with volume", percent(data["share_with_volume"])),
        ("symbols that end early", count(data["symbols_ended_early"])),
    )
    tables = [Table("What was there", ("fact", "value"), facts)]
    if findings:
        rows = [
            (str(f["level"]), str(f["code"]), ".".join(str(f[key]) for key in ("table", "column") if f.get(key)), str(f["message"]))
            for f in findings
        ]
        note = f"{len(rows) - max_rows} more are in the snapshot's manifest." if len(rows) > max_rows else ""
        tables.append(
            Table("Findings of the gate", ("level", "code", "where", "message"), tuple(rows[:max_rows]), text_columns=4, note=note)
        )
    if checks:
        ordered = sorted(checks, key=lambda check: (bool(check["passed"]), str(check["name"])))
        done = [("passed" if check["passed"] else "FAILED", str(check["name"]), str(check.get("message", ""))) for check in ordered]
        tables.append(Table("Asset checks", ("result", "check", "message"), tuple(done), text_columns=3))
    failed = sum(not check["passed"] for check in checks)
    text = [f"{len(checks)} checks, {failed} failed; {len(findings)} findings of the gate."] if checks or findings else []
    said, changed = _revisions(evidence.revisions)
    return Section("data", "Data quality", (*text, *said), (), (*tables, *changed))


def _revisions(found: Mapping[str, Any] | None) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    """What the snapshot says otherwise than the one before, in words and by table."""
    if found is None:
        return (), ()
    if found["previous"] is None:
        return ("No snapshot of this universe was taken before.",), ()
    if not found["by_table"]:
        return (f"It holds the rows of the snapshot before, {found['previous']}, and no others.",), ()
    columns = ("new", "late", "revised", "gone")
    total = {name: sum(int(row[name]) for row in found["by_table"]) for name in columns}
    changed = ", ".join(f"{count(total[name])} {name}" for name in ("revised", "gone", "late") if total[name])
    tale = f"of its past {changed}" if changed else "nothing of its past was changed"
    rows = tuple((str(row["table"]), *(count(int(row[name])) for name in columns)) for row in found["by_table"])
    note = "Late: new, and before the end of what was known of the symbol. The snapshot's check of revisions names symbols and columns."
    text = f"Against the snapshot before, {found['previous']}: {count(total['new'])} new rows; {tale}."
    return (text,), (Table(f"Since the snapshot before, {found['previous']}", ("table", *columns), rows, note=note),)


def promotion(decision: Mapping[str, Any] | None) -> Section:
    """The decision on this scorecard, condition by condition."""
    if decision is None:
        return Section("promotion", "Promotion", text=("No decision has been taken on this scorecard.",))
    rows = [
        ("holds" if check["passed"] else "fails", str(check["name"]), _size(check["found"]), _size(check["required"]))
        for check in decision["checks"]
    ]
    table = Table("The rule", ("result", "condition", "found", "required"), tuple(rows), text_columns=2)
    return Section("promotion", "Promotion", (f"{plain(str(decision['strategy']))}: {decision['reason']}.",), (), (table,))


def _size(value: float | None) -> str:
    return count(value) if value is not None and abs(value) >= 10 else number(value)


def lineage(card: Mapping[str, Any]) -> Section:
    """Digests of every input."""
    rows = [("snapshot", str(card["snapshot"])), ("evaluation config", str(card["config_digest"])), ("seed", str(card["seed"]))]
    rows += [(name, str(value)) for name, value in card["lineage"].items() if name != "snapshot"]
    return Section(
        "lineage",
        "Lineage",
        ("Digests of everything that this page rests on.",),
        (),
        (Table("", ("input", "digest"), tuple(rows), text_columns=2),),
    )


def limits(card: Mapping[str, Any]) -> Section:
    """Warnings of this scorecard, and what no scorecard can say."""
    standing = (
        "Fills are simulated: spread, impact, latency and participation come from the market's config, not from this account's own fills.",
        "One locked window is one draw of history. The intervals say how much it could have differed, not what comes next.",
        "Symbols are those of the dump; names that were delisted before it was made are missing unless the dump holds them.",
    )
    return Section("limits", "Limits and warnings", tuple(card["warnings"]) or ("No warnings.",), notes=standing)
