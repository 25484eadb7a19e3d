"""The shield's metrics, from Envoy's statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

_REFUSED = {
    "rate": ("rate.http_local_rate_limit.rate_limited",),
    "slow": ("downstream_rq_header_timeout", "downstream_rq_timeout"),
    "malformed": ("downstream_cx_protocol_error",),
    "connections": ("downstream_global_cx_overflow", "downstream_cx_overload_reject"),
    "certificate": ("ssl.connection_error", "ssl.fail_verify_no_cert", "ssl.fail_verify_error"),
}
"""Why requests or connections were refused, and the ends of the names of statistics that count them."""

_OF_PROTOCOLS = r"http\.(http|grpc)\.downstream_(cx_active|rq_active|rq_[2-5]xx)"
_OF_CLUSTERS = r"cluster\.(http|grpc)\.upstream_(cx_active|rq_pending_active)"
STATISTICS = f"^({_OF_PROTOCOLS}|{_OF_CLUSTERS}|server.memory_allocated)$|({'|'.join(chain(*_REFUSED.values()))})$"
"""A regular expression of the statistics that :func:`metrics` reads."""


def metrics(statistics: Mapping[str, int], *, up: bool, restarts: int) -> Iterable[Metric]:
    """The metrics; only ``up`` and ``restarts`` if there are no statistics."""
    yield GaugeMetricFamily("tnn_shield_up", "1 if the shield answers", value=up)
    yield CounterMetricFamily("tnn_shield_restarts", "Restarts of the shield", value=restarts)
    if not statistics:
        return
    answers = CounterMetricFamily("tnn_shield_requests", "Requests by class of the answer", labels=["protocol", "code"])
    connections = GaugeMetricFamily("tnn_shield_connections", "Connections of callers", labels=["protocol"])
    running = GaugeMetricFamily("tnn_shield_running_requests", "Requests without an answer yet", labels=["protocol"])
    waiting = GaugeMetricFamily(
        "tnn_shield_waiting_requests", "Requests that wait for tritonserver", labels=["protocol"]
    )
    servers = GaugeMetricFamily("tnn_shield_server_connections", "Connections to tritonserver", labels=["protocol"])
    for protocol in ("http", "grpc"):
        for code in ("2xx", "3xx", "4xx", "5xx"):
            answers.add_metric([protocol, code], statistics.get(f"http.{protocol}.downstream_rq_{code}", 0))
        for metric, name in (
            (connections, f"http.{protocol}.downstream_cx_active"),
            (running, f"http.{protocol}.downstream_rq_active"),
            (waiting, f"cluster.{protocol}.upstream_rq_pending_active"),
            (servers, f"cluster.{protocol}.upstream_cx_active"),
        ):
            metric.add_metric([protocol], statistics.get(name, 0))
    refused = CounterMetricFamily("tnn_shield_refused", "Requests and connections refused, by cause", labels=["cause"])
    for cause, ends in _REFUSED.items():
        refused.add_metric([cause], sum(value for name, value in statistics.items() if name.endswith(ends)))
    yield from (answers, connections, running, waiting, servers, refused)
    memory = statistics.get("server.memory_allocated", 0)
    yield GaugeMetricFamily("tnn_shield_memory_bytes", "Memory that the shield has allocated", value=memory)
