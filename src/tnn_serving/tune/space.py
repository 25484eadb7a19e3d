"""The settings to try on a machine: a coarse grid, and the neighbours of a candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tnn_serving.engines import Engine
from tnn_serving.engines.base import doubling

MAX_ROWS = 32
"""Largest ``max_joined_rows`` to try: on a CPU, more rows never brought a benefit."""

PARAMETER = {
    "engine": "engine",
    "precision": "precision",
    "hint": "PERFORMANCE_HINT",
    "streams": "NUM_STREAMS",
    "threads": "INFERENCE_NUM_THREADS",
    "rows": "max_joined_rows",
}
"""Parameters of ``config.pbtxt`` by field of a candidate; ``instances`` is an ``instance_group`` instead."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings to serve a model with; ``None`` leaves a setting as in the configuration.

    Attributes:
        engine: name of the engine.
        precision: "bf16".
        hint: "THROUGHPUT": one inference per thread.
        streams: concurrent inferences inside the engine.
        threads: of the engine, over all streams.
        rows: maximum rows of waiting requests that run as one inference.
        instances: ``count`` of the ``instance_group``.
    """

    engine: str | None = None
    precision: str | None = None
    hint: str | None = None
    streams: int | None = None
    threads: int | None = None
    rows: int | None = None
    instances: int | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """Values for the ``parameters`` section."""
        values = {key: getattr(self, name) for name, key in PARAMETER.items()}
        return {key: str(value) for key, value in values.items() if value is not None}

    @property
    def set_fields(self) -> frozenset[str]:
        """Names of the fields that are not ``None``."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def __str__(self) -> str:
        words: list[str] = [word for word in (self.engine, self.precision, self.hint) if word]
        counts = ((self.streams, "stream"), (self.threads, "thread"), (self.rows, "row"), (self.instances, "instance"))
        words += [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count is not None]
        return ", ".join(words) or "default"


DEFAULT = Candidate()


@dataclass(frozen=True, slots=True)
class Space:
    """The candidates of one model on one machine.

    Attributes:
        cores: number of cores that the server may use.
        engines: engines to try; each states which of its settings are worth trying.
        bf16: whether to try bf16 on engines that support it.
        most_rows: maximum rows that requests may be joined to; 1 without joining.
        fixed: fields of a candidate that are not varied.
        earlier: settings of an earlier tuning, to be tried again.
    """

    cores: int
    engines: Sequence[Engine]
    bf16: bool = False
    most_rows: int = 1
    fixed: frozenset[str] = frozenset()
    earlier: Candidate | None = None

    def coarse(self) -> list[Candidate]:
        """The coarse grid: engine x precision x (all threads for one inference, or one inference per thread); the most
        promising first."""
        made = [] if self.earlier is None else [self.earlier]
        hints = [None, "THROUGHPUT"] if self.cores > 1 else [None]
        precisions = [None, "bf16"] if self.bf16 else [None]
        for hint in hints:
            for precision in precisions:
                made += [Candidate(engine=engine.name, precision=precision, hint=hint) for engine in self.engines]
                if "engine" in self.fixed:
                    made.append(Candidate(precision=precision, hint=hint))
        return self._allowed(made)

    def neighbours(self, candidate: Candidate) -> list[Candidate]:
        """Candidates that differ in one setting by one step."""
        return self._allowed([one for one in self._steps(candidate) if one != candidate])

    def _allowed(self, made: Sequence[Candidate]) -> list[Candidate]:
        allowed = [one for one in made if one != DEFAULT and not one.set_fields & self.fixed and self._runs(one)]
        return list(dict.fromkeys(allowed))

    def _runs(self, candidate: Candidate) -> bool:
        """Whether an engine that the candidate may run on supports all its settings."""
        return any(
            (candidate.precision in (None, *engine.precisions))
            and (not (candidate.hint or candidate.streams) or bool(engine.stream_counts(self.cores)))
            and (not candidate.threads or bool(engine.thread_counts(self.cores)))
            for engine in self._engines(candidate)
        )

    def _engines(self, candidate: Candidate) -> list[Engine]:
        return [engine for engine in self.engines if candidate.engine in (None, engine.name)]

    def _steps(self, at: Candidate) -> Iterator[Candidate]:
        row_counts = doubling(1, min(self.most_rows, MAX_ROWS)) if self.most_rows > 1 else []
        for rows in self._near(at.rows, [None, *row_counts], jumps=2):
            yield replace(at, rows=rows)
        engines = self._engines(at)
        stream_counts = sorted({count for engine in engines for count in engine.stream_counts(self.cores)})
        thread_counts = sorted({count for engine in engines for count in engine.thread_counts(self.cores)})
        every_core = [("THROUGHPUT", None)] if self.cores in stream_counts else []
        for hint, streams in self._near(
            (at.hint, at.streams),
            [(None, None), *((None, count) for count in stream_counts if count < self.cores), *every_core],
        ):
            yield replace(at, hint=hint, streams=streams)
        for instances in self._near(at.instances, [None, *doubling(2, max(2, self.cores))]):
            yield replace(at, instances=instances)
        for threads in self._near(at.threads, [None, *reversed(thread_counts)]):
            yield replace(at, threads=threads)
        if self.bf16:
            yield replace(at, precision=None if at.precision else "bf16")
        for engine in self.engines:
            yield replace(at, engine=engine.name)

    @staticmethod
    def _near(value: Any, scale: Sequence[Any], jumps: int = 1) -> list[Any]:
        """The neighbours of a value on a scale; for the first value, the next ``jumps`` values."""
        if len(scale) == 1 or value not in scale:
            return []
        k = scale.index(value)
        return list(scale[max(0, k - 1) : k]) + list(scale[k + 1 : k + 1 + (jumps if k == 0 else 1)])
