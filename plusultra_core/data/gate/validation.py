"""What the rows of a dump must be: one scan of each table, its rules judged block by block, its rows written as they pass.

What is sound goes to `tables/<table>.parquet`; a table that breaks a rule is asked once more, for the rows to show.
"""

import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from plusultra_core.artifacts import canonical_json
from plusultra_core.clock import NS_PER_S, iso
from plusultra_core.data.corporate_actions import ActionsAudit
from plusultra_core.data.gate.assets import check_assets, check_frequency, read_assets
from plusultra_core.data.gate.connection import sqlite_finding
from plusultra_core.data.gate.findings import DumpReport, Finding, Level
from plusultra_core.data.gate.history import Survey, check_indicators, gather, judge, meetings, survey, without
from plusultra_core.data.gate.ingest import (
    FOLDER,
    OWNER,
    PLACE,
    VERSIONS,
    Names,
    Sorter,
    TableFile,
    find_twice,
    leave_out,
    soften,
    tell,
    write_quarantine,
)
from plusultra_core.data.gate.rows import NEVER, Broken, KeyRules, Reader, Tally, mixed_types, number_rules
from plusultra_core.data.gate.schema import TableShape, find_tables
from plusultra_core.data.gate.timestamps import parse_times
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

_FORM = "YYYY-MM-DD HH:MM:SS or epoch s, ms, us, ns of 1975 to 2100"

T = TypeVar("T")


class TableCheck:
    """One table under judgement."""

    def __init__(self, reader: Reader, rules: KeyRules) -> None:
        self.reader, self.rules, self.shape = reader, rules, reader.shape
        shape = reader.shape
        self.owner = shape.symbol or next((name for name in shape.keys if name not in (shape.time, shape.known_at)), None)
        self.names = Names(sorted(rules.symbols) if shape.symbol else [])
        self.numbers = [self._broken(*rule) for rule in number_rules(reader)]
        self.keyed: dict[tuple[str, str], Broken] = {}
        self.notations: dict[str, dict[str, Tally]] = {}
        self.first_ns, self.last_ns = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        self.dtypes: dict[str, pl.DataType] = {}
        named = {shape.time: "ts_ns", shape.known_at: "known_at_ns"}
        self.apart = tuple(named.get(name, name) for name in shape.keys if name not in (shape.time, self.owner))
        """Keys beside owner and time, as they are written."""
        self.is_side_by_side = shape.time in shape.keys and (shape.symbol in shape.keys or self.owner != shape.symbol)
        """Rows with equal keys lie side by side once they are sorted by owner, time and the keys beside them."""

    def block(self, block: pl.DataFrame) -> pl.DataFrame | None:
        """Judge a block; its rows, typed, unless their keys cannot be read."""
        start = self.reader.num_rows - block.height
        places = pl.int_range(start, start + block.height, dtype=pl.UInt32, eager=True).alias(PLACE)
        symbols = block[self.shape.symbol] if self.shape.symbol else None
        found = block.select(pl.lit(True), *(rule.holds.any().alias(str(number)) for number, rule in enumerate(self.numbers))).row(0)
        for rule in (rule for rule, holds in zip(self.numbers, found[1:], strict=True) if holds):
            rule.add(block.select(rule.holds.fill_null(False)).to_series(), places, symbols)
        return None if self.reader.mixed else self._keys(block, places, symbols)

    def _keys(self, block: pl.DataFrame, places: pl.Series, symbols: pl.Series | None) -> pl.DataFrame | None:
        shape, kinds = self.shape, self.reader.kinds
        for name in self.reader.keys:
            if block[name].null_count() and name != shape.known_at and not (name == shape.symbol and shape.null_symbol_allowed):
                self._tell("null_key", name, "a value in every row", block[name].is_null(), places, symbols)
        if symbols is not None and kinds.get(symbols.name, str) is not str:
            self._tell("bad_symbol", symbols.name, "text", symbols.is_not_null(), places, symbols)
            return None
        others = [name for name in self.reader.columns if name not in (*self.reader.numbers, self.owner, shape.time, shape.known_at)]
        typed = block.select(places, *self.reader.numbers, *(self._as_text(block[name]) for name in others))
        for column, target in ((shape.time, "ts_ns"), (shape.known_at, "known_at_ns")):
            times = None if column is None else self._times(block[column], places, symbols)
            if times is None and column == shape.time:
                return None
            typed = typed if times is None else typed.with_columns(times.alias(target))
        if shape.known_ahead and "known_at_ns" in typed.columns and shape.known_at:
            early = (typed["known_at_ns"] < typed["ts_ns"]).fill_null(False)
            code = "known_too_early" if shape.known_ahead == "error" else "known_ahead"
            self._tell(code, shape.known_at, f"{shape.known_at} >= {shape.time}", early, places, symbols, shape.known_ahead)
        owners = (
            pl.Series([0]).new_from_index(0, block.height) if self.owner is None else self.names.encode(self._as_text(block[self.owner]))
        )
        if symbols is not None and not shape.orphans_allowed:
            orphan = owners >= len(self.rules.symbols)
            self._tell("orphan_symbol", symbols.name, "a symbol of assets", orphan, places, symbols)
        return typed.with_columns(owners.cast(pl.Int32).alias(OWNER))

    def _as_text(self, values: pl.Series) -> pl.Series:
        """A column of keys or text as text; whole numbers stay what they are where the table begins with them."""
        if values.dtype == pl.Binary:
            values = values.bin.encode("hex")
        dtype = self.dtypes.setdefault(values.name, pl.Int64() if values.dtype == pl.Int64 and values.name != self.owner else pl.String())
        return values if values.dtype == dtype else values.cast(dtype, strict=False)

    def _times(self, values: pl.Series, places: pl.Series, symbols: pl.Series | None) -> pl.Series | None:
        name = values.name
        if self.reader.kinds.get(name, str) not in (str, int):
            self._tell("bad_timestamp", name, "text or integer epoch", values.is_not_null(), places, symbols)
            return None
        parsed = parse_times(values)
        if parsed.ts_ns.null_count() > values.null_count():
            self._tell("bad_timestamp", name, _FORM, values.is_not_null() & parsed.ts_ns.is_null(), places, symbols)
        seen = self.notations.setdefault(name, {})
        for notation in parsed.notations:
            rows = (parsed.notation == notation).fill_null(False)
            seen.setdefault(notation, Tally(self.rules.cfg.sample_rows)).add(places.filter(rows).to_numpy().astype(np.int64), None)
        latest = self.rules.now_ns + self.rules.cfg.future_tolerance_s * NS_PER_S
        first, last = parsed.ts_ns.min(), parsed.ts_ns.max()
        if isinstance(first, int) and isinstance(last, int):
            if last > latest:
                late = (parsed.ts_ns > latest).fill_null(False)
                self._tell("future_timestamp", name, f"no later than {iso(latest)}", late, places, symbols)
            if name == self.shape.time:
                self.first_ns, self.last_ns = min(self.first_ns, first), max(self.last_ns, last)
        return parsed.ts_ns

    def _tell(
        self, code: str, column: str, expected: str, bad: pl.Series, places: pl.Series, symbols: pl.Series | None, level: Level = "error"
    ) -> None:
        if bad.any():
            rule = self.keyed.setdefault((code, column), self._broken(code, level, column, expected))
            rule.add(bad, places, symbols)

    def _broken(self, code: str, level: Level, column: str, expected: str, holds: pl.Expr = NEVER) -> Broken:
        return Broken(code, level, column, expected, Tally(self.rules.keep), holds)

    def twice(self, frame: pl.DataFrame, keys: Sequence[str]) -> None:
        """Count rows of a sorted frame that have the same keys."""
        expected = f"one row for each ({', '.join(self.shape.keys)})"
        rule = self.keyed.setdefault(
            ("duplicate_key", self.shape.keys[0]), self._broken("duplicate_key", "error", self.shape.keys[0], expected)
        )
        find_twice(frame, keys, self.names if self.shape.symbol else None, rule.tally)

    def named(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Sorted rows as they are written: owner and times first, then the columns of the dump."""
        owner = [] if self.owner is None else [self.names.decode(frame[OWNER]).alias(self.owner)]
        times = ["ts_ns", *(["known_at_ns"] if "known_at_ns" in frame.columns else [])]
        return frame.select(*owner, *times, *(name for name in self.reader.columns if name in frame.columns))

    def told(self) -> list[Broken]:
        """The rules that are broken, in the order in which they are told."""
        types = [
            Broken("not_a_number", "error", name, "a number", self.reader.odd[name])
            for name in self.reader.numbers
            if name in self.reader.odd
        ]
        for rule in types:
            if rule.column not in self.reader.spoiled:
                rule.level, rule.code, rule.by_symbol = "warning", "numeric_text", False
        found = [*types, *(rule for rule in self.numbers if rule.tally.count)]
        return found if self.reader.mixed else found + self._told_of_keys()

    def _told_of_keys(self) -> list[Broken]:
        shape = self.shape
        for name, seen in self.notations.items():
            ordered = sorted(seen, key=lambda notation: (-seen[notation].count, notation))
            if len(ordered) > 1:
                tally = Tally(self.rules.cfg.sample_rows)
                for notation in ordered[1:]:
                    tally.add(seen[notation].places, None)
                tally.count = sum(seen[notation].count for notation in ordered[1:])
                rule = Broken("mixed_timestamps", "error", name, f"one notation, found {' and '.join(ordered)}", tally, by_symbol=False)
                self.keyed["mixed_timestamps", name] = rule
            if any(notation.endswith("offset") for notation in seen):
                rule = Broken(
                    "offset_converted", "warning", name, "timestamps carry an offset and were converted to UTC", Tally(0), by_symbol=False
                )
                rule.tally.count = 1
                self.keyed[rule.code, name] = rule
        order = [("null_key", name) for name in self.reader.keys] + [("bad_symbol", str(shape.symbol))]
        for name in filter(None, (shape.time, shape.known_at)):
            told = ("bad_timestamp", "mixed_timestamps", "future_timestamp", "known_too_early", "known_ahead", "offset_converted")
            order += [(code, name) for code in told]
        order += [("orphan_symbol", str(shape.symbol)), ("duplicate_key", shape.keys[0] if shape.keys else "")]
        return [self.keyed[key] for key in order if key in self.keyed and self.keyed[key].tally.count]


def inspect(db: sqlite3.Connection, cfg: DataConfig, markets: Mapping[str, MarketConfig], now: int, into: Path | None = None) -> DumpReport:
    """Judge the content of a dump behind a safe connection; the tables of an accepted one lie `into` a folder afterwards."""
    with tempfile.TemporaryDirectory(dir=into, prefix=".tmp-") as work:
        return _Inspection(db, cfg, markets, now, into or Path(work), Path(work)).run()


class _Inspection:
    """One pass over the content of a dump, its findings gathered."""

    def __init__(
        self, db: sqlite3.Connection, cfg: DataConfig, markets: Mapping[str, MarketConfig], now: int, into: Path, work: Path
    ) -> None:
        self.db, self.cfg, self.markets, self.now, self.into, self.work = db, cfg, markets, now, into, work
        self.findings: list[Finding] = []
        self.counts: dict[str, int] = {}
        self.ranges: dict[str, dict[str, str]] = {}
        self.traded: set[str] = set()
        self.assets = pl.DataFrame()
        self.actions = ActionsAudit(cfg.corporate_actions, self.assets, cfg.bars.as_of_ns(), cfg.bars.adjustment)
        self.surveys: list[Survey] = []
        self.met: list[pl.DataFrame] = []
        self.owners = {"assets": "symbol"}
        self.set_aside: list[pl.DataFrame] = []
        self.versions: dict[str, dict[str, str]] = {}

    def run(self) -> DumpReport:
        (self.into / FOLDER).mkdir()
        shapes, self.findings = find_tables(self.db, self.cfg.shapes())
        if any(finding.level == "error" for finding in self.findings):
            return self._report({})
        found = self._guard("assets", lambda: check_assets(self.db, self.markets, self.cfg.validation))
        if found is None:
            return self._report({})
        assets, findings = found
        self.assets = self.actions.assets = assets
        self.findings += findings
        self.counts["assets"] = assets.height
        rules = KeyRules(self.cfg.validation, self.now, frozenset(assets["symbol"].drop_nulls()))
        with TableFile(self.into / FOLDER / "assets.parquet") as file:
            file.write(read_assets(self.db))
        first = [name for name in (self.cfg.corporate_actions.table,) if name in shapes]  # the history of prices wants them
        told = {name: self._check_table(shapes[name], rules) for name in dict.fromkeys((*first, *shapes)) if name != "assets"}
        self.findings += [finding for name in shapes for finding in told.get(name, [])]
        if broken := list(self.actions.broken.values()):
            reader = Reader(shapes[first[0]], rules.keep)
            self.findings += self._guard(first[0], lambda: self._tell(reader, broken)) or []
        sample = self.cfg.validation.sample_rows
        _, aside = soften(self.findings, self.cfg.validation)  # whose histories say nothing of those that stay
        stays = ~pl.col("symbol").is_in(aside).fill_null(False)
        assets = assets.filter(stays)
        if self.surveys:
            self.findings += judge(without(gather(self.surveys), aside), assets, self.cfg.history, sample)
            if self.met:
                self.findings += check_indicators(pl.concat(self.met).filter(stays), self.cfg.history, sample)
            self.findings += check_frequency(assets, self.markets)
        classes = assets.group_by("asset_class").len().sort("asset_class")
        return self._report(dict(classes.iter_rows()))

    def _check_table(self, shape: TableShape, rules: KeyRules) -> list[Finding]:
        """What is wrong with one table; its rows are written, as far as they can be read."""
        check = self._scan(shape, rules, frozenset())
        if check is not None and check.reader.spoiled:  # only now it is known that some text is not to be read as numbers
            check = self._scan(shape, rules, frozenset(check.reader.spoiled))
        if check is None:
            return []
        self.counts[shape.table] = check.reader.num_rows
        if not check.reader.num_rows:
            message = "series: the table is empty; a dump needs bars; add them"
            return [Finding("error", "empty_table", "series", None, message)] if shape.table == "series" else []
        if check.first_ns <= check.last_ns:
            self.ranges[shape.table] = {"first": iso(check.first_ns), "last": iso(check.last_ns)}
        return self._guard(shape.table, lambda: self._tell(check.reader, check.told())) or []

    def _scan(self, shape: TableShape, rules: KeyRules, not_numbers: frozenset[str]) -> TableCheck | None:
        reader = Reader(shape, rules.keep, not_numbers)
        check = TableCheck(reader, rules)
        sorter = Sorter(self.work, check.names, check.apart)

        def scan() -> TableCheck:
            for block in reader.blocks(self.db):
                typed = check.block(block)
                if typed is not None:
                    sorter.add(typed)
            return check

        found = self._guard(shape.table, scan)
        if found is not None and not (reader.spoiled - not_numbers) and sorter.num_rows == reader.num_rows > 0:
            self._write(check, sorter)
        sorter.forget()
        return found

    def _write(self, check: TableCheck, sorter: Sorter) -> None:
        """Sort the rows of a table, look for keys that stand twice, write them, and survey what is history."""
        shape, loose = check.shape, []
        self.owners |= {shape.table: shape.symbol} if shape.symbol else {}
        with TableFile(self.into / FOLDER / f"{shape.table}.parquet", check.owner) as file:
            for frame in sorter.groups():
                if check.is_side_by_side:
                    check.twice(frame, [OWNER, "ts_ns", *check.apart])
                else:
                    loose.append(frame.select(PLACE, OWNER, *shape.keys))
                rows = check.named(frame)
                file.write(rows)
                self._survey(check, frame, rows)
        self.versions |= {shape.table: file.versions} if file.versions else {}
        if loose:
            check.twice(pl.concat(loose).sort(shape.keys), shape.keys)

    def _survey(self, check: TableCheck, frame: pl.DataFrame, rows: pl.DataFrame) -> None:
        shape, name = check.shape, check.shape.symbol
        if name is None or shape.table not in ("series", "indicators", self.cfg.corporate_actions.table):
            return
        known = (frame[OWNER] >= 0) & (frame[OWNER] < len(check.rules.symbols))
        sound = (rows if known.all() else rows.filter(known)).with_columns(pl.col(name).cast(pl.String).alias("symbol"))
        if shape.table == self.cfg.corporate_actions.table:
            self.actions.keep(sound.with_columns(frame[PLACE].filter(known)))
        elif shape.table == "series":
            if any(rule.tally.count for rule in check.numbers):  # what is no number has no history
                sound = sound.with_columns(pl.when(pl.col(name).is_finite()).then(name) for name in check.reader.numbers)
            self.traded |= set(sound["symbol"].unique())
            self.surveys.append(survey(sound, self.actions.frame, self.assets, self.markets, self.cfg.history))
            self.actions.judge(sound)
        elif (bars := self.into / FOLDER / "series.parquet").exists():
            owners = sound["symbol"].unique().to_list()
            times = pl.scan_parquet(bars).filter(pl.col("symbol").is_in(owners)).select("symbol", "ts_ns").collect()
            self.met.append(meetings(sound, times))

    def _tell(self, reader: Reader, told: Sequence[Broken]) -> list[Finding]:
        findings, aside = tell(self.db, reader, told, self.cfg.validation)
        self.set_aside += aside
        return findings + ([mixed_types(self.db, reader, self.cfg.validation.sample_rows)] if reader.mixed else [])

    def _guard(self, table: str, question: Callable[[], T]) -> T | None:
        """The answer, or a finding where SQLite cannot give one."""
        try:
            return question()
        except sqlite3.Error as error:
            finding = sqlite_finding(table, error, self.db, self.cfg.validation.sample_rows)
            if finding.code == "query_budget":
                raise
            self.findings.append(finding)
            return None

    def _report(self, classes: Mapping[str, int]) -> DumpReport:
        findings, quarantined = soften(self.findings, self.cfg.validation)
        if quarantined and self.traded <= set(quarantined):
            message = f"series: all {len(self.traded)} symbols with bars would be quarantined; fix the dump"
            findings = (*findings, Finding("error", "no_symbols_left", "series", None, message))
        accepted = all(finding.level == "warning" for finding in findings)
        if accepted:
            write_quarantine(self.into, self.set_aside)
            for table, column in self.owners.items() if quarantined else ():
                leave_out(self.into / FOLDER / f"{table}.parquet", column, quarantined)
                if table in self.versions:  # none of a table of too many owners: not that it has no rows
                    self.versions[table] = {name: said for name, said in self.versions[table].items() if name not in quarantined}
            (self.into / VERSIONS).write_bytes(canonical_json(self.versions))
        return DumpReport(accepted, findings, self.counts, self.ranges, dict(classes), quarantined if accepted else ())
