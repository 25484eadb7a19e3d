"""The search: successive halving of a coarse grid, then steps from the best candidate, then alternating rounds of the
best candidates and the default, so that short disturbances of the machine do not affect the result."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tnn_serving.engines.timing import WORTH_CHANGING
from tnn_serving.tune.goal import Goal, Trial
from tnn_serving.tune.space import DEFAULT, Candidate, Space

FIRST_SHARE = 0.02
"""Share of the budget for the first measurement of a candidate; each later round gets twice as much."""

COARSE_SHARE, REFINED_SHARE = 0.4, 0.65
"""Shares of the budget after which the coarse search and the steps from the best candidate end."""

FINALISTS = 2
"""How many candidates are measured alternately with the default at the end; one if there is little time."""

MIN_ROUNDS, WANTED_ROUNDS = 2, 4
"""Fewest alternating rounds of a reliable result, and the number to plan for."""

MAX_ROUNDS = 12

EXTRA_SETTING_FACTOR = 0.99
"""A candidate with one more setting is preferred only if it takes less than this share of the other's time."""

MIN_WIN_SHARE = 2 / 3
"""The chosen candidate is better than the default in at least this share of the rounds."""


class TrialRunner(Protocol):
    """Measures candidates."""

    def measure(self, candidate: Candidate, seconds: float) -> Trial:
        """Loads the candidate if necessary, and puts it under load for about ``seconds``."""

    def drop(self, candidate: Candidate) -> None:
        """Unloads the candidate: it is not measured again soon."""


@dataclass(slots=True)
class Outcome:
    """The result of a search.

    Attributes:
        trials: all measurements in order.
        rounds: the final rounds; each contains all finalists and the default.
        chosen: the best candidate; the default if no other is clearly better.
        interrupted: by Ctrl-C.
    """

    trials: list[Trial] = field(default_factory=list)
    rounds: list[dict[Candidate, Trial]] = field(default_factory=list)
    chosen: Candidate = DEFAULT
    interrupted: bool = False

    @property
    def confirmed(self) -> bool:
        """Whether there are enough alternating rounds for a reliable choice."""
        return len(self.rounds) >= MIN_ROUNDS

    def gains(self, goal: Goal) -> dict[Candidate, float]:
        """How many times better than the default each candidate is: the median of the rounds' ratios, in which
        variations of the machine cancel out; without rounds, the ratio of the last measurements.

        0 for a candidate that exceeds the p99 limit, infinite if only the default exceeds it.
        """
        rounds = self.rounds or [self.latest()]
        if DEFAULT not in rounds[0]:
            return {}
        return {one: statistics.median_low([_gain(goal, trials, one) for trials in rounds]) for one in rounds[0]}

    def latest(self) -> dict[Candidate, Trial]:
        """The last measurement of each candidate, in order of their first measurements."""
        return {trial.candidate: trial for trial in self.trials}


def _gain(goal: Goal, trials: Mapping[Candidate, Trial], candidate: Candidate) -> float:
    score, default = goal.score(trials[candidate].points), goal.score(trials[DEFAULT].points)
    if score <= 0:
        return 0.0
    return score / default if default > 0 else math.inf


def search(
    space: Space,
    goal: Goal,
    runner: TrialRunner,
    budget_s: float,
    *,
    on_trial: Callable[[Candidate], None] = lambda candidate: None,
    clock: Callable[[], float] = time.monotonic,
    started: float | None = None,
) -> Outcome:
    """Measures candidates for about ``budget_s`` and chooses one. Ctrl-C ends it with the results so far.

    Args:
        on_trial: called with each candidate before it is measured.
        started: start of the budget on ``clock``; now by default.
    """
    run = _Search(space, goal, runner, budget_s, on_trial, clock, clock() if started is None else started)
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
        runner: TrialRunner,
        budget_s: float,
        on_trial: Callable[[Candidate], None],
        clock: Callable[[], float],
        started: float,
    ) -> None:
        self._space, self._goal, self._runner = space, goal, runner
        self._budget_s, self._on_trial, self._clock, self._started = budget_s, on_trial, clock, started
        self._seconds = FIRST_SHARE * budget_s
        self._loaded: set[Candidate] = {DEFAULT}
        self._load_s = self._lag_s = 0.0
        self.outcome = Outcome()

    # ---- the three parts ----

    def coarse(self) -> None:
        """Successive halving: all candidates for a short time, the better half for twice as long, and so on."""
        self._measure(DEFAULT)
        left, share = self._space.coarse(), REFINED_SHARE
        while left:
            measured = [one for one in left if self._fits(share, one) and self._measure(one).points]
            left = self._ranked(measured)[: math.ceil(len(measured) / 2)]
            if len(left) < 2:
                break
            self._keep(left)
            self._seconds *= 2
            share = COARSE_SHARE  # later rounds must leave time for the steps that follow

    def refine(self) -> None:
        """Steps to a better neighbour until there is none."""
        self._seconds = 2 * FIRST_SHARE * self._budget_s
        while ranked := self._ranked():
            best = ranked[0]
            fresh = [one for one in self._space.neighbours(best) if one not in self.outcome.latest()]
            for candidate in fresh:
                if not self._fits(REFINED_SHARE, candidate):
                    return
                self._measure(candidate)
                self._keep(self._ranked()[:FINALISTS])
                if self._ranked()[0] == candidate:
                    break
            else:
                return

    def finish(self) -> None:
        """Alternating rounds of the best candidates and the default, forwards and backwards, until the time is over."""
        turn = [DEFAULT, *(one for one in self._ranked() if one != DEFAULT)][: 1 + FINALISTS]
        if len(turn) == 1:
            return
        self._seconds = FIRST_SHARE * self._budget_s
        if not self._fits(1.0, *turn * WANTED_ROUNDS):
            turn = turn[:2]
        left_s = (self._budget_s - self._elapsed_s()) / (WANTED_ROUNDS * len(turn))
        self._seconds = max(self._seconds, 0.8 * (left_s - self._lag_s))
        self._keep(turn)
        while len(self.outcome.rounds) < MAX_ROUNDS and self._fits(1.0, *turn):
            self.outcome.rounds.append({one: self._measure(one) for one in turn})
            turn.reverse()

    def choose(self) -> None:
        """Chooses the candidate with the fewest settings among those as good as the best, within noise; this may be the
        default."""
        gains = self.outcome.gains(self._goal)
        best = max(gains.values(), default=0.0)
        if best <= 0:
            return  # all exceed the p99 limit
        near = [one for one, gain in gains.items() if gain >= WORTH_CHANGING * best]
        simplest = min(near, key=lambda one: (len(one.set_fields), -gains[one]))
        wins = sum(self._score(trials[simplest]) > self._score(trials[DEFAULT]) for trials in self.outcome.rounds)
        if wins >= MIN_WIN_SHARE * len(self.outcome.rounds):
            self.outcome.chosen = simplest

    # ---- one measurement ----

    def _measure(self, candidate: Candidate) -> Trial:
        self._on_trial(candidate)
        begun = self._clock()
        trial = self._runner.measure(candidate, self._seconds)
        late_s = self._clock() - begun - self._seconds
        if candidate in self._loaded:
            self._lag_s = late_s
        else:
            self._load_s = max(0.7 * self._load_s, late_s - self._lag_s)
            self._loaded.add(candidate)
        self.outcome.trials.append(trial)
        return trial

    def _fits(self, share: float, *candidates: Candidate) -> bool:
        """Whether measuring these candidates is expected to end within a share of the budget."""
        loads = len(set(candidates) - self._loaded)
        needed_s = len(candidates) * (self._seconds + self._lag_s) + loads * self._load_s
        return self._elapsed_s() + needed_s <= share * self._budget_s

    def _elapsed_s(self) -> float:
        return self._clock() - self._started

    def _score(self, trial: Trial) -> float:
        return self._goal.score(trial.points)

    def _ranked(self, among: Sequence[Candidate] | None = None) -> list[Candidate]:
        """Candidates that could be measured, best first; of equals, the earlier one.

        The best measurement of each counts, since other work on the machine can only slow it down. Each setting costs
        :data:`EXTRA_SETTING_FACTOR`.
        """
        latest = self.outcome.latest()
        scores: dict[Candidate, float] = {}
        for trial in self.outcome.trials:
            score = self._score(trial)
            score *= EXTRA_SETTING_FACTOR ** len(trial.candidate.set_fields) if score > 0 else 1
            scores[trial.candidate] = max(score, scores.get(trial.candidate, -math.inf))
        possible = [one for one in (latest if among is None else among) if latest[one].points]
        return sorted(possible, key=lambda one: -scores[one])

    def _keep(self, candidates: Sequence[Candidate]) -> None:
        """Drops all other candidates except the default."""
        for one in self._loaded - {DEFAULT, *candidates}:
            self._runner.drop(one)
        self._loaded &= {DEFAULT, *candidates}
