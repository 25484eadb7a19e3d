"""What a tuning found, as one record: the table, the JSON, the page and the comment in ``config.pbtxt`` show it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tnn_serving.engines import ENGINES
from tnn_serving.engines.cpu import available_cores, cpu_name
from tnn_serving.tune.goal import Goal, Kind, Point, Trial
from tnn_serving.tune.search import Outcome
from tnn_serving.tune.space import Candidate
from tnn_serving.version import VERSION


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured.

    Attributes:
        cores: that the server may use, and the reason for this number.
        versions: of this package, the engines and tritonserver.
    """

    cpu: str
    cores: int
    cores_reason: str
    versions: dict[str, str]

    @classmethod
    def here(cls, server_version: str) -> Machine:
        """This machine with a server of a version."""
        cores = available_cores()
        versions = {"tnn-serving": VERSION, **{engine.name: engine.version() for engine in ENGINES.usable()}}
        return cls(cpu_name(), cores.count, cores.reason, {**versions, "tritonserver": server_version})


@dataclass(frozen=True, slots=True)
class Result:
    """A candidate with its figures: those of the round in the middle where it came to the end, or of its last trial.

    Attributes:
        label: in words.
        parameters, instances: what ``config.pbtxt`` would say.
        points: by level of load.
        error: largest difference to the default's answer, as a share of the output's largest value.
        problem: why it is out.
        trials: how often it was measured.
    """

    label: str
    parameters: dict[str, str]
    instances: int | None
    points: tuple[Point, ...]
    error: float
    problem: str | None
    trials: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was asked, measured and chosen.

    Attributes:
        goal, p99_ms: what was wanted.
        date: when it began, ISO 8601.
        inputs: dims of what was sent, by input; the batch included.
        batch: inferences a request.
        concurrency: levels of load.
        kept: what the user's configuration says and was not varied.
        default, chosen: the same if nothing was clearly better.
        candidates: all of them with the default: those that were compared in turn first, then the others, best first.
        gain: how many times better than the default, by the median of the rounds; ``None`` if one of them does not
            keep the bound, or nothing was compared.
        rounds: how often the chosen one and the default were measured in turn.
        confirmed: that was often enough.
        met: the chosen one keeps the bound of p99.
        interrupted: by Ctrl-C.
    """

    model: str
    goal: Kind
    p99_ms: float | None
    budget_s: float
    elapsed_s: float
    date: str
    machine: Machine
    inputs: dict[str, list[int]]
    batch: int
    concurrency: tuple[int, ...]
    kept: dict[str, str]
    default: Result
    chosen: Result
    candidates: list[Result]
    gain: float | None
    rounds: int
    confirmed: bool
    met: bool
    interrupted: bool

    @property
    def aim(self) -> Goal:
        """The goal."""
        return Goal(self.goal, self.p99_ms)

    @property
    def changed(self) -> bool:
        """Whether something better than the default was found."""
        return self.chosen != self.default

    @property
    def best_p99_ms(self) -> float | None:
        """The lowest p99 that any candidate reached, at the level that counts."""
        reached = [-score for one in self.candidates if 0 > (score := self.aim.score(one.points)) > float("-inf")]
        return min(reached, default=None)

    def evidence(self) -> list[str]:
        """Lines that say when, where and how it was found, and what."""
        sizes = ", ".join(f"{name} {dims}" for name, dims in self.inputs.items())
        levels = ", ".join(map(str, self.concurrency))
        return [
            f"Measured {self.date} for {self.aim}; {sizes}; {levels} requests in flight.",
            f"{self.machine.cpu}, {self.machine.cores} cores ({self.machine.cores_reason})",
            ", ".join(f"{name} {number}" for name, number in self.machine.versions.items()),
            *self.findings(),
        ]

    def findings(self) -> list[str]:
        """Lines that say what the default and the chosen one do."""
        lines = [f"default: {self._figures(self.default)}"]
        if not self.changed:
            return [*lines, "nothing that was tried is clearly better"]
        gain = "" if self.gain is None else f", {self.gain:.2f} times as good"
        lines.append(f"chosen: {self._figures(self.chosen)}{gain}; {self.rounds} rounds in turn")
        if self.chosen.error and "precision" in self.chosen.parameters:
            lines.append(f"bf16 answers are {self.chosen.error:.2%} off")
        return lines

    def _figures(self, result: Result) -> str:
        point = self.aim.point(result.points)
        if point is None:
            return "not measured"
        return (
            f"{point.inferences_per_s:.1f} inferences/s, p50 {point.p50_ms:.2f} ms, p99 {point.p99_ms:.2f} ms "
            f"with {point.concurrency} in flight"
        )


def results(outcome: Outcome, goal: Goal) -> dict[Candidate, Result]:
    """The figures of every candidate: those that were compared in turn first, then the others, best first."""
    found = {}
    for candidate, latest in outcome.latest().items():
        rounds = [trials[candidate] for trials in outcome.rounds if candidate in trials]
        trial = middle(rounds, goal) if rounds else latest
        trials = sum(one.candidate == candidate for one in outcome.trials)
        found[candidate] = Result(
            str(candidate),
            candidate.parameters,
            candidate.instances,
            trial.points,
            trial.error,
            trial.problem,
            trials,
        )
    compared = outcome.rounds[0] if outcome.rounds else {}
    return dict(sorted(found.items(), key=lambda item: (item[0] not in compared, -goal.score(item[1].points))))


def middle(trials: Sequence[Trial], goal: Goal) -> Trial:
    """The trial whose score is the median, the lower one of two."""
    score = statistics.median_low([goal.score(trial.points) for trial in trials])
    return next(trial for trial in trials if goal.score(trial.points) == score)


def gain(outcome: Outcome, goal: Goal) -> float | None:
    """How many times better than the default the chosen one is; ``None`` if that is no number, or not known."""
    found = outcome.gains(goal).get(outcome.chosen, 0.0) if outcome.rounds else 0.0
    return found if 0 < found < math.inf else None
