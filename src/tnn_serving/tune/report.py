"""The result of a tuning, shown by the table, the JSON, the page and the comment in ``config.pbtxt``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tnn_serving.engines import ENGINES
from tnn_serving.engines.cpu import available_cores, cpu_name
from tnn_serving.tune.goal import Goal, GoalKind, Point, Trial
from tnn_serving.tune.search import Outcome
from tnn_serving.tune.space import Candidate
from tnn_serving.version import VERSION


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of the measurements.

    Attributes:
        cores: number of cores that the server may use.
        cores_reason: the reason for this number.
        versions: of this package, the engines and tritonserver.
    """

    cpu: str
    cores: int
    cores_reason: str
    versions: dict[str, str]

    @classmethod
    def here(cls, server_version: str) -> Machine:
        """This machine, with the version of its tritonserver."""
        cores = available_cores()
        versions = {"tnn-serving": VERSION, **{engine.name: engine.version() for engine in ENGINES.usable()}}
        return cls(cpu_name(), cores.count, cores.reason, {**versions, "tritonserver": server_version})


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """A candidate with its figures: of its median final round if it has any, otherwise of its last trial.

    Attributes:
        label: a description of its settings.
        parameters, instances: its values for ``config.pbtxt``.
        points: one per level of load.
        error: largest difference from the default's answer, as a share of the output's largest value.
        problem: why it is excluded.
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
    """Request, measurements and result of a tuning.

    Attributes:
        goal, p99_ms: the goal.
        date: of the start, ISO 8601.
        inputs: dims by input, including the batch.
        batch: inferences per request.
        concurrency: levels of load.
        kept: settings of the user's configuration that were not varied.
        default, chosen: equal if nothing was clearly better.
        candidates: all candidates including the default: first those of the final rounds, then the others, best first.
        gain: how many times better than the default the chosen one is, median over the rounds; ``None`` if one of the
            two exceeds the p99 limit, or nothing was compared.
        rounds: how often the chosen one and the default were measured alternately.
        confirmed: whether this was often enough.
        met: whether the chosen one is within the p99 limit.
        interrupted: by Ctrl-C.
    """

    model: str
    goal: GoalKind
    p99_ms: float | None
    budget_s: float
    elapsed_s: float
    date: str
    machine: Machine
    inputs: dict[str, list[int]]
    batch: int
    concurrency: tuple[int, ...]
    kept: dict[str, str]
    default: CandidateResult
    chosen: CandidateResult
    candidates: list[CandidateResult]
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
        """The lowest p99 of all candidates that exceed the limit; ``None`` if there are none."""
        reached = [-score for one in self.candidates if 0 > (score := self.aim.score(one.points)) > float("-inf")]
        return min(reached, default=None)

    def evidence(self) -> list[str]:
        """Lines about the measurement (date, machine, load) and its result."""
        sizes = ", ".join(f"{name} {dims}" for name, dims in self.inputs.items())
        levels = ", ".join(map(str, self.concurrency))
        return [
            f"Measured {self.date} for {self.aim}; {sizes}; concurrency {levels}.",
            f"{self.machine.cpu}, {self.machine.cores} cores ({self.machine.cores_reason})",
            ", ".join(f"{name} {number}" for name, number in self.machine.versions.items()),
            *self.findings(),
        ]

    def findings(self) -> list[str]:
        """Lines with the figures of the default and the chosen candidate."""
        lines = [f"default: {self._figures(self.default)}"]
        if not self.changed:
            return [*lines, "no candidate is clearly better"]
        gain = "" if self.gain is None else f", {self.gain:.2f} times as good"
        lines.append(f"chosen: {self._figures(self.chosen)}{gain}; {self.rounds} alternating rounds")
        if self.chosen.error and "precision" in self.chosen.parameters:
            lines.append(f"bf16 answers differ by {self.chosen.error:.2%}")
        return lines

    def _figures(self, result: CandidateResult) -> str:
        point = self.aim.point(result.points)
        if point is None:
            return "not measured"
        return (
            f"{point.inferences_per_s:.1f} inferences/s, p50 {point.p50_ms:.2f} ms, p99 {point.p99_ms:.2f} ms "
            f"at concurrency {point.concurrency}"
        )


def candidate_results(outcome: Outcome, goal: Goal) -> dict[Candidate, CandidateResult]:
    """The figures of all candidates: first those of the final rounds, then the others, best first."""
    found = {}
    for candidate, latest in outcome.latest().items():
        rounds = [trials[candidate] for trials in outcome.rounds if candidate in trials]
        trial = median_trial(rounds, goal) if rounds else latest
        trials = sum(one.candidate == candidate for one in outcome.trials)
        found[candidate] = CandidateResult(
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


def median_trial(trials: Sequence[Trial], goal: Goal) -> Trial:
    """The trial with the median score, the lower one of two."""
    score = statistics.median_low([goal.score(trial.points) for trial in trials])
    return next(trial for trial in trials if goal.score(trial.points) == score)


def gain(outcome: Outcome, goal: Goal) -> float | None:
    """How many times better than the default the chosen one is; ``None`` if unknown or infinite."""
    found = outcome.gains(goal).get(outcome.chosen, 0.0) if outcome.rounds else 0.0
    return found if 0 < found < math.inf else None
