"""One request -> one answer and the rows of the journal."""

from dataclasses import dataclass

from plusultra_core.artifacts import sha256_bytes
from plusultra_core.clock import iso
from plusultra_core.service.journal import PredictionRow
from plusultra_core.service.schemas import ForecastAnswer, ForecastRequest, HorizonForecast, Prediction
from plusultra_core.service.state import Books, Held, Outlook, Served, Slot, Verdict


@dataclass(frozen=True, slots=True)
class Question:
    """A request, when it came, and its id."""

    request_id: str
    now_ns: int
    body: ForecastRequest


def unknown_symbols(body: ForecastRequest, served: Served) -> list[str]:
    """Places in the request of symbols that are not served; places, because input is never echoed."""
    return [f"symbols.{i}" for i, symbol in enumerate(body.symbols) if symbol not in served.outlooks]


def missing_of_account(body: ForecastRequest, served: Served) -> list[str]:
    """What a policy must be told of the account and was not: it would decide on a state that is not the account's."""
    account = body.account
    if account is None or not served.whole_account:
        return []
    missing = [f"account.{name}" for name in ("capital_ccy", "age_bars", "slots") if getattr(account, name) is None]
    slots = account.slots or {}
    held = any(account.weights[name] != 0.0 and name not in slots for name in account.weights)
    is_open = held or any(name not in slots for name in body.symbols)
    return missing or (["account.slots"] if is_open else [])


def build_answer(question: Question, served: Served, max_staleness_bars: float) -> ForecastAnswer:
    """Forecasts of the newest bars and guarded targets; newest bar first, then as asked.

    A bar older than `max_staleness_bars` is not fresh: its target fails closed.
    """
    account = question.body.account
    stale = {name: (question.now_ns - outlook.ts_ns) / served.bar_ns for name, outlook in served.outlooks.items()}
    if account is None:
        books = Books(equity_ccy=None, peak_ccy=None, state="active")
        weights: dict[str, float | None] = dict.fromkeys(question.body.symbols, 0.0)
    else:
        slots = {name: Slot(**slot.model_dump()) for name, slot in (account.slots or {}).items()}
        books = Books(account.equity_ccy, account.peak_ccy, account.state, account.capital_ccy, account.age_bars, slots)
        weights = {**dict.fromkeys(question.body.symbols, None), **account.weights}
    held = {name: Held(weight=weight, fresh=stale.get(name, float("inf")) <= max_staleness_bars) for name, weight in weights.items()}
    verdicts, state = served.decide(question.body.symbols, held, books)
    predictions = [
        _prediction(question, served, served.outlooks[symbol], stale[symbol], verdicts[symbol]) for symbol in question.body.symbols
    ]
    return ForecastAnswer(
        request_id=question.request_id,
        predictions=sorted(predictions, key=lambda prediction: -prediction.ts_ns),
        account_state=state,
        lineage={
            **served.lineage,
            "served_sha256": served.sha256,
            "bundle_sha256": served.bundle_sha256,
            "panel_sha256": served.panel_sha256,
        },
    )


def journal_rows(answer: ForecastAnswer, served: Served, now_ns: int) -> list[PredictionRow]:
    """The predictions of an answer as the journal keeps them."""
    return [
        PredictionRow(
            prediction_id=prediction.prediction_id,
            request_id=answer.request_id,
            created_ns=now_ns,
            symbol=prediction.symbol,
            ts_ns=prediction.ts_ns,
            reason=prediction.reason,
            served_sha256=served.sha256,
            bundle_sha256=served.bundle_sha256,
            panel_sha256=served.panel_sha256,
            answer=prediction.model_dump_json(),
        )
        for prediction in answer.predictions
    ]


def _prediction(question: Question, served: Served, outlook: Outlook, stale_bars: float, verdict: Verdict) -> Prediction:
    name = f"{question.request_id}\0{served.sha256}\0{outlook.symbol}"
    return Prediction(
        prediction_id=sha256_bytes(name.encode())[:32],
        symbol=outlook.symbol,
        ts=iso(outlook.ts_ns),
        ts_ns=outlook.ts_ns,
        known_ns=outlook.known_ns,
        staleness_bars=stale_bars,
        sigma_per_bar=outlook.sigma_per_bar,
        forecasts=[HorizonForecast(**horizon._asdict()) for horizon in outlook.horizons],
        proposed_weight=verdict.proposed,
        target_weight=verdict.target,
        reason=verdict.reason,
    )
