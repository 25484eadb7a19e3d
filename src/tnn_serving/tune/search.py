"""The search: coarse first, half of the candidates dropped at a time, then step by step from the best one, and at the
end the best against the default in turn, so that a quiet moment of the machine decides nothing."""

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

SHORTEST_S = 0.02
"""Share of the budget that the first measurement of a candidate gets; each later round gets twice as much."""

COARSE, REFINED = 0.4, 0.65
"""Shares of the budget at whose end the coarse search and the steps from the best candidate are over."""

FINALISTS = 2
"""So many are measured against the default at the end, one if there is little time."""

ENOUGH_ROUNDS, WANTED_ROUNDS = 2, 4
"""So often at least must they have been measured in turn for a result to be trusted; and so often if there is time."""

MOST_ROUNDS = 12

WORTH_A_LINE = 0.99
"""Of two candidates, one with a setting more must take less than this share of the other's time to be preferred."""

WINS = 2 / 3
"""The chosen one is better than the default in at least this share of the rounds."""


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

    def gains(self, goal: Goal) -> dict[Candidate, float]:
        """How many times better than the default: the median of the rounds' ratios, in which what the machine did
        meanwhile cancels out; without rounds, the ratio of the last measurements.

        0 for one that misses the bound, infinite for one that keeps it where the default does not.
        """
        rounds = self.rounds or [self.latest()]
        if DEFAULT not in rounds[0]:
            return {}
        return {one: statistics.median_low([_gain(goal, trials, one) for trials in rounds]) for one in rounds[0]}

    def latest(self) -> dict[Candidate, Trial]:
        """The last measurement of each candidate, in the order in which they were first measured."""
        return {trial.candidate: trial for trial in self.trials}


def _gain(goal: Goal, trials: Mapping[Candidate, Trial], candidate: Candidate) -> float:
    score, default = goal.score(trials[candidate].points), goal.score(trials[DEFAULT].points)
    if score <= 0:
        return 0.0
    return score / default if default > 0 else math.inf


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
        self._held: set[Candidate] = {DEFAULT}
        self._load_s = self._lag_s = 0.0
        self.outcome = Outcome()

    # ---- the three parts ----

    def coarse(self) -> None:
        """Successive halving: all for a short time, the better half for twice as long, and so on."""
        self._measure(DEFAULT)
        left, share = self._space.coarse(), REFINED
        while left:
            measured = [one for one in left if self._fits(share, one) and self._measure(one).points]
            left = self._ranked(measured)[: math.ceil(len(measured) / 2)]
            if len(left) < 2:
                break
            self._keep(left)
            self._seconds *= 2
            share = COARSE  # each gets one chance, a second one only if there is time for other things too

    def refine(self) -> None:
        """Steps to a better neighbour as long as there is one."""
        self._seconds = 2 * SHORTEST_S * self._budget_s
        while ranked := self._ranked():
            best = ranked[0]
            fresh = [one for one in self._space.neighbours(best) if one not in self.outcome.latest()]
            for candidate in fresh:
                if not self._fits(REFINED, candidate):
                    return
                self._measure(candidate)
                self._keep(self._ranked()[:FINALISTS])
                if self._ranked()[0] == candidate:
                    break
            else:
                return

    def finish(self) -> None:
        """The best ones and the default in turn, forwards and backwards, until the time is over."""
        turn = [DEFAULT, *(one for one in self._ranked() if one != DEFAULT)][: 1 + FINALISTS]
        if len(turn) == 1:
            return
        self._seconds = SHORTEST_S * self._budget_s
        if not self._fits(1.0, *turn * WANTED_ROUNDS):
            turn = turn[:2]
        left_s = (self._budget_s - self._elapsed_s()) / (WANTED_ROUNDS * len(turn))
        self._seconds = max(self._seconds, 0.8 * (left_s - self._lag_s))
        self._keep(turn)
        while len(self.outcome.rounds) < MOST_ROUNDS and self._fits(1.0, *turn):
            self.outcome.rounds.append({one: self._measure(one) for one in turn})
            turn.reverse()

    def choose(self) -> None:
        """Of those that are as good as the best, to within noise, the one that changes least; the default if it is
        one."""
        gains = self.outcome.gains(self._goal)
        best = max(gains.values(), default=0.0)
        if best <= 0:
            return  # nothing keeps the bound
        near = [one for one, gain in gains.items() if gain >= WORTH_CHANGING * best]
        simplest = min(near, key=lambda one: (len(one.set_fields), -gains[one]))
        wins = sum(self._score(trials[simplest]) > self._score(trials[DEFAULT]) for trials in self.outcome.rounds)
        if wins >= WINS * len(self.outcome.rounds):
            self.outcome.chosen = simplest

    # ---- one measurement ----

    def _measure(self, candidate: Candidate) -> Trial:
        self._on_trial(candidate)
        begun = self._clock()
        trial = self._bench.measure(candidate, self._seconds)
        late_s = self._clock() - begun - self._seconds
        if candidate in self._held:
            self._lag_s = late_s
        else:
            self._load_s = max(0.7 * self._load_s, late_s - self._lag_s)
            self._held.add(candidate)
        self.outcome.trials.append(trial)
        return trial

    def _fits(self, share: float, *candidates: Candidate) -> bool:
        """Whether measuring these ends within a share of the budget, as far as the ones before can tell."""
        loads = len(set(candidates) - self._held)
        needed_s = len(candidates) * (self._seconds + self._lag_s) + loads * self._load_s
        return self._elapsed_s() + needed_s <= share * self._budget_s

    def _elapsed_s(self) -> float:
        return self._clock() - self._started

    def _score(self, trial: Trial) -> float:
        return self._goal.score(trial.points)

    def _ranked(self, among: Sequence[Candidate] | None = None) -> list[Candidate]:
        """Candidates that could be measured, best first; of equals, the one that was tried earlier.

        The best measurement of each counts, since other work on the machine only ever slows; and each setting must pay.
        """
        latest = self.outcome.latest()
        scores: dict[Candidate, float] = {}
        for trial in self.outcome.trials:
            score = self._score(trial)
            score *= WORTH_A_LINE ** len(trial.candidate.set_fields) if score > 0 else 1
            scores[trial.candidate] = max(score, scores.get(trial.candidate, -math.inf))
        possible = [one for one in (latest if among is None else among) if latest[one].points]
        return sorted(possible, key=lambda one: -scores[one])

    def _keep(self, candidates: Sequence[Candidate]) -> None:
        """Drops all others but the default."""
        for one in self._held - {DEFAULT, *candidates}:
            self._bench.drop(one)
        self._held &= {DEFAULT, *candidates}
