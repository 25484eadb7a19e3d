"""What the backend adds to the server's metrics endpoint.

:data:`FAMILIES` is the one list of them. :class:`Metrics` registers them once in the process; :class:`ModelMetrics` is
the :class:`~tnn_serving.serving.observer.Observer` of one model version and takes its series away when that is closed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from tnn_serving.triton.backend.contract import MetricFunctions, MetricKind


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: one series for each model version, and for each value of ``labels``. :data:`HEARTBEATS` alone has one
    series for the server, without labels.

    Attributes:
        labels: names of labels beside ``model`` and ``version``.
        buckets: upper bounds, of a histogram.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


ENGINE = Family("tnn_engine_info", MetricKind.GAUGE, "What runs the model; always 1", ("engine", "precision", "int8"))
LOAD_SECONDS = Family(
    "tnn_load_seconds", MetricKind.GAUGE, "Time that loading took: reading, translating, compiling, measuring, checking"
)
SHAPE_CACHE_HITS = Family(
    "tnn_shape_cache_hits_total", MetricKind.COUNTER, "Inferences on an executable of their own input shape"
)
SHAPE_CACHE_MISSES = Family("tnn_shape_cache_misses_total", MetricKind.COUNTER, "Inferences on the general executable")
SHAPE_CACHE_SIZE = Family("tnn_shape_cache_size", MetricKind.GAUGE, "Input shapes that have an executable now")
BATCH_ROWS = Family(
    "tnn_batch_rows", MetricKind.HISTOGRAM, "Rows of each inference", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
DECODE_SECONDS = Family("tnn_decode_seconds_total", MetricKind.COUNTER, "Time spent on decoding and resizing pictures")
DECODE_COUNT = Family("tnn_decode_count", MetricKind.COUNTER, "Inferences whose pictures were decoded")
MEMORY_BYTES = Family(
    "tnn_model_memory_bytes", MetricKind.GAUGE, "Estimated memory of the weights and of what is compiled"
)
OLDEST_EXECUTION = Family(
    "tnn_oldest_execution_seconds", MetricKind.GAUGE, "Age of the oldest execution that still runs; 0 when none does"
)
ENGINE_ERRORS = Family(
    "tnn_engine_errors_in_a_row", MetricKind.GAUGE, "Internal errors since the last answer; wrong requests do not count"
)

HEARTBEATS = Family(
    "tnn_heartbeats_total",
    MetricKind.COUNTER,
    "Grows twice a second while Python inside the server moves; a value that stays means that nothing is answered",
)

FAMILIES = (
    ENGINE,
    LOAD_SECONDS,
    SHAPE_CACHE_HITS,
    SHAPE_CACHE_MISSES,
    SHAPE_CACHE_SIZE,
    BATCH_ROWS,
    DECODE_SECONDS,
    DECODE_COUNT,
    MEMORY_BYTES,
    OLDEST_EXECUTION,
    ENGINE_ERRORS,
    HEARTBEATS,
)


class Metrics:
    """The registered families. A server that lacks one (an older Triton has no histograms) publishes the others."""

    def __init__(self, shim: MetricFunctions) -> None:
        self._shim = shim
        self._handles = {f.name: shim.metric_family(f.kind, f.name, f.help) for f in FAMILIES}
        family = self._handles[HEARTBEATS.name]
        self._heartbeats = shim.metric(family, {}, HEARTBEATS.buckets) if family else 0

    def model(self, name: str, version: int) -> ModelMetrics:
        return ModelMetrics(self._shim, self._handles, name, version)

    def beat(self) -> None:
        """Publishes that the interpreter moves."""
        if self._heartbeats:
            self._shim.metric_inc(self._heartbeats, 1)

    def close(self) -> None:
        """Deletes the series that belongs to no model; :meth:`beat` must not be called any more."""
        if self._heartbeats:
            self._shim.metric_delete(self._heartbeats)


class ModelMetrics:
    """Publishes what one model version does."""

    def __init__(self, shim: MetricFunctions, families: Mapping[str, int], name: str, version: int) -> None:
        self._shim = shim
        self._families = families
        self._labels = {"model": name, "version": str(version)}
        self._series: dict[tuple[str, ...], int] = {}
        # Held around every use of a series: one that is deleted meanwhile would crash the server.
        self._lock = threading.Lock()
        self._watched = 0
        self._closed = False

    def engine(self, name: str, precision: str, int8: str) -> None:
        self._set(ENGINE, 1, (name, precision, int8))

    def loaded(self, seconds: float) -> None:
        self._set(LOAD_SECONDS, seconds)

    def batch(self, rows: int) -> None:
        with self._lock:
            if series := self._find(BATCH_ROWS):
                self._shim.metric_observe(series, rows)

    def decoded(self, seconds: float) -> None:
        self._add(DECODE_SECONDS, seconds)
        self._add(DECODE_COUNT, 1)

    def shape_cache(self, hits: int, misses: int, size: int) -> None:
        self._add(SHAPE_CACHE_HITS, hits)
        self._add(SHAPE_CACHE_MISSES, misses)
        self._set(SHAPE_CACHE_SIZE, size)

    def memory(self, nbytes: int) -> None:
        self._set(MEMORY_BYTES, nbytes)

    def watch(self, model: int) -> None:
        """Has the shim publish the age of the oldest execution of the model with this handle."""
        with self._lock:
            if series := self._find(OLDEST_EXECUTION):
                self._shim.watch(model, series)
                self._watched = model

    def engine_errors(self, count: int) -> None:
        """So many internal errors since the last answer."""
        self._set(ENGINE_ERRORS, count)

    def close(self) -> None:
        """Deletes all series; later events are not published."""
        with self._lock:
            self._closed = True
            if self._watched:
                self._shim.unwatch(self._watched)
            for series in self._series.values():
                if series:
                    self._shim.metric_delete(series)
            self._series.clear()

    def _set(self, family: Family, value: float, labels: tuple[str, ...] = ()) -> None:
        with self._lock:
            if series := self._find(family, labels):
                self._shim.metric_set(series, value)

    def _add(self, family: Family, value: float) -> None:
        with self._lock:
            if series := self._find(family):
                self._shim.metric_inc(series, value)

    def _find(self, family: Family, labels: tuple[str, ...] = ()) -> int:
        """The handle of a series, made at its first use; 0 when there is none."""
        key = (family.name, *labels)
        series = self._series.get(key)
        if series is None:
            handle = self._families[family.name]
            if self._closed or not handle:
                return 0
            named = {**self._labels, **dict(zip(family.labels, labels, strict=True))}
            series = self._series[key] = self._shim.metric(handle, named, family.buckets)
        return series
