"""A door with fake forecasts behind it, and a client of ten lines."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from plusultra_core.artifacts import Artifact
from plusultra_core.clock import NS_PER_DAY
from plusultra_core.config import load
from plusultra_core.guardrails.check import Holding, check_targets
from plusultra_core.guardrails.limits import GuardrailsConfig
from plusultra_core.service.app import ServiceConfig, create_app
from plusultra_core.service.auth import KeysConfig, make_key
from plusultra_core.service.journal import open_journal
from plusultra_core.service.state import Books, Held, Horizon, Outlook, Served, ServiceState, Verdict

NOW_NS = 1_000 * NS_PER_DAY
LIMITS = GuardrailsConfig(
    max_weight=0.2, max_gross=1.0, max_net=1.0, max_participation=0.5, reduce_drawdown=0.1, resume_drawdown=0.05, halt_drawdown=0.2
)
SYMBOLS = {"AAPL": 0, "BTC/USDT:USDT": 0, "OLD": 30, "x'; DROP TABLE predictions;--": 1}


def decide(asked: Sequence[str], held: Mapping[str, Held], books: Books) -> tuple[dict[str, Verdict], str]:
    """Asks for half of the equity in everything; the real guardrails answer."""
    holdings = {name: Holding(weight=row.weight, fresh=row.fresh, adv_ccy=1e9) for name, row in held.items()}
    checked = check_targets(dict.fromkeys(asked, 0.5), holdings, books.equity_ccy, books.peak_ccy, books.state, LIMITS)
    return {name: Verdict(0.5, checked.targets[name], checked.reasons[name]) for name in asked}, checked.state


def outlook(symbol: str, age_days: int) -> Outlook:
    quantiles = {"0.05": -0.02, "0.5": 0.001, "0.95": 0.02}
    ts_ns = NOW_NS - age_days * NS_PER_DAY
    return Outlook(symbol, ts_ns, ts_ns, 0.01, 1e9, (Horizon(1, quantiles, 0.3, 0.2, 0.5, 0.1), Horizon(5, quantiles, 0.3, 0.2, 0.5, 0.1)))


def open_fake(path: Path, artifact: Artifact) -> Served:
    """Any artifact is served; its name is in the lineage."""
    outlooks = {name: outlook(name, age) for name, age in SYMBOLS.items()}
    return Served(artifact.sha256, "b" * 64, "c" * 64, {"dump": artifact.manifest["key"]}, NS_PER_DAY, outlooks, decide)


@dataclass
class Door:
    """The app and how to knock at it."""

    app: FastAPI
    state: ServiceState
    journal: sqlite3.Connection
    keys: dict[str, str]
    cfg: ServiceConfig
    key_file: KeysConfig
    now_ns: list[int] = field(default_factory=lambda: [NOW_NS])

    def ask(self, method: str, path: str, key: str | None = "desk", **rest: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[key]}"} if key else {}
        headers |= rest.pop("headers", {})

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                return await client.request(method, path, headers=headers, **rest)

        return asyncio.run(send())

    def forecast(self, body: object, key: str | None = "desk") -> httpx.Response:
        return self.ask("POST", "/v1/forecast", key, json=body)


@pytest.fixture(scope="session")
def cfg(root: Path) -> ServiceConfig:
    return load(ServiceConfig, root / "configs/smoke/service.yaml")


@pytest.fixture
def empty_door(tmp_path: Path, cfg: ServiceConfig) -> Iterator[Door]:
    """A door with nothing behind it yet."""
    made = {"desk": make_key("desk", ("predict",)), "scraper": make_key("scraper", ("metrics",))}
    journal = open_journal(tmp_path / "journal.sqlite")
    state = ServiceState(open_fake)
    now_ns = [NOW_NS]
    key_file = KeysConfig(keys=tuple(key for _, key in made.values()))
    app = create_app(state, cfg, key_file, journal, clock=lambda: now_ns[0])
    yield Door(app, state, journal, {name: text for name, (text, _) in made.items()}, cfg, key_file, now_ns)
    journal.close()


@pytest.fixture
def served_dir(tmp_path: Path) -> Callable[[str], Artifact]:
    """A small artifact by its key."""
    from plusultra_core.artifacts import publish

    return lambda key: publish(tmp_path / "served", key, lambda directory: (directory / "x").write_text(key) and None, {})


@pytest.fixture
def door(empty_door: Door, served_dir: Callable[[str], Artifact]) -> Door:
    """A door with fake forecasts behind it."""
    artifact = served_dir("first")
    assert empty_door.state.swap(artifact.path, artifact.sha256)
    return empty_door
