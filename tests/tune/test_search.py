"""The search on simulated machines of known speed, with a simulated clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from tnn_serving.engines import ENGINES
from tnn_serving.tune.goal import Goal, Point, Trial
from tnn_serving.tune.search import MIN_ROUNDS, Outcome, search
from tnn_serving.tune.space import DEFAULT, PARAMETER, Candidate, Space

EVERY = list(ENGINES.values())


def point(concurrency: int, p50_ms: float, *, p99_ms: float | None = None, rate: float | None = None) -> Point:
    return Point(
        concurrency,
        requests=100,
        inferences_per_s=1e3 * concurrency / p50_ms if rate is None else rate,
        p50_ms=p50_ms,
        p99_ms=2 * p50_ms if p99_ms is None else p99_ms,
        rows=1.0,
        server_cpu_us=None,
        stable=True,
    )


@dataclass
class Machine:
    """A machine on which a candidate takes ``p50_ms``, and loading ``load_s``. ``noise`` multiplies the n-th trial."""

    p50_ms: Callable[[Candidate], float]
    load_s: float = 1.0
    noise: Callable[[int], float] = lambda n: 1.0
    broken: frozenset[Candidate] = frozenset()
    interrupt_at: int | None = None
    now: float = 0.0
    loaded: set[Candidate] = field(default_factory=lambda: {DEFAULT})
    measured: list[Candidate] = field(default_factory=list)
    most_loaded: int = 0

    def clock(self) -> float:
        return self.now

    def measure(self, candidate: Candidate, seconds: float) -> Trial:
        if len(self.measured) == self.interrupt_at:
            raise KeyboardInterrupt
        self.measured.append(candidate)
        if candidate not in self.loaded:
            self.loaded.add(candidate)
            self.now += self.load_s
        if candidate in self.broken:
            self.loaded.discard(candidate)
            return Trial(candidate, problem="it cannot be loaded")
        self.most_loaded = max(self.most_loaded, len(self.loaded))
        self.now += seconds
        ms = self.p50_ms(candidate) * self.noise(len(self.measured))
        return Trial(candidate, (point(1, ms),))

    def drop(self, candidate: Candidate) -> None:
        assert candidate != DEFAULT
        self.loaded.discard(candidate)


def run(machine: Machine, space: Space, budget_s: float = 120, goal: Goal | None = None) -> Outcome:
    return search(space, goal or Goal("latency"), machine, budget_s, clock=machine.clock)


SPACE = Space(cores=4, engines=EVERY, most_rows=8)


def speed(candidate: Candidate) -> float:
    """The best is onnxruntime with 2 threads and 2 instances."""
    return (
        10.0
        - (2.0 if candidate.engine == "onnxruntime" else 0)
        - (1.5 if candidate.threads == 2 else 0)
        - (1.0 if candidate.instances == 2 else 0)
        + (3.0 if candidate.hint else 0)
    )


def test_the_best_is_found_step_by_step_and_confirmed() -> None:
    machine = Machine(speed, load_s=0.5)
    outcome = run(machine, SPACE, 240)
    assert outcome.chosen == Candidate(engine="onnxruntime", threads=2, instances=2)
    assert outcome.confirmed
    assert not outcome.interrupted


@pytest.mark.parametrize("budget_s", [5, 20, 60, 120, 600])
@pytest.mark.parametrize("load_s", [0.1, 2.0, 10.0])
def test_a_budget_is_exceeded_by_at_most_one_load(budget_s: float, load_s: float) -> None:
    machine = Machine(speed, load_s=load_s)
    run(machine, SPACE, budget_s)
    assert machine.measured[0] == DEFAULT
    assert machine.now <= budget_s + load_s


def test_half_of_the_candidates_are_dropped_at_a_time() -> None:
    machine = Machine(speed, load_s=0.1)
    run(machine, SPACE, 600)
    corners = SPACE.coarse()
    counts = [machine.measured.index(one) for one in corners]
    assert counts == sorted(counts)
    again = machine.measured[1 + len(corners) :]
    assert set(again[: len(corners) // 2]) == set(sorted(corners, key=speed)[: len(corners) // 2])
    assert machine.most_loaded <= 1 + len(corners)


def test_the_default_is_chosen_if_all_candidates_are_equal() -> None:
    outcome = run(Machine(lambda candidate: 5.0, noise=lambda n: 1 + 0.02 * (n % 3)), SPACE)
    assert outcome.chosen == DEFAULT
    assert outcome.confirmed


def test_a_short_disturbance_decides_nothing() -> None:
    """The machine is twice as fast for a while; the final rounds compare with the default."""
    outcome = run(Machine(lambda candidate: 5.0, noise=lambda n: 0.5 if n in (3, 4) else 1.0), SPACE)
    assert outcome.chosen == DEFAULT


def test_a_gain_in_little_more_than_half_of_the_rounds_is_not_trusted() -> None:
    seen: dict[Candidate, int] = {}

    def flickering(candidate: Candidate) -> float:
        seen[candidate] = seen.get(candidate, 0) + 1
        return 5.0 if candidate == DEFAULT else 4.5 if seen[candidate] % 2 else 5.5

    outcome = run(Machine(flickering), SPACE)
    (rival,) = [one for one in list(outcome.rounds[0]) if one != DEFAULT][:1]
    speeds = [trials[rival].points[0].p50_ms for trials in outcome.rounds]
    assert len(speeds) >= 2 * MIN_ROUNDS
    assert abs(speeds.count(4.5) - speeds.count(5.5)) <= 1
    assert outcome.chosen == DEFAULT


def test_of_equals_the_one_that_changes_least_is_chosen() -> None:
    def alike(candidate: Candidate) -> float:
        return (5.0 if candidate.engine == "onnxruntime" else 8.0) - (0.04 if candidate.rows else 0.0)

    outcome = run(Machine(alike, load_s=0.2), SPACE)
    assert outcome.chosen == Candidate(engine="onnxruntime")
    assert any(one.rows for one in outcome.rounds[0])


def test_finalists_and_default_are_measured_alternately() -> None:
    machine = Machine(speed)
    outcome = run(machine, SPACE)
    turn = list(outcome.rounds[0])
    end = machine.measured[-len(turn) * len(outcome.rounds) :]
    expected = [one for k in range(len(outcome.rounds)) for one in (turn if k % 2 == 0 else turn[::-1])]
    assert end == expected
    assert turn[0] == DEFAULT


def test_candidates_that_cannot_run_are_left_out() -> None:
    broken = frozenset(one for one in SPACE.coarse() if one.engine == "onnxruntime")
    machine = Machine(speed, load_s=0.2, broken=broken)
    outcome = run(machine, SPACE)
    assert outcome.chosen.engine != "onnxruntime" or outcome.chosen not in broken
    assert all(machine.measured.count(one) == 1 for one in broken)
    assert {trial.candidate for trial in outcome.trials if trial.problem} >= broken


def test_nothing_to_try_leaves_the_default_unconfirmed() -> None:
    fixed = frozenset([*PARAMETER, "instances"])
    outcome = run(Machine(speed), Space(cores=4, engines=EVERY, fixed=fixed))
    assert [trial.candidate for trial in outcome.trials] == [DEFAULT]
    assert not outcome.confirmed


@pytest.mark.parametrize("at", [0, 1, 5, 12])
def test_ctrl_c_keeps_what_was_measured(at: int) -> None:
    machine = Machine(speed, load_s=0.2, interrupt_at=at)
    outcome = run(machine, SPACE)
    assert outcome.interrupted
    assert len(outcome.trials) == at
    assert not outcome.rounds
    assert not outcome.confirmed


def test_ctrl_c_in_the_comparison_keeps_whole_rounds() -> None:
    whole = Machine(speed)
    rounds = run(whole, SPACE).rounds
    machine = Machine(speed, interrupt_at=len(whole.measured) - 1)
    outcome = run(machine, SPACE)
    assert outcome.interrupted
    assert len(outcome.rounds) == len(rounds) - 1
    assert outcome.confirmed


def test_the_order_is_always_the_same() -> None:
    runs = [Machine(speed) for _ in range(2)]
    for machine in runs:
        run(machine, SPACE)
    assert runs[0].measured == runs[1].measured


# ---- goals ----


def test_latency_is_the_mean_of_all_levels() -> None:
    goal = Goal("latency")
    assert goal.score([point(1, 2.0), point(4, 8.0)]) == pytest.approx(1e3 / 4.0)
    assert goal.score([]) == -math.inf


def test_throughput_is_the_best_level_within_the_bound() -> None:
    points = [point(1, 10, p99_ms=12, rate=100), point(4, 25, p99_ms=40, rate=160), point(16, 90, p99_ms=120, rate=180)]
    assert Goal("throughput").score(points) == 180
    assert Goal("throughput", 50).score(points) == 160
    assert Goal("throughput", 50).point(points) == points[1]
    assert Goal("throughput", 5).score(points) == -12
    assert Goal("throughput", 5).point(points) == points[0]


def test_a_candidate_within_the_bound_beats_a_faster_one_outside() -> None:
    goal = Goal("latency", 20)
    within, outside = goal.score([point(1, 9.0, p99_ms=19)]), goal.score([point(1, 5.0, p99_ms=21)])
    assert within > 0 > outside == -21
    assert goal.score([point(1, 5.0, p99_ms=10), point(4, 15.0, p99_ms=25)]) == -25


@pytest.mark.parametrize("bound", [15.0, 1.0])
def test_the_bound_decides(bound: float) -> None:
    outcome = run(Machine(speed, load_s=0.2), SPACE, goal=Goal("latency", bound))
    chosen = outcome.latest()[outcome.chosen].points
    assert (Goal("latency", bound).score(chosen) > 0) == (bound == 15.0)
    assert (outcome.chosen == DEFAULT) == (bound == 1.0)


# ---- the space ----


def test_corners_are_engines_precisions_and_ways_to_divide_the_cores() -> None:
    labels = [str(one) for one in Space(cores=2, engines=EVERY, bf16=True).coarse()]
    assert labels == [
        "openvino",
        "onnxruntime",
        "openvino, bf16",
        "openvino, THROUGHPUT",
        "onnxruntime, THROUGHPUT",
        "openvino, bf16, THROUGHPUT",
    ]
    assert [str(one) for one in Space(cores=1, engines=EVERY).coarse()] == list(ENGINES)


def test_settings_of_an_earlier_tuning_come_first() -> None:
    before = Candidate(engine="onnxruntime", rows=4)
    assert Space(cores=2, engines=EVERY, earlier=before).coarse()[0] == before


def steps(space: Space, at: Candidate) -> Sequence[str]:
    return [str(one) for one in space.neighbours(at)]


def test_neighbours_differ_in_one_step() -> None:
    at = Candidate(engine="openvino")
    assert steps(Space(cores=8, engines=EVERY, most_rows=64), at) == [
        "openvino, 1 row",
        "openvino, 2 rows",
        "openvino, 2 streams",
        "openvino, 2 instances",
        "openvino, 4 threads",
        "onnxruntime",
    ]
    wide = Candidate(engine="openvino", streams=4, threads=4, rows=32)
    assert steps(Space(cores=8, engines=EVERY, most_rows=64), wide) == [
        "openvino, 4 streams, 4 threads, 16 rows",
        "openvino, 2 streams, 4 threads, 32 rows",
        "openvino, THROUGHPUT, 4 threads, 32 rows",
        "openvino, 4 streams, 4 threads, 32 rows, 2 instances",
        "openvino, 4 streams, 32 rows",
        "openvino, 4 streams, 2 threads, 32 rows",
        "onnxruntime, 4 streams, 4 threads, 32 rows",
    ]


def test_rows_are_not_varied_where_requests_are_not_joined() -> None:
    assert not any("row" in step for step in steps(Space(cores=2, engines=EVERY), Candidate(engine="openvino")))


@pytest.mark.parametrize("name", [*PARAMETER, "instances"])
def test_fixed_fields_are_never_set(name: str) -> None:
    space = Space(cores=8, engines=EVERY, bf16=True, most_rows=64, fixed=frozenset({name}))
    frontier, seen = space.coarse(), set()
    while frontier:
        one = frontier.pop()
        if one not in seen and len(seen) < 300:
            seen.add(one)
            frontier += space.neighbours(one)
    assert seen
    assert not any(name in one.set_fields for one in seen)
    assert not any(one.precision == "bf16" and one.engine == "onnxruntime" for one in seen)
