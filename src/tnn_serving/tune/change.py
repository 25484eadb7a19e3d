"""The change that a tuning makes to a ``config.pbtxt``, and the file that it is made in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tnn_serving.tune import write
from tnn_serving.tune.report import Report
from tnn_serving.tune.space import Candidate


@dataclass(frozen=True, slots=True)
class Change:
    """The text of a configuration before and after a tuning."""

    before: str
    after: str

    def __bool__(self) -> bool:
        return self.after != self.before

    def diff(self, path: Path) -> str:
        """As a unified diff."""
        return write.config_diff(self.before, self.after, path)

    def added(self) -> str:
        """The new lines."""
        return "".join(line[1:] for line in self.diff(Path()).splitlines(True)[2:] if line[0] == "+")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """Where a tuning reads a configuration, and where it writes it.

    Attributes:
        start: the file that is read; ``None`` for no file.
        target: the file that is written; ``None`` for files of a model that are in no repository.
    """

    start: Path | None
    target: Path | None

    @classmethod
    def of(cls, own: Path | None, output: Path | None) -> ConfigFile:
        """The model's own file, or another one in its place, which is read if it exists."""
        return cls(output if output is not None and output.exists() else own, output or own)

    def text(self) -> str:
        """The text as it is now. Raises ConfigError."""
        return "" if self.start is None else write.read(self.start)

    def change(self, report: Report, chosen: Candidate, *, force: bool) -> Change:
        """What a tuning changes in the file as it is now: it may have been edited meanwhile. Raises ConfigError."""
        before = self.text()
        evidence = report.evidence() if report.changed else ()
        return Change(before, write.with_settings(before, chosen, evidence, force=force))
