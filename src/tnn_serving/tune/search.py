"""The search: coarse first, half of the candidates dropped at a time, then step by step from the best one, and at the
end the best against the default in turn, so that a quiet moment of the machine decides nothing."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tnn_serving.engines.select import WORTH_CHANGING
from tnn_serving.tune.goal import Goal, Trial
from tnn_serving.tune.space import DEFAULT, Candidate, Space

SHORTEST_S = 0.02
"""Share of the budget that the first measurement of a candidate gets; each later round gets twice as much."""

COARSE, REFINED = 0.45, 0.75
"""Shares of the budget at whose end the coarse search and the steps from the best candidate are over."""

FINALISTS = 2
"""So many are measured against the default at the end."""

ENOUGH_ROUNDS = 2
"""So often at least must they have been measured in turn for a result to be trusted."""

MOST_ROUNDS = 12


class Bench(Protocol):
    """Where candidates are measured."""

    def measure(self, candidate: Candidate, seconds: float) -> Trial:
        """Loads it if need be and puts it under load for about so many seconds."""

    def drop(self, candidate: Candidate) -> None:
        """It will not be measured again soon."""


@dataclass(slots=True)
class Outcome:
    """What a search found.

    Attributes:
        trials: all measurements in order.
        rounds: those of the end, a list for each round; every finalist and the default are in each.
        chosen: the best candidate; the default where no other is clearly better.
        interrupted: by Ctrl-C.
    """

    trials: list[Trial] = field(default_factory=list)
    rounds: list[dict[Candidate, Trial]] = field(default_factory=list)
    chosen: Candidate = DEFAULT
    interrupted: bool = False

    @property
    def confirmed(self) -> bool:
        """Whether the choice was measured against the default in turn, often enough to be trusted."""
        return len(self.rounds) >= ENOUGH_ROUNDS

    def latest(self) -> dict[Candidate, Trial]:
        """The last measurement of each candidate, in the order in which they were first measured."""
        return {trial.candidate: trial for trial in self.trials}


def search(
    space: Space,
    goal: Goal,
    bench: Bench,
    budget_s: float,
    *,
    on_trial: Callable[[Candidate], None] = lambda candidate: None,
    clock: Callable[[], float] = time.monotonic,
    started: float | None = None,
) -> Outcome:
    """Measures candidates for about ``budget_s`` and chooses one. Ctrl-C ends it with what there is.

    Args:
        on_trial: told about each candidate before it is measured.
        started: when the budget began to run, on ``clock``; now if left out.
    """
    run = _Search(space, goal, bench, budget_s, on_trial, clock, clock() if started is None else started)
    try:
        run.coarse()
        run.refine()
        run.finish()
    except KeyboardInterrupt:
        run.outcome.interrupted = True
    run.choose()
    return run.outcome


class _Search:
    def __init__(
        self,
        space: Space,
        goal: Goal,
        bench: Bench,
        budget_s: float,
        on_trial: Callable[[Candidate], None],
        clock: Callable[[], float],
        started: float,
    ) -> None:
        self._space, self._goal, self._bench = space, goal, bench
        self._budget_s, self._on_trial, self._clock, self._started = budget_s, on_trial, clock, started
        self._seconds = SHORTEST_S * budget_s
        self._overhead_s = 0.0
        self.outcome = Outcome()

    # ---- the three parts ----

    def coarse(self) -> None:
        """Successive halving: all for a short time, the better half for twice as long, and so on."""
        self._measure(DEFAULT)
        left = self._space.coarse()
        while left:
            measured = [one for one in left if self._fits(COARSE) and self._measure(one).points]
            self._keep(measured)
            if len(measured) < len(left) and not self._fits(COARSE):
                break
            left = self._ranked(measured)[: math.ceil(len(measured) / 2)]
            self._keep(left)
            if len(measured) < 2:
                break
            self._seconds *= 2

    def refine(self) -> None:
        """Steps to a better neighbour as long as there is one."""
        while True:
            best = self._ranked()[0]
            for candidate in self._space.neighbours(best):
                if candidate in self.outcome.latest():
                    continue
                if not self._fits(REFINED):
                    return
                self._measure(candidate)
                self._keep(self._ranked()[:FINALISTS])
                if self._ranked()[0] == candidate:
                    break
            else:
                return

    def finish(self) -> None:
        """The best ones and the default in turn, forwards and backwards, until the time is over."""
        finalists = [one for one in self._ranked() if one != DEFAULT][:FINALISTS]
        self._keep(finalists)
        if not finalists:
            return
        turn = [DEFAULT, *finalists]
        left_s = self._budget_s - self._elapsed_s()
        self._seconds = max(SHORTEST_S * self._budget_s, min(self._seconds, left_s / (3 * len(turn))))
        self._overhead_s = 0.0
        while len(self.outcome.rounds) < MOST_ROUNDS and self._fits(1.0, len(turn)):
            trials = {one: self._measure(one) for one in turn}
            self.outcome.rounds.append(trials)
            turn.reverse()

    def choose(self) -> None:
        """The best by the median of the rounds, or by the last measurement; the default if the gain is noise."""
        outcome = self.outcome
        if outcome.rounds:
            scores = {
                one: statistics.median_low([self._score(trials[one]) for trials in outcome.rounds])
                for one in outcome.rounds[0]
            }
        else:
            scores = {one: self._score(trial) for one, trial in outcome.latest().items()}
        if DEFAULT not in scores:
            return
        best, default = max(scores, key=lambda one: scores[one]), scores[DEFAULT]
        better = scores[best] * WORTH_CHANGING > default if scores[best] > 0 else False
        outcome.chosen = best if better else DEFAULT

    # ---- one measurement ----

    def _measure(self, candidate: Candidate) -> Trial:
        self._on_trial(candidate)
        begun = self._clock()
        trial = self._bench.measure(candidate, self._seconds)
        # Loading is most of what a candidate costs beside its load.
        self._overhead_s = max(0.7 * self._overhead_s, self._clock() - begun - self._seconds)
        self.outcome.trials.append(trial)
        return trial

    def _fits(self, share: float, count: int = 1) -> bool:
        """Whether so many more measurements end within a share of the budget, as far as can be told."""
        return self._elapsed_s() + count * (self._seconds + self._overhead_s) <= share * self._budget_s

    def _elapsed_s(self) -> float:
        return self._clock() - self._started

    def _score(self, trial: Trial) -> float:
        return self._goal.score(trial.points)

    def _ranked(self, among: Sequence[Candidate] | None = None) -> list[Candidate]:
        """Candidates that could be measured, best first; of equals, the one that was tried earlier."""
        latest = self.outcome.latest()
        possible = [one for one in (latest if among is None else among) if latest[one].points]
        return sorted(possible, key=lambda one: -self._score(latest[one]))

    def _keep(self, candidates: Sequence[Candidate]) -> None:
        """Drops all others but the default."""
        for one in self.outcome.latest():
            if one != DEFAULT and one not in candidates:
                self._bench.drop(one)
