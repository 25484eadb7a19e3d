"""Which engine runs a network, and in which precision: measured, and said why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from tnn_serving.deviation import relative_error
from tnn_serving.emit.int8 import Form
from tnn_serving.engines import ENGINES, Engine
from tnn_serving.engines.base import Arrays, Precision
from tnn_serving.engines.cpu import Cpu
from tnn_serving.engines.select import fastest, measure
from tnn_serving.engines.shapes import ShapeCache
from tnn_serving.errors import ConfigError, EngineError
from tnn_serving.network.int8 import Decision

log = logging.getLogger(__name__)

BF16_SPEEDUP = 1.1
"""``precision="auto"`` takes bf16 from this gain on."""

BF16_ERROR = 0.01
"""Largest error, as a share of an output's largest value, with which ``precision="auto"`` takes bf16."""

DISAGREEMENT = 0.01
"""Difference between the engines, as a share of an output's largest value, from which one of them must be wrong."""

TRUSTED = "onnxruntime"
"""The engine that is taken then: it follows ONNX's definitions most closely."""

PrecisionChoice = Literal["f32", "bf16", "auto"]


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
class Candidate:
    """A network compiled on one engine in one precision, and the form of its int8 layers."""

    compiled: ShapeCache
    int8: Decision


Compile = Callable[[Engine, Precision], Candidate]


def read_precision(text: str) -> PrecisionChoice:
    """A precision by its name. Raises ConfigError for an unknown one."""
    choices: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)
    for known in choices:
        if text == known:
            return known
    raise ConfigError("unknown precision", expected=", ".join(choices), found=text)


def choose(
    engines: Sequence[Engine], precision: PrecisionChoice, compile: Compile, feeds: Arrays, cpu: Cpu
) -> tuple[Candidate, Choice]:
    """The fastest of ``engines`` that can run a network.

    Args:
        engines: the candidates; the first is taken where the difference is noise.
        precision: "auto" takes bf16 if it is faster by a tenth and at most 1 % off.
        compile: compiles for an engine and a precision; raises EngineError if it cannot.
        feeds: inputs to measure with.
        cpu: whether bf16 is worth a try.

    Raises:
        EngineError: none of them can.
    """
    wanted: Precision = "bf16" if precision == "bf16" else "f32"
    candidates: dict[str, Candidate] = {}
    failures: list[EngineError] = []
    for engine in engines:
        try:
            candidates[engine.name] = compile(engine, wanted)
        except EngineError as error:
            log.info("%s", error)
            failures.append(error)
    if not candidates:
        raise failures[0]
    name, reason = next(iter(candidates)), "the only one that can run the network" if failures else "asked for"
    if len(candidates) > 1:
        try:
            seconds = measure({name: _Run(made.compiled, feeds) for name, made in candidates.items()})
        except EngineError as error:  # the network may be right with other inputs than the made ones
            reason = f"not measured: {error}"
        else:
            name = fastest(seconds)
            reason = ", ".join(f"{engine} {taken * 1e3:.3g} ms" for engine, taken in seconds.items())
            gap = _gap(candidates, feeds)
            if gap > DISAGREEMENT:
                name = TRUSTED if TRUSTED in candidates else name
                reason = f"{reason}; their answers differ by {gap:.2g} of the largest value, so {name} is trusted"
                log.warning("engines disagree: %s", reason)
    chosen, choice = candidates[name], Choice(name, wanted, reason)
    if precision == "f32":
        return chosen, choice
    if precision == "auto" and not cpu.bf16:
        return chosen, replace(choice, reason=f"{reason}; the processor has no bf16")
    return _with_bf16(precision, compile, feeds, chosen, choice)


def _gap(candidates: Mapping[str, Candidate], feeds: Arrays) -> float:
    """The largest difference between the candidates' float outputs; 0 where int8 forms differ on purpose."""
    first, *others = candidates.values()
    if first.int8.form is not Form.EXACT or any(other.int8.form is not Form.EXACT for other in others):
        return 0.0
    wanted = _floats(first.compiled.run(feeds))
    return max(relative_error(_floats(other.compiled.run(feeds)), wanted) for other in others)


def _floats(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def _with_bf16(
    precision: PrecisionChoice, compile: Compile, feeds: Arrays, chosen: Candidate, choice: Choice
) -> tuple[Candidate, Choice]:
    """Compares bf16, which only OpenVINO has, with f32; for "auto" keeps what is better."""
    openvino = ENGINES["openvino"]
    try:
        plain = chosen if precision == "auto" else compile(openvino, "f32")
        short = chosen if precision == "bf16" else compile(openvino, "bf16")
        off = relative_error(short.compiled.run(feeds), plain.compiled.run(feeds))
        seconds = measure({"f32": _Run(plain.compiled, feeds), "bf16": _Run(short.compiled, feeds)})
    except EngineError as error:
        return chosen, replace(choice, reason=f"{choice.reason}; bf16 not measured: {error}")
    gain = seconds["f32"] / seconds["bf16"]
    reason = f"{choice.reason}; bf16 is {gain:.2f} times as fast as f32 and {off:.2%} off"
    if precision == "bf16" or (gain >= BF16_SPEEDUP and off <= BF16_ERROR):
        return short, Choice(openvino.name, "bf16", reason, off)
    return chosen, replace(choice, reason=reason)


@dataclass(frozen=True, slots=True)
class _Run:
    """One inference, as something to call."""

    compiled: ShapeCache
    feeds: Arrays

    def __call__(self) -> object:
        return self.compiled.run(self.feeds)
