"""What the rows of a dump must be: rules that run inside SQLite, and rules on the keys and the history.

Each table is scanned once with every rule in one WHERE; only a table that fails is asked for details.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import polars as pl

from plusultra_core.clock import NS_PER_S, iso
from plusultra_core.data.gate.assets import check_assets
from plusultra_core.data.gate.connection import number, quote, read_columns, sqlite_finding
from plusultra_core.data.gate.findings import DumpReport, Finding, Level, ValidationConfig, describe, plain
from plusultra_core.data.gate.history import check_frequency, check_history, check_indicators, meetings
from plusultra_core.data.gate.schema import Rule, TableShape, find_tables
from plusultra_core.data.gate.timestamps import parse_times
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

MAX_NUMBER = 1e300
"""Beyond it a number is taken for infinite."""

T = TypeVar("T")


def check_numbers(db: sqlite3.Connection, shape: TableShape, cfg: ValidationConfig) -> list[Finding]:
    """Every rule on the numbers of one table; columns that are not there are left out by the caller."""
    rules = _number_rules(shape, frozenset())
    if not rules:
        return []
    table = f"{quote(shape.table)} NOT INDEXED"
    condition = " OR ".join(f"({rule.predicate})" for rule in rules)
    if not db.execute(f"SELECT EXISTS (SELECT 1 FROM {table} WHERE {condition})").fetchone()[0]:
        return []
    findings = []
    as_text = []
    for column in shape.numbers:
        found = _check_types(db, shape, column, cfg)
        findings += found
        as_text += [column] if [finding.code for finding in found] == ["numeric_text"] else []
    for rule in _number_rules(shape, frozenset(as_text)):
        finding = _run_rule(db, shape, rule, cfg)
        findings += [finding] if finding else []
    return findings


def _number_rules(shape: TableShape, as_text: frozenset[str]) -> list[Rule]:
    def value(column: str) -> str:
        return number(column) if column in as_text else f"+{quote(column)}"

    rules = list(shape.rules)
    for column in shape.numbers:
        rules.append(Rule("not_finite", "error", column, f"{value(column)} >= {MAX_NUMBER}", "a finite number"))
        if column in shape.positive:
            rules.append(Rule("not_positive", "error", column, f"{value(column)} <= 0", "> 0"))
        elif column in shape.nonnegative:
            rules.append(Rule("negative", "error", column, f"{value(column)} < 0", ">= 0"))
        else:
            rules.append(Rule("not_finite", "error", column, f"{value(column)} <= -{MAX_NUMBER}", "a finite number"))
    if shape.table == "series":
        if {"high", "low"} <= set(shape.positive):
            rules.append(Rule("high_below_low", "error", "high", f"{value('high')} < {value('low')}", "high >= low"))
        for column in ("open", "close"):
            outside = [f"{value(column)} {sign} {value(side)}" for side, sign in (("high", ">"), ("low", "<")) if side in shape.positive]
            if outside and column in shape.positive:
                rules.append(Rule("outside_range", "warning", column, " OR ".join(outside), f"low <= {column} <= high"))
    return rules


def _check_types(db: sqlite3.Connection, shape: TableShape, column: str, cfg: ValidationConfig) -> list[Finding]:
    """Text and blobs where a number belongs: refused, unless all of the text is numbers."""
    name = quote(column)
    rule = Rule("not_a_number", "error", column, f"typeof({name}) IN ('text', 'blob')", "a number")
    finding = _run_rule(db, shape, rule, cfg)
    if finding is None:
        return []
    blobs = db.execute(f"SELECT EXISTS (SELECT 1 FROM {quote(shape.table)} NOT INDEXED WHERE typeof({name}) = 'blob')").fetchone()[0]
    if not blobs:
        sql = f"SELECT DISTINCT {name} FROM {quote(shape.table)} NOT INDEXED WHERE typeof({name}) = 'text'"
        texts = read_columns(db, sql, [column])[column]
        numbers = texts.cast(pl.Float64, strict=False)
        if numbers.null_count() == 0 and numbers.is_finite().all():
            return [
                replace(
                    finding, level="warning", code="numeric_text", message=finding.message + " (the text is read as numbers)", symbols=None
                )
            ]
    return [finding]


def _run_rule(db: sqlite3.Connection, shape: TableShape, rule: Rule, cfg: ValidationConfig) -> Finding | None:
    table = f"{quote(shape.table)} NOT INDEXED"
    count = db.execute(f"SELECT count(*) FROM {table} WHERE {rule.predicate}").fetchone()[0]
    if not count:
        return None
    names = list(dict.fromkeys([*filter(None, (shape.time, shape.symbol)), *shape.keys, rule.column]))
    shown = ", ".join(quote(name) for name in names)
    sample = db.execute(f"SELECT {shown} FROM {table} WHERE {rule.predicate} LIMIT {cfg.sample_rows}").fetchall()
    rows = tuple({name: plain(value) for name, value in zip(names, row, strict=True)} for row in sample)
    symbols = None
    if shape.symbol:
        found = db.execute(f"SELECT DISTINCT {quote(shape.symbol)} FROM {table} WHERE {rule.predicate}").fetchall()
        symbols = tuple(sorted(symbol for (symbol,) in found)) if all(isinstance(symbol, str) for (symbol,) in found) else None
    remedy = "fix the dump or exclude the symbol" if rule.level == "error" else "kept as it is"
    message = describe(f"{shape.table}.{rule.column}", count, rows, rule.expected, remedy)
    return Finding(rule.level, rule.code, shape.table, rule.column, message, rows, symbols)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What the keys of every table are checked against."""

    cfg: ValidationConfig
    now_ns: int
    symbols: frozenset[str]


def check_keys(db: sqlite3.Connection, shape: TableShape, extra: Sequence[str], rules: KeyRules) -> tuple[pl.DataFrame, list[Finding]]:
    """Keys of one table as a frame (`ts_ns`, the symbol, keys, `extra`), and what is wrong with them.

    The frame is empty when the keys cannot be read at all.
    """
    names = list(dict.fromkeys([*filter(None, (shape.time, shape.symbol, shape.known_at)), *shape.keys, *extra]))
    shown = ", ".join(number(name) if name in extra else quote(name) for name in names)
    try:
        frame = read_columns(db, f"SELECT {shown} FROM {quote(shape.table)} NOT INDEXED", names)
    except (TypeError, OverflowError) as error:
        return pl.DataFrame(), [_mixed_types(db, shape, names, extra, rules.cfg, error)]
    findings = []
    for name in dict.fromkeys([*filter(None, (shape.time, shape.symbol)), *shape.keys]):
        if name == shape.known_at or (name == shape.symbol and shape.null_symbol_allowed):
            continue
        findings += _report(frame, frame[name].is_null(), shape, name, "null_key", "a value in every row", rules)
    if shape.symbol and frame[shape.symbol].dtype not in (pl.String, pl.Null):
        findings += _report(frame, frame[shape.symbol].is_not_null(), shape, shape.symbol, "bad_symbol", "text", rules)
        return pl.DataFrame(), findings
    for name in filter(None, (shape.time, shape.known_at)):
        frame, found = _check_times(frame, shape, name, rules)
        findings += found
        if "ts_ns" not in frame.columns and name == shape.time:
            return pl.DataFrame(), findings
    if shape.symbol and not shape.orphans_allowed:
        orphan = ~frame[shape.symbol].is_in(list(rules.symbols)) & frame[shape.symbol].is_not_null()
        findings += _report(frame, orphan, shape, shape.symbol, "orphan_symbol", "a symbol of assets", rules)
    keys = ["ts_ns" if name == shape.time else name for name in shape.keys]
    if keys and frame.height and frame.select(pl.struct(keys).n_unique()).item() < frame.height:
        twice = frame.select(pl.struct(keys).is_duplicated()).to_series() & frame[keys[0]].is_not_null()
        findings += _report(frame, twice, shape, shape.keys[0], "duplicate_key", f"one row for each ({', '.join(shape.keys)})", rules)
    return frame, findings


def _check_times(frame: pl.DataFrame, shape: TableShape, name: str, rules: KeyRules) -> tuple[pl.DataFrame, list[Finding]]:
    target = "ts_ns" if name == shape.time else "known_ns"
    values = frame[name]
    if values.dtype != pl.String and values.dtype != pl.Null and not values.dtype.is_integer():
        expected = "text or integer epoch"
        return frame, _report(frame, values.is_not_null(), shape, name, "bad_timestamp", expected, rules)
    parsed = parse_times(values)
    frame = frame.with_columns(parsed.ts_ns.alias(target))
    bad = values.is_not_null() & parsed.ts_ns.is_null()
    form = "YYYY-MM-DD HH:MM:SS or epoch s, ms, us, ns of 1975 to 2100"
    findings = _report(frame, bad, shape, name, "bad_timestamp", form, rules)
    if len(parsed.notations) > 1:
        odd = (parsed.notation != parsed.notations[0]) & parsed.ts_ns.is_not_null()
        expected = f"one notation, found {' and '.join(parsed.notations)}"
        findings += _report(frame, odd.fill_null(False), shape, name, "mixed_timestamps", expected, rules, by_symbol=False)
    latest = rules.now_ns + rules.cfg.future_tolerance_s * NS_PER_S
    late = (parsed.ts_ns > latest).fill_null(False)
    findings += _report(frame, late, shape, name, "future_timestamp", f"no later than {iso(latest)}", rules)
    if parsed.has_offset:
        message = f"{shape.table}.{name}: timestamps carry an offset and were converted to UTC"
        findings.append(Finding("warning", "offset_converted", shape.table, name, message))
    return frame, findings


def _report(
    frame: pl.DataFrame, bad: pl.Series, shape: TableShape, column: str, code: str, expected: str, rules: KeyRules, by_symbol: bool = True
) -> list[Finding]:
    count = int(bad.sum() or 0)
    if not count:
        return []
    names = list(dict.fromkeys([*filter(None, (shape.time, shape.symbol)), *shape.keys, column]))
    chosen = frame.filter(bad)
    rows = tuple({name: plain(value) for name, value in row.items()} for row in chosen.select(names).head(rules.cfg.sample_rows).to_dicts())
    message = describe(f"{shape.table}.{column}", count, rows, expected, "fix the dump or exclude the symbol")
    symbols = None
    if by_symbol and shape.symbol and chosen[shape.symbol].dtype == pl.String and not chosen[shape.symbol].null_count():
        symbols = tuple(chosen[shape.symbol].unique().sort().to_list())
    return [Finding("error", code, shape.table, column, message, rows, symbols)]


def _mixed_types(
    db: sqlite3.Connection, shape: TableShape, names: Sequence[str], extra: Sequence[str], cfg: ValidationConfig, error: Exception
) -> Finding:
    """The key column that holds several types, and the rows of the rarer ones."""
    for name in (name for name in names if name not in extra):
        column = quote(name)
        table = f"{quote(shape.table)} NOT INDEXED"
        counts = db.execute(f"SELECT typeof({column}), count(*) FROM {table} GROUP BY 1 ORDER BY 2 DESC, 1").fetchall()
        kinds = [kind for kind, _ in counts if kind != "null"]
        if len(kinds) > 1 or kinds == ["blob"]:
            usual = "" if kinds == ["blob"] else kinds[0]
            shown = list(dict.fromkeys([*filter(None, (shape.time, shape.symbol)), name]))
            sql = f"SELECT {', '.join(map(quote, shown))} FROM {table} WHERE typeof({column}) NOT IN (?, 'null') LIMIT {cfg.sample_rows}"
            rows = tuple({key: plain(value) for key, value in zip(shown, row, strict=True)} for row in db.execute(sql, (usual,)).fetchall())
            total = sum(count for kind, count in counts if kind not in (usual, "null"))
            code = "bad_timestamp" if name in (shape.time, shape.known_at) else "bad_symbol" if name == shape.symbol else "bad_key"
            expected = f"one type, found {' and '.join(kinds)}"
            message = describe(f"{shape.table}.{name}", total, rows, expected, "fix the dump")
            return Finding("error", code, shape.table, name, message, rows)
    return Finding("error", "bad_key", shape.table, None, f"{shape.table}: keys cannot be read ({error}); fix the dump")


def inspect(db: sqlite3.Connection, cfg: DataConfig, markets: Mapping[str, MarketConfig], now: int) -> DumpReport:
    """Judge the content of a dump behind a safe connection."""
    return _Inspection(db, cfg, markets, now).run()


class _Inspection:
    """One pass over the content of a dump, its findings gathered."""

    def __init__(self, db: sqlite3.Connection, cfg: DataConfig, markets: Mapping[str, MarketConfig], now: int) -> None:
        self.db, self.cfg, self.markets, self.now = db, cfg, markets, now
        self.findings: list[Finding] = []
        self.counts: dict[str, int] = {}
        self.ranges: dict[str, dict[str, str]] = {}
        self.traded: frozenset[str] = frozenset()

    def run(self) -> DumpReport:
        shapes, self.findings = find_tables(self.db, self.cfg.shapes())
        if any(finding.level == "error" for finding in self.findings):
            return self._report({})
        found = self._guard("assets", lambda: check_assets(self.db, self.markets, self.cfg.validation))
        if found is None:
            return self._report({})
        assets, findings = found
        self.findings += findings
        self.counts["assets"] = assets.height
        rules = KeyRules(self.cfg.validation, self.now, frozenset(assets["symbol"].drop_nulls()))
        keys = {name: self._check_table(shape, rules) for name, shape in shapes.items() if name != "assets"}
        bars = keys["series"]
        if bars is not None and {"symbol", "ts_ns", "close"} <= set(bars.columns):
            actions = keys.get(self.cfg.corporate_actions.table)
            actions = (
                bars.clear() if actions is None else actions.rename({self.cfg.corporate_actions.symbol_column: "symbol"}, strict=False)
            )
            self.traded = rules.symbols & frozenset(bars["symbol"].drop_nulls().unique())
            sample = self.cfg.validation.sample_rows
            self.findings += check_history(bars, actions, assets, self.markets, self.cfg.history, sample)
            indicators = keys.get("indicators")
            if indicators is not None and {"symbol", "name", "ts_ns"} <= set(indicators.columns):
                self.findings += check_indicators(meetings(indicators, bars), self.cfg.history, sample)
            self.findings += check_frequency(assets, self.markets)
        classes = assets.group_by("asset_class").len().sort("asset_class")
        return self._report(dict(classes.iter_rows()))

    def _check_table(self, shape: TableShape, rules: KeyRules) -> pl.DataFrame | None:
        count = self._guard(shape.table, lambda: self.db.execute(f"SELECT count(*) FROM {quote(shape.table)} NOT INDEXED").fetchone()[0])
        if count is None:
            return None
        self.counts[shape.table] = count
        if count == 0:
            if shape.table == "series":
                self._add("error", "empty_table", "series", None, "the table is empty; a dump needs bars; add them")
            return None
        self.findings += self._guard(shape.table, lambda: check_numbers(self.db, shape, rules.cfg)) or []
        extra = [name for name in ("close", "high", "low", "volume") if name in shape.numbers] if shape.table == "series" else []
        frame, findings = self._guard(shape.table, lambda: check_keys(self.db, shape, extra, rules)) or (None, [])
        self.findings += findings
        if frame is not None and "ts_ns" in frame.columns and frame["ts_ns"].null_count() < frame.height:
            first, last = frame["ts_ns"].min(), frame["ts_ns"].max()
            self.ranges[shape.table] = {"first": iso(first), "last": iso(last)}  # type: ignore[arg-type]
        return frame

    def _guard(self, table: str, question: Callable[[], T]) -> T | None:
        """The answer, or a finding where SQLite cannot give one."""
        try:
            return question()
        except sqlite3.Error as error:
            finding = sqlite_finding(table, error)
            if finding.code == "query_budget":
                raise
            self.findings.append(finding)
            return None

    def _add(self, level: Level, code: str, table: str, column: str | None, message: str) -> None:
        where = f"{table}.{column}" if column else table
        self.findings.append(Finding(level, code, table, column, f"{where}: {message}"))

    def _report(self, classes: Mapping[str, int]) -> DumpReport:
        findings, quarantined = _set_aside(self.findings, self.cfg.validation)
        if quarantined and self.traded <= set(quarantined):
            message = f"series: all {len(self.traded)} symbols with bars would be quarantined; fix the dump"
            findings = (*findings, Finding("error", "no_symbols_left", "series", None, message))
        accepted = all(finding.level == "warning" for finding in findings)
        return DumpReport(accepted, findings, self.counts, self.ranges, dict(classes), quarantined if accepted else ())


def _set_aside(findings: Sequence[Finding], cfg: ValidationConfig) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """In quarantine mode an error whose symbols are all known becomes a warning, and the symbols go."""
    if cfg.mode == "strict":
        return tuple(findings), ()
    softened = []
    symbols: set[str] = set()
    for finding in findings:
        if finding.level == "error" and finding.symbols:
            symbols |= set(finding.symbols)
            message = f"{finding.message}; {len(finding.symbols)} symbols quarantined"
            finding = replace(finding, level="warning", message=message)
        softened.append(finding)
    return tuple(softened), tuple(sorted(symbols))
