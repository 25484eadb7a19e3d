"""What a check of a model repository finds, as plain data: the table and the JSON of ``check`` are two views of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from tnn_serving.emit.limits import bytes_text
from tnn_serving.errors import TnnError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know. With an error the model is not served; with a warning it is, but not as intended.

    Attributes:
        where: file, layer, input or parameter.
        problem: one sentence.
        expected, found, hint: as in :class:`tnn_serving.errors.TnnError`; empty where there is nothing to say.
    """

    severity: Severity
    where: str
    problem: str
    expected: str = ""
    found: str = ""
    hint: str = ""

    def softened(self) -> Finding:
        """The same where it keeps nothing from being served."""
        return replace(self, severity="warning") if self.severity == "error" else self


def of_error(error: TnnError | OSError, where: str = "") -> Finding:
    """An error that was raised, as a finding."""
    if isinstance(error, OSError):
        return Finding("error", where, f"cannot be read: {error.strerror}", found=str(error.filename))
    expected, found = ("" if fact is None else str(fact) for fact in (error.expected, error.found))
    return Finding("error", ", ".join(error.where) or where, error.problem, expected, found, error.hint or "")


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file of a model version."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CheckedTensor:
    """An input or output as a client sees it, -1 where a dim is free."""

    name: str
    datatype: str
    dims: list[int]


@dataclass(frozen=True, slots=True)
class Memory:
    """An estimate at the default shapes: weights as stored and as the engine gets them, and the largest sum of the
    activations that are needed at one time."""

    stored_bytes: int
    weights_bytes: int
    activations_bytes: int


@dataclass(slots=True)
class CheckedVersion:
    """One version. ``batch`` says whether the rows of a batch are independent, or why not; ``engine`` is empty where
    the version was not opened; ``completed`` is what ``config.pbtxt`` leaves out."""

    version: int
    served: bool
    files: list[CheckedFile] = field(default_factory=list)
    layers: int = 0
    inputs: list[CheckedTensor] = field(default_factory=list)
    outputs: list[CheckedTensor] = field(default_factory=list)
    engine: str = ""
    batch: str = ""
    memory: Memory | None = None
    completed: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class CheckedModel:
    """A model folder. ``kind`` is "tnn", "ensemble", or the backend or platform that serves it."""

    name: str
    repository: str
    kind: str
    versions: list[CheckedVersion] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def everything(self) -> Iterator[tuple[int | None, Finding]]:
        """Findings of the model and of its versions, with the version's number."""
        yield from ((None, finding) for finding in self.findings)
        yield from ((version.version, finding) for version in self.versions for finding in version.findings)

    def count(self, severity: Literal["error", "warning", "note"]) -> int:
        """How many findings are of this kind."""
        return sum(finding.severity == severity for _, finding in self.everything())


@dataclass(slots=True)
class Checked:
    """All models of all repositories; ``skipped`` are folders without a model."""

    models: list[CheckedModel]
    skipped: list[str]
    errors: int
    warnings: int


def memory_text(memory: Memory | None) -> str:
    """The estimate for people."""
    if memory is None:
        return ""
    return bytes_text(memory.weights_bytes + memory.activations_bytes)
