"""What the service counts about itself. Label values come from closed lists; symbols and clients are none of them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from plusultra_core.guardrails.limits import GUARD_REASONS

ROUTES = ("/v1/forecast", "/v1/health", "/v1/ready", "/metrics")
OTHER = "other"
_OF_MONITORING = ("drift_psi", "drift_ks", "drift_features", "drift_alarms", "operations", "operations_breaches", "strategy_metric")
FAMILIES = frozenset(f"plusultra_{name}" for name in _OF_MONITORING)
"""What monitoring may add to the service's own; monitoring and service are strangers, and a test holds the two lists together."""
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class ServiceGauges:
    """The metrics of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("plusultra_service_requests", "Requests", ("route", "status"), registry=self.registry)
        self._latency = Histogram(
            "plusultra_service_latency_seconds", "From the first byte to the answer", ("route",), registry=self.registry, buckets=_BUCKETS_S
        )
        self._auth_failures = Counter("plusultra_service_auth_failures", "Requests without a key that opens", registry=self.registry)
        self._reasons = Counter("plusultra_service_guardrail_reasons", "Targets by guardrail reason", ("reason",), registry=self.registry)
        self._swaps = Counter("plusultra_service_swaps", "Attempts to serve something new", ("outcome",), registry=self.registry)
        self._unwritten = Counter("plusultra_service_journal_failures", "Requests that could not be written down", registry=self.registry)
        self.ready = Gauge("plusultra_service_ready", "1 when there is something to serve", registry=self.registry)
        self.staleness = Gauge("plusultra_service_staleness_bars", "Age of the newest bar served", registry=self.registry)
        self._verdicts = Gauge("plusultra_service_verdicts_written_seconds", "When monitoring wrote its verdicts", registry=self.registry)
        for reason in GUARD_REASONS.values():
            self._reasons.labels(reason)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """One request; a route that does not exist is `other`."""
        name = route if route in ROUTES else OTHER
        self._requests.labels(name, f"{status // 100}xx").inc()
        self._latency.labels(name).observe(seconds)
        if status in (401, 403):
            self._auth_failures.inc()

    def count_reason(self, reason: str) -> None:
        """One target through the guardrails."""
        self._reasons.labels(reason if reason in GUARD_REASONS.values() else OTHER).inc()

    def count_swap(self, taken: bool) -> None:
        """One attempt to serve something new."""
        self._swaps.labels("taken" if taken else "refused").inc()

    def count_unwritten(self) -> None:
        """One request that the journal did not take."""
        self._unwritten.inc()

    def render(self, verdicts_s: float) -> bytes:
        """Text exposition; `verdicts_s` is when monitoring wrote its own, NaN where it did not."""
        self._verdicts.set(verdicts_s)
        return bytes(generate_latest(self.registry))
