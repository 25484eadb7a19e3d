"""Which settings are worth a try on a machine: a coarse grid, and the neighbours of a candidate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

MOST_ROWS = 32
"""Largest ``max_joined_rows`` to try: on a CPU more rows never paid."""

PARAMETER = {
    "engine": "engine",
    "precision": "precision",
    "hint": "PERFORMANCE_HINT",
    "streams": "NUM_STREAMS",
    "threads": "INFERENCE_NUM_THREADS",
    "rows": "max_joined_rows",
}
"""Fields of a candidate and the parameters of ``config.pbtxt`` that they become; ``instances`` has a section there."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings to serve a model with; ``None`` leaves one as the configuration has it.

    Attributes:
        engine: "openvino" or "onnxruntime".
        precision: "bf16".
        hint: "THROUGHPUT": an inference a thread.
        streams: inferences side by side inside the engine.
        threads: of the engine, all streams together.
        rows: most rows of waiting requests that run as one inference.
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
        """What it says in the ``parameters`` section."""
        values = {key: getattr(self, name) for name, key in PARAMETER.items()}
        return {key: str(value) for key, value in values.items() if value is not None}

    @property
    def set_fields(self) -> frozenset[str]:
        """Names of the fields that are not left as they are."""
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
        cores: that the server may use.
        engines: names of those to try.
        bf16: whether bf16 may be tried, which only OpenVINO has.
        most_rows: that requests may be joined to; 1 if they are not.
        fixed: fields of a candidate that are not to be varied.
        earlier: settings that were found before, to be tried again.
    """

    cores: int
    engines: Sequence[str]
    bf16: bool = False
    most_rows: int = 1
    fixed: frozenset[str] = frozenset()
    earlier: Candidate | None = None

    def coarse(self) -> list[Candidate]:
        """The corners: engine x precision x all threads for one inference or one for each; likely ones first."""
        made = [] if self.earlier is None else [self.earlier]
        hints = [None, "THROUGHPUT"] if self.cores > 1 else [None]
        precisions = [None, "bf16"] if self.bf16 else [None]
        for hint in hints:
            for precision in precisions:
                made += [Candidate(engine=engine, precision=precision, hint=hint) for engine in self.engines]
                if "engine" in self.fixed:
                    made.append(Candidate(precision=precision, hint=hint))
        return self._allowed(made)

    def neighbours(self, candidate: Candidate) -> list[Candidate]:
        """Candidates that differ in one thing, by one step."""
        return self._allowed([one for one in self._steps(candidate) if one != candidate])

    def _allowed(self, made: Sequence[Candidate]) -> list[Candidate]:
        kept = [one for one in made if one != DEFAULT and not one.set_fields & self.fixed and self._runs(one)]
        return list(dict.fromkeys(kept))

    def _runs(self, candidate: Candidate) -> bool:
        return candidate.precision is None or candidate.engine in ("openvino", None)

    def _steps(self, at: Candidate) -> Iterator[Candidate]:
        counts = _doubling(1, min(self.most_rows, MOST_ROWS)) if self.most_rows > 1 else []
        for rows in self._near(at.rows, [None, *counts], jumps=2):
            yield replace(at, rows=rows)
        for hint, streams in self._near(
            (at.hint, at.streams),
            [(None, None), *((None, k) for k in _doubling(2, self.cores - 1)), ("THROUGHPUT", None)],
        ):
            yield replace(at, hint=hint, streams=streams)
        for instances in self._near(at.instances, [None, *_doubling(2, max(2, self.cores))]):
            yield replace(at, instances=instances)
        for threads in self._near(at.threads, [None, *reversed(_doubling(1, self.cores // 2))]):
            yield replace(at, threads=threads)
        if self.bf16:
            yield replace(at, precision=None if at.precision else "bf16")
        for engine in self.engines:
            yield replace(at, engine=engine)

    @staticmethod
    def _near(value: Any, scale: Sequence[Any], jumps: int = 1) -> list[Any]:
        """The values beside one on a scale; from the first one, ``jumps`` of them."""
        if len(scale) == 1 or value not in scale:
            return []
        k = scale.index(value)
        return list(scale[max(0, k - 1) : k]) + list(scale[k + 1 : k + 1 + (jumps if k == 0 else 1)])


def _doubling(first: int, last: int) -> list[int]:
    found = []
    while first <= last:
        found.append(first)
        first *= 2
    return found
