"""The live door: forecasts and guarded targets over HTTP."""

import math
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plusultra_core.clock import now_ns
from plusultra_core.errors import ConfigError
from plusultra_core.service.answers import Question, build_answer, journal_rows, missing_of_account, unknown_symbols
from plusultra_core.service.auth import KeysConfig, find_key
from plusultra_core.service.gauges import FAMILIES, ServiceGauges
from plusultra_core.service.journal import RequestRow, write_predictions, write_request
from plusultra_core.service.schemas import Account, AccountSlot, ForecastAnswer, ForecastRequest, Refusal
from plusultra_core.service.state import Served, ServiceState

_OPEN = ("/v1/health", "/v1/ready")
_SCOPES = {"/v1/forecast": "predict", "/metrics": "metrics"}
_FIELDS = {"body", *ForecastRequest.model_fields, *Account.model_fields, *AccountSlot.model_fields}
_MAX_VERDICTS_BYTES = 4 << 20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceConfig:
    """The door: where it stands and how much fits through it."""

    host: str
    """Loopback only; whoever asks from elsewhere comes through a proxy with TLS."""
    port: int
    max_body_bytes: int
    max_symbols: int
    """Symbols of one request."""
    max_concurrency: int
    """Connections at a time; more are answered 503."""
    refresh_s: float
    """Seconds between two looks at what is to be served."""
    max_staleness_bars: float
    """A newest bar older than this gives forecasts, and no target."""

    def __post_init__(self) -> None:
        if self.host not in _LOOPBACK:
            raise ConfigError(f"host: expected one of {_LOOPBACK}, found {self.host!r}; put a proxy in front")
        for name in ("port", "max_body_bytes", "max_symbols", "max_concurrency", "refresh_s", "max_staleness_bars"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected > 0, found {getattr(self, name)}")


def create_app(
    state: ServiceState,
    cfg: ServiceConfig,
    keys: KeysConfig,
    journal: sqlite3.Connection,
    clock: Callable[[], int] = now_ns,
    verdicts: Path | None = None,
) -> FastAPI:
    """The app. Nothing is fetched, documented or traced by it; it answers from `state`, writes to `journal`, and adds to its metrics
    what monitoring has written into `verdicts`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, telemetry={"tracing": False, "metrics": False, "logs": False})
    gauges = ServiceGauges()
    app.state.gauges = gauges
    app.add_exception_handler(RequestValidationError, _refuse_invalid)

    @app.post("/v1/forecast", response_model=None)
    async def forecast(request: Request, body: ForecastRequest) -> ForecastAnswer | JSONResponse:
        served = state.served
        if served is None:
            return _refuse(503, "not_ready")
        request.state.num_symbols = len(body.symbols)
        if (refusal := _refuse_unanswerable(body, served, cfg.max_symbols)) is not None:
            return refusal
        question = Question(request.state.request_id, clock(), body)
        answer = build_answer(question, served, cfg.max_staleness_bars)
        try:
            write_predictions(journal, journal_rows(answer, served, question.now_ns))
        except sqlite3.Error:
            gauges.count_unwritten()
            return _refuse(503, "journal")
        for prediction in answer.predictions:
            gauges.count_reason(prediction.reason)
        return answer

    @app.get("/v1/health", response_model=None)
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/v1/ready", response_model=None)
    async def ready() -> JSONResponse:
        return _readiness(state)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        _measure(gauges, state.served, clock())
        told, written_s = _verdicts(verdicts)
        return Response(gauges.render(written_s) + told, media_type=CONTENT_TYPE_LATEST)

    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=cfg.max_body_bytes)
    app.add_middleware(_Doorkeeper, keys=keys)
    app.add_middleware(_Recorder, gauges=gauges, journal=journal, clock=clock)
    return app


class _Doorkeeper:
    """401 before a byte of the body is read; what needs no key is listed."""

    def __init__(self, app: ASGIApp, keys: KeysConfig) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        header = next((value for name, value in scope["headers"] if name == b"authorization"), None)
        key = find_key(header, self._keys)
        if key is None:
            await _refuse(401, "unauthorized", headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)
        elif scope["path"] in _SCOPES and _SCOPES[scope["path"]] not in key.scopes:
            await _refuse(403, "forbidden")(scope, receive, send)
        else:
            scope["state"]["client"] = key.name
            await self._app(scope, receive, send)


class _Recorder:
    """Counts every request, names it, and writes those for forecasts down."""

    def __init__(self, app: ASGIApp, gauges: ServiceGauges, journal: sqlite3.Connection, clock: Callable[[], int]) -> None:
        self._app = app
        self._gauges = gauges
        self._journal = journal
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = {"request_id": secrets.token_hex(16), "num_symbols": 0, "client": ""}
        scope["state"] = {**scope.get("state", {}), **said}
        received_ns, began, status = self._clock(), time.perf_counter_ns(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            took_ns = time.perf_counter_ns() - began
            self._gauges.count_request(scope["path"], status, took_ns / 1e9)
            if scope["path"] == "/v1/forecast":
                self._write(scope["state"], received_ns, status, took_ns // 1000)

    def _write(self, said: dict[str, object], received_ns: int, status: int, duration_us: int) -> None:
        row = RequestRow(str(said["request_id"]), received_ns, str(said["client"]), status, duration_us, int(str(said["num_symbols"])))
        try:
            write_request(self._journal, row)
        except sqlite3.Error:
            self._gauges.count_unwritten()


def _refuse_unanswerable(body: ForecastRequest, served: Served, max_symbols: int) -> JSONResponse | None:
    """What is served cannot answer: other symbols, too many, or an account that a policy is not told."""
    if len(body.symbols) > max_symbols or len(set(body.symbols)) != len(body.symbols):
        return _refuse(422, "too_many_or_repeated", ["symbols"])
    if unknown := unknown_symbols(body, served):
        return _refuse(404, "unknown_symbol", unknown)
    missing = missing_of_account(body, served)
    return _refuse(422, "account_incomplete", missing) if missing else None


def _measure(gauges: ServiceGauges, served: Served | None, now: int) -> None:
    gauges.ready.set(served is not None)
    newest_ns = max((outlook.ts_ns for outlook in served.outlooks.values()), default=None) if served else None
    gauges.staleness.set(float("nan") if served is None or newest_ns is None else (now - newest_ns) / served.bar_ns)


def _verdicts(path: Path | None) -> tuple[bytes, float]:
    """Drift, alarms and scores of the class served, as `render_metrics` wrote them, and when (s since 1970); nothing, and NaN, before
    its first run. Anything else in their place is left out: one line that is none, or a series of the service's own, and the scraper
    would take no line at all.
    """
    try:
        if path is None or (stat := path.stat()).st_size > _MAX_VERDICTS_BYTES:
            return b"", math.nan
        content = path.read_bytes()
        families = {family.name for family in text_string_to_metric_families(content.decode())}
    except (OSError, ValueError):
        return b"", math.nan  # the alert on an absent series speaks
    is_own = bool(families) and families <= FAMILIES and content.endswith(b"\n")
    return (content, stat.st_mtime) if is_own else (b"", math.nan)


def _readiness(state: ServiceState) -> JSONResponse:
    """Whether there is something to serve, and why not; why the last change was not taken."""
    if state.served is None:
        return JSONResponse({"ready": False, "why": state.why or "nothing has been published yet"}, 503)
    return JSONResponse({"ready": True, **({"refused": state.why} if state.why else {})})


def _refuse(status: int, error: str, where: list[str] | None = None, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(Refusal(error=error, where=where or []).model_dump(), status, headers)


async def _refuse_invalid(_request: Request, error: Exception) -> JSONResponse:
    """422 that says where, and never what: neither values nor keys of the client are sent back."""
    places = error.errors() if isinstance(error, RequestValidationError) else []
    where = {".".join(str(part) if isinstance(part, int) or part in _FIELDS else "*" for part in place["loc"]) for place in places}
    return _refuse(422, "invalid", sorted(where)[:20])
