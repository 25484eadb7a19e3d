"""Which engine runs a network, and in which precision: measured, compared, and with the reason."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tnn_serving.choices import PrecisionChoice
from tnn_serving.deviation import deviation, relative_error
from tnn_serving.engines.base import Arrays, Engine, Precision
from tnn_serving.engines.cpu import Cpu
from tnn_serving.engines.registry import following_onnx
from tnn_serving.engines.shapes import ShapeCache
from tnn_serving.engines.timing import fastest, time_in_turn
from tnn_serving.errors import EngineError, TnnError

log = logging.getLogger(__name__)

BF16_SPEEDUP = 1.1
"""``precision="auto"`` takes bf16 from this gain on."""

BF16_ERROR = 0.01
"""Largest error, as a share of an output's largest value, with which ``precision="auto"`` takes bf16."""

DISAGREEMENT = 1e-3
"""Difference between engines, as a share of an output's largest value, beyond which one of them must be wrong."""

DISAGREEMENT_IN_HALF = 1e-2
"""The same for float16, in which some engines round every step, and others the answer only."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a network, and why.

    Attributes:
        engine: its name.
        precision: "f32" or "bf16".
        reason: what was measured, as a sentence.
        error: of bf16, the largest difference to f32 as a share of the output's largest value; 0 for f32.
    """

    engine: str
    precision: Precision
    reason: str
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineCandidate:
    """A network compiled on one engine in one precision.

    Attributes:
        exact: it computes what the model says; int8 kernels differ from each other by a step per layer.
    """

    compiled: ShapeCache
    exact: bool = True


Compile = Callable[[Engine, Precision], EngineCandidate]


def choose(
    engines: Sequence[Engine], precision: PrecisionChoice, compile: Compile, trials: Iterable[Arrays], cpu: Cpu
) -> tuple[EngineCandidate, Choice]:
    """The fastest of ``engines`` that can run a network and agree about the answer.

    They are compared with the first that follows ONNX. Where nothing could be compared, that one runs the network.

    Args:
        engines: the candidates; the first is taken where the difference is noise.
        precision: "auto" takes bf16 if it is faster by a tenth and at most 1 % off.
        compile: compiles for an engine and a precision; raises EngineError if it cannot.
        trials: inputs to compare and to measure with: the first that an engine which follows ONNX takes.
        cpu: whether bf16 is worth a try.

    Raises:
        EngineError: none of them can.
    """
    wanted: Precision = "bf16" if precision == "bf16" else "f32"
    candidates: dict[str, EngineCandidate] = {}
    failures: list[EngineError] = []
    for engine in engines:
        try:
            candidates[engine.name] = compile(engine, wanted)
        except EngineError as error:
            log.info("%s", error)
            failures.append(error)
    if not candidates:
        raise failures[0]
    able = [engine for engine in engines if engine.name in candidates]
    if len(able) > 1:
        feeds, name, reason = _compared(able, candidates, trials)
    else:
        feeds = next(iter(trials))
        name, reason = able[0].name, "the only one that can run the network" if failures else "asked for"
    chosen, choice = candidates[name], Choice(name, wanted, reason)
    if precision == "f32":
        return chosen, choice
    if precision == "auto" and not cpu.bf16:
        return chosen, replace(choice, reason=f"{reason}; the processor has no bf16")
    return _with_bf16(able, precision, compile, feeds, chosen, choice)


def _compared(
    engines: Sequence[Engine], candidates: Mapping[str, EngineCandidate], trials: Iterable[Arrays]
) -> tuple[Arrays, str, str]:
    """Inputs that were measured with, the name of the engine to take, and why."""
    trusted = following_onnx(engines) or engines[0]
    feeds, wanted, refusal = _first_taken(candidates[trusted.name].compiled, trials)
    if wanted is None:
        return feeds, trusted.name, f"not compared, {trusted.title} refuses made inputs: {refusal}"
    if not any(array.size for array in wanted.values()):
        return feeds, trusted.name, "not compared, there is no number in the outputs"
    tolerance = _tolerance(feeds, wanted)
    agreeing: dict[str, _Run] = {}
    problems: list[str] = []
    for engine in engines:
        run = _Run(candidates[engine.name].compiled, feeds)
        problem = None
        if engine is not trusted:
            exact = candidates[engine.name].exact and candidates[trusted.name].exact
            problem = _problem(run, wanted, tolerance if exact else math.inf)
        if problem is None:
            agreeing[engine.name] = run
        else:
            problems.append(f"{engine.name} {problem}")
    if problems:
        log.warning("engines disagree: %s, so %s is trusted", "; ".join(problems), trusted.name)
    if len(agreeing) == 1:
        return feeds, trusted.name, f"{'; '.join(problems)}, so {trusted.name} is trusted"
    seconds = time_in_turn(agreeing)
    measured = ", ".join(f"{name} {taken * 1e3:.3g} ms" for name, taken in seconds.items())
    return feeds, fastest(seconds), "; ".join([measured, *problems])


def _first_taken(compiled: ShapeCache, trials: Iterable[Arrays]) -> tuple[Arrays, Arrays | None, TnnError | None]:
    """The first inputs that an executable takes, with its answer; else the last ones with the reason."""
    feeds: Arrays = {}
    refusal: TnnError | None = None
    for feeds in trials:
        try:
            return feeds, compiled.run(feeds), None
        except TnnError as error:
            refusal = error
    return feeds, None, refusal


def _problem(run: _Run, wanted: Arrays, tolerance: float) -> str | None:
    """Why an engine is not to be taken; ``None`` if it agrees."""
    try:
        answer = run()
    except TnnError as error:
        return f"refuses inputs that are right: {error}"
    gap = disagreement(answer, wanted)
    return None if gap <= tolerance else f"differs by {gap:.2g} of the largest value"


def _tolerance(feeds: Arrays, wanted: Arrays) -> float:
    half = any(array.dtype == np.float16 for array in (*feeds.values(), *wanted.values()))
    return DISAGREEMENT_IN_HALF if half else DISAGREEMENT


def disagreement(answer: Arrays, wanted: Arrays) -> float:
    """The largest difference of an output, as a share of its largest value.

    Infinite for other shapes or types, integers and booleans that are not equal, and NaN or infinity in other places.
    """
    return max((_difference(answer[name], reference) for name, reference in wanted.items()), default=0.0)


def _difference(value: np.ndarray, reference: np.ndarray) -> float:
    if value.shape != reference.shape or value.dtype != reference.dtype:
        return math.inf
    if reference.dtype.kind != "f":
        return 0.0 if np.array_equal(value, reference) else math.inf
    found = deviation(value, reference)
    return found.max_abs / (found.largest or 1.0)


def _with_bf16(
    engines: Sequence[Engine],
    precision: PrecisionChoice,
    compile: Compile,
    feeds: Arrays,
    chosen: EngineCandidate,
    choice: Choice,
) -> tuple[EngineCandidate, Choice]:
    """Compares bf16 with f32, on the first engine that has it; for "auto" keeps what is better."""
    engine = next((engine for engine in engines if "bf16" in engine.precisions), None)
    if engine is None:
        return chosen, replace(choice, reason=f"{choice.reason}; {_listed(engines)} has no bf16")
    try:
        plain = chosen if precision == "auto" else compile(engine, "f32")
        short = chosen if precision == "bf16" else compile(engine, "bf16")
        off = relative_error(short.compiled.run(feeds), plain.compiled.run(feeds))
        seconds = time_in_turn({"f32": _Run(plain.compiled, feeds), "bf16": _Run(short.compiled, feeds)})
    except EngineError as error:
        return chosen, replace(choice, reason=f"{choice.reason}; bf16 not measured: {error}")
    gain = seconds["f32"] / seconds["bf16"]
    reason = f"{choice.reason}; bf16 is {gain:.2f} times as fast as f32 and {off:.2%} off"
    if precision == "bf16" or (gain >= BF16_SPEEDUP and off <= BF16_ERROR):
        return short, Choice(engine.name, "bf16", reason, off)
    return chosen, replace(choice, reason=reason)


def _listed(engines: Sequence[Engine]) -> str:
    return " or ".join(engine.title for engine in engines)


@dataclass(frozen=True, slots=True)
class _Run:
    """One inference, as something to call."""

    compiled: ShapeCache
    feeds: Arrays

    def __call__(self) -> dict[str, np.ndarray]:
        return self.compiled.run(self.feeds)
