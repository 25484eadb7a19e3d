"""The supervisor's metrics, for Prometheus. Imported when they are first read, which a server does not wait for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tnn_serving.triton.monitor import Monitor
from tnn_serving.triton.process import descriptors

CONTENT_TYPE: str = CONTENT_TYPE_LATEST


def metrics_text(monitor: Monitor, more: Callable[[], Iterable[Metric]]) -> str:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(SupervisorMetrics(monitor, more))
    text: bytes = generate_latest(registry)
    return text.decode()


class SupervisorMetrics(Collector):
    """The supervisor's metrics, from the monitor's report at each request.

    Args:
        more: metrics of other programs that the supervisor runs.
    """

    def __init__(self, monitor: Monitor, more: Callable[[], Iterable[Metric]] = tuple) -> None:
        self._monitor = monitor
        self._more = more

    def collect(self) -> Iterable[Metric]:
        health = self._monitor.report()
        yield GaugeMetricFamily("tnn_supervisor_up", "1 if tritonserver answers", value=health.up)
        yield GaugeMetricFamily("tnn_supervisor_ready", "1 if /health/ready answers 200", value=health.ready)
        restarts = CounterMetricFamily("tnn_supervisor_restarts", "Restarts of tritonserver by cause", labels=["cause"])
        for cause, count in health.restarts.items():
            restarts.add_metric([cause], count)
        yield restarts
        models = GaugeMetricFamily(
            "tnn_supervisor_model_ready", "1 if a version of a model answers requests", labels=["model", "version"]
        )
        for one in health.models:
            models.add_metric([one.name, one.version], one.ready)
        yield models
        counts = descriptors(health.pid) if health.pid is not None else None
        for k, (name, text) in enumerate((("open", "has open"), ("most", "may have open"))):
            family = GaugeMetricFamily(
                f"tnn_supervisor_{name}_descriptors", f"File descriptors that tritonserver {text}"
            )
            if counts is not None:
                family.add_metric((), counts[k])
            yield family
        yield from self._more()
