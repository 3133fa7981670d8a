"""Files made to harm: each is judged in a process of its own, and none costs much more than the sound dump."""

import json
import os
import random
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

MakeDump = Callable[..., Path]
MORE_S = 5.0
MORE_MB = 500.0
HANGS_S = 40

# Forks a process for each dump before anything has started a thread; a process that hangs is ended by its alarm.
JUDGE = """
import json, os, signal, sys
from pathlib import Path
from plusultra_core import config
from plusultra_core.data.gate import validation
from plusultra_core.data.gate.dump import check_dump
from plusultra_core.data.tables import DataConfig
from plusultra_core.market import MarketConfig

root, out = Path(sys.argv[1]), sys.argv[2]
cfg = config.load(DataConfig, root / "configs" / "base" / "data.yaml", {"gate.busy_timeout_s": 0.1})
markets = {path.stem: config.load(MarketConfig, path) for path in sorted((root / "configs" / "markets").glob("*.yaml"))}
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.alarm(int(sys.argv[3]))
        Path(out).write_text(json.dumps(check_dump(Path(line.rstrip("\\n")), cfg, markets).to_dict(), allow_nan=False))
        os._exit(0)
    _, status, used = os.wait4(child, 0)
    print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3]), flush=True)
"""


class Cost(NamedTuple):
    """What judging a dump said and took."""

    accepted: bool
    codes: set[str]
    cpu_s: float
    peak_mb: float


class Judge:
    """Judges dumps, each in a process of its own."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.out = folder / "report.json"
        env = {**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", JUDGE, str(root), str(self.out), str(HANGS_S)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=folder)
        assert self._answer() == "ready"
        self._clean: Cost | None = None

    def run(self, path: Path) -> Cost:
        """Judge one file."""
        assert self.server.stdin is not None
        print(path, file=self.server.stdin, flush=True)
        status, cpu_s, peak_mb = json.loads(self._answer())
        assert status == 0, f"ended with {status} after {cpu_s:.1f} s, {peak_mb:.0f} MB"
        report = json.loads(self.out.read_text())
        self.out.unlink()
        return Cost(report["accepted"], {finding["code"] for finding in report["findings"]}, cpu_s, peak_mb)

    def clean(self, path: Path) -> Cost:
        """What a sound dump takes, measured once."""
        self._clean = self._clean or self.run(path)
        assert self._clean.accepted
        return self._clean

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()


@pytest.fixture(scope="module")
def judge(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    made = Judge(root, tmp_path_factory.mktemp("judge"))
    yield made
    made.server.communicate()


def _sql(*statements: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")
            for statement in statements:
                db.execute(statement)

    return run


def _count(most: int) -> str:
    return f"WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {most})"


def _bytes(change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(bytearray(path.read_bytes()))) and None


def _beside(suffix: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda path: make(path.with_name(path.name + suffix)) and None


def _instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        path.unlink()
        make(path)

    return run


def _noise(content: bytearray) -> bytearray:
    content[4096 * 3 :] = random.Random(5).randbytes(len(content) - 4096 * 3)
    return content


def _put(at: int, value: bytes) -> Callable[[bytearray], bytearray]:
    def run(content: bytearray) -> bytearray:
        content[at : at + len(value)] = value
        return content

    return run


def _free_pages_in_a_ring(path: Path) -> None:
    """The list of free pages leads back to itself."""
    _sql(
        "PRAGMA page_size = 512",
        "VACUUM",
        "CREATE TABLE gone (x)",
        f"INSERT INTO gone {_count(500)} SELECT hex(k) || k FROM n",
        "DROP TABLE gone",
    )(path)
    content = bytearray(path.read_bytes())
    first = struct.unpack_from(">I", content, 32)[0]
    struct.pack_into(">II", content, (first - 1) * 512, first, 100)
    path.write_bytes(content)


def _pages_in_a_ring(path: Path) -> None:
    """Every inner page of a tree has itself as its last child."""
    _sql("PRAGMA page_size = 512", "VACUUM", f"INSERT INTO regimes {_count(3_000)} SELECT k, k, k, k FROM n")(path)
    content = bytearray(path.read_bytes())
    for page in range(1, len(content) // 512):
        if content[page * 512] == 5:
            struct.pack_into(">I", content, page * 512 + 8, page + 1)
    path.write_bytes(content)


def _forged_tables(path: Path) -> None:
    """A hundred thousand tables that share one page: the file is small, and what SQLite makes of it is not."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'regimes'").fetchone()[0]
        rows = (("table", f"t{n}", f"t{n}", page, f"CREATE TABLE t{n}(x)") for n in range(100_000))
        db.execute("BEGIN")
        db.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("COMMIT")


def _wide_tables(path: Path) -> None:
    columns = ", ".join(f"c{n}" for n in range(1_990))
    _sql("BEGIN", *(f"CREATE TABLE t{number} ({columns})" for number in range(400)), "COMMIT")(path)


def _views_on_views(path: Path) -> None:
    """Each floor reads the one below twice: resolving the last would take two to the sixtieth steps."""
    floors = [f"CREATE VIEW v{n} AS SELECT a.x FROM v{n - 1} a, v{n - 1} b" for n in range(1, 61)]
    _sql("CREATE VIEW v0 AS SELECT 1 AS x", *floors, "DROP TABLE regimes", "CREATE VIEW regimes AS SELECT * FROM v60")(path)


def _unread_log(path: Path) -> None:
    """A log that grows a sound file into another one: the log is read, and so is what it says."""
    keeper = sqlite3.connect(path, isolation_level=None)
    keeper.execute("PRAGMA journal_mode = WAL")
    keeper.execute("PRAGMA wal_autocheckpoint = 0")
    keeper.execute("UPDATE series SET close = -1")
    log = path.with_name(path.name + "-wal").read_bytes()
    content = path.read_bytes()
    keeper.close()
    path.write_bytes(content)
    path.with_name(path.name + "-wal").write_bytes(log)


def _wide_encoding(path: Path) -> None:
    """The same rows in UTF-16, a symbol with half a surrogate pair among them."""
    other = path.with_name("wide.sqlite")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(other)) as target:
        target.execute("PRAGMA encoding = 'UTF-16le'")
        for line in source.iterdump():
            target.execute(line)
        target.execute("UPDATE series SET symbol = CAST(x'00d84100' AS TEXT) WHERE rowid = 1")
        target.commit()
    other.replace(path)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    with closing(socket.socket(socket.AF_UNIX)) as door:
        door.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


DEEP = "[" * 100_000
SLOW = "'" + "a" * 200 + "' LIKE '" + "%a" * 90 + "%b'"
HEAVY = "length(hex(zeroblob(500000)))"
ASSET = "INSERT INTO assets (symbol, metadata)"
CRYPTO = '\'{"asset_class": "crypto"}\''

# What is done to the sound dump, and the code it is refused with; None where it is accepted.
HOSTILE: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "noise in its pages": (_bytes(_noise), "corrupt"),
    "a header cut short": (_bytes(lambda content: content[:60]), "not_a_database"),
    "half a file": (_bytes(lambda content: content[: len(content) // 2]), "truncated"),
    "an empty file": (_bytes(lambda content: b""), "not_a_database"),
    "a compressed file": (_bytes(lambda content: b"\x1f\x8b\x08" + content), "not_a_database"),
    "pages of no size": (_bytes(_put(16, b"\0\0")), "corrupt"),
    "pages of an odd size": (_bytes(_put(16, b"\x0b\xb9")), "corrupt"),
    "a cache of 8 TB wanted": (_bytes(_put(48, b"\x7f\xff\xff\xff")), None),
    "an unknown format": (_bytes(_put(18, b"\x09\x09")), "not_a_database"),
    "an encoding that is not its own": (_bytes(_put(56, b"\0\0\0\x02")), "corrupt"),
    "free pages in a ring": (_free_pages_in_a_ring, "corrupt"),
    "pages in a ring": (_pages_in_a_ring, "corrupt"),
    "a hot journal": (_beside("-journal", lambda path: path.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 504)), "hot_journal"),
    "a pipe as journal": (_beside("-journal", os.mkfifo), "not_regular"),
    "a pipe as log": (_beside("-wal", os.mkfifo), "not_regular"),
    "a link as log": (_beside("-wal", lambda path: path.symlink_to("/etc/hostname")), "symlink"),
    "a log of something else": (_beside("-wal", lambda path: path.write_bytes(b"x" * 4_152)), "lost_log"),
    "a log with another story": (_unread_log, "not_positive"),
    "a pipe": (_instead(os.mkfifo), "not_regular"),
    "a folder": (_instead(Path.mkdir), "not_regular"),
    "a socket": (_instead(_socket), "not_regular"),
    "a link to a device": (_instead(lambda path: path.symlink_to("/dev/zero")), "symlink"),
    "a link to itself": (_instead(lambda path: path.symlink_to(path.name)), "symlink"),
    "an endless view": (
        _sql("DROP TABLE series", f"CREATE VIEW series AS {_count(2)[:-20]}) SELECT k AS timestamp, k AS symbol, k AS close FROM n"),
        "view_for_table",
    ),
    "views upon views": (_views_on_views, "view_for_table"),
    "a trigger that never ends": (
        _sql("CREATE TRIGGER again AFTER INSERT ON regimes BEGIN INSERT INTO regimes SELECT * FROM regimes; END"),
        None,
    ),
    "a slow check": (
        _sql(f"CREATE TABLE slow (x CHECK ({SLOW} OR {HEAVY} > 0))", f"INSERT INTO slow {_count(2_000)} SELECT k FROM n"),
        None,
    ),
    "a slow index": (_sql(f"CREATE INDEX slow ON series ({HEAVY})"), None),
    "a slow column": (_sql(f"ALTER TABLE series ADD COLUMN slow AS ({HEAVY})"), "generated_column"),
    "a slow column elsewhere": (_sql(f"CREATE TABLE slow (x, y AS ({HEAVY}) NOT NULL)", "INSERT INTO slow VALUES (1)"), "generated_column"),
    "a deep expression": (_sql(f"CREATE TABLE deep (x CHECK (x{' + 1' * 900}))"), "hostile_schema"),
    "a long statement": (_sql(f"CREATE TABLE long (x /*{'x' * 900_000}*/)"), None),
    "a search index": (_sql("CREATE VIRTUAL TABLE news USING fts5(body)", "INSERT INTO news VALUES ('x')"), None),
    "a search index for a table": (
        _sql("DROP TABLE regimes", "CREATE VIRTUAL TABLE regimes USING fts5(timestamp, symbol, name, value)"),
        "virtual_for_table",
    ),
    "an unknown collation": (
        _sql(
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_schema SET sql = replace(sql, 'symbol,', 'symbol COLLATE odd,') WHERE name = 'series'",
        ),
        None,
    ),
    "poisoned statistics": (
        _sql(
            "ANALYZE", f"INSERT INTO sqlite_stat1 {_count(20_000)} SELECT 'series', 'i' || k, '1 9223372036854775807 unordered sz=0' FROM n"
        ),
        None,
    ),
    "a hundred thousand tables": (_forged_tables, "huge_schema"),
    "tables as wide as they can be": (_wide_tables, None),
    "a wide side table": (
        _sql(
            "DROP TABLE on_chain",
            f"CREATE TABLE on_chain (timestamp, symbol, {', '.join(f'c{n} REAL DEFAULT 1.5' for n in range(1_990))})",
            f"INSERT INTO on_chain (timestamp, symbol) {_count(200)} SELECT 1577836800 + k, 'AAA' FROM n",
        ),
        "huge_schema",
    ),
    "a cell of 8 MB": (_sql("UPDATE series SET symbol = printf('%.*c', 8000000, 'x') WHERE rowid = 1"), "huge_cell"),
    "blobs of 60 kB": (_sql("UPDATE series SET close = zeroblob(60000)"), "not_a_number"),
    "250 MB of text": (
        _sql(f"INSERT INTO series (timestamp, symbol, close) {_count(5_000)} SELECT k || hex(zeroblob(25000)), 'AAA', 1 FROM n"),
        "bad_timestamp",
    ),
    "8 MB of JSON": (_sql("UPDATE assets SET metadata = '{\"a\": \"' || printf('%.*c', 8000000, 'x') || '\"}' WHERE symbol = 'AAA'"), None),
    "JSON 100,000 deep": (_sql(f"UPDATE assets SET metadata = '{DEEP}' WHERE symbol = 'AAA'"), None),
    "JSON 30,000 deep": (_sql(f"UPDATE assets SET metadata = '{DEEP[:30_000]}' WHERE symbol = 'AAA'"), None),
    "a number of 60,000 digits": (_sql(f"UPDATE assets SET metadata = '{{\"bar\": {'9' * 60_000}}}' WHERE symbol = 'AAA'"), None),
    "a bar of 60,000 digits": (_sql(f"UPDATE assets SET metadata = '{{\"bar\": \"{'9' * 60_000}d\"}}' WHERE symbol = 'AAA'"), None),
    "200,000 assets": (_sql(f"{ASSET} {_count(200_000)} SELECT 'S' || k, {CRYPTO} FROM n"), "too_many_assets"),
    "30,000 assets in odd letters": (_sql(f"{ASSET} {_count(30_000)} SELECT char(1040 + k % 64) || 'Ä' || k, {CRYPTO} FROM n"), None),
    "100,000 orphans": (
        _sql(f"INSERT INTO series (timestamp, symbol, close) {_count(100_000)} SELECT '2020-01-05 21:00:00', 'Z' || k, 1 FROM n"),
        "orphan_symbol",
    ),
    "100,000 notations": (
        _sql(f"INSERT INTO series (timestamp, symbol, close) {_count(100_000)} SELECT 'day ' || k, 'AAA', 1 FROM n"),
        "bad_timestamp",
    ),
    "100,000 texts that are no text": (
        _sql(f"INSERT INTO series (timestamp, symbol, close) {_count(100_000)} SELECT CAST(x'ff' AS TEXT) || k, 'AAA', 1 FROM n"),
        "invalid_utf8",
    ),
    "numbers at the edge of 64 bits": (
        _sql("UPDATE series SET timestamp = CASE rowid % 2 WHEN 0 THEN 9223372036854775807 ELSE -9223372036854775808 END"),
        "bad_timestamp",
    ),
    "half a surrogate pair": (_wide_encoding, "orphan_symbol"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_no_hostile_file_costs_much_more_than_a_sound_one(case: str, judge: Judge, make_dump: MakeDump) -> None:
    harm, code = HOSTILE[case]
    path = make_dump()
    clean = judge.clean(path)
    harm(path)
    cost = judge.run(path)
    assert cost.cpu_s - clean.cpu_s < MORE_S and cost.peak_mb - clean.peak_mb < MORE_MB, cost
    assert cost.accepted == (code is None), cost.codes
    assert code is None or code in cost.codes


def test_a_writer_that_never_lets_go_is_not_waited_for(judge: Judge, make_dump: MakeDump) -> None:
    path = make_dump()
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert judge.run(path).codes == {"locked"}
    assert judge.run(path).accepted
