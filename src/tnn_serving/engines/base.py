"""What every engine offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import onnx

from tnn_serving.errors import ConfigError

Precision = Literal["f32", "bf16"]

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

VIEW_FROM_BYTES = 16 * 1024
"""Outputs from this size on are handed out where the engine left them; smaller ones are copied, which costs less than
keeping track of who still looks at them."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile, named as the engines' documents name it.

    Attributes:
        threads: inference threads, all streams together; 0 for all that the process may use.
        streams: inferences that run side by side inside the engine; 0 for one.
        precision: "f32", or "bf16" for CPUs that have it: faster, 0.4 to 2 % off.
        elastic: compile for as many inferences side by side as there are threads as well, once so many come.
        exact_codes: compute int8 codes in float32 as it is written, divisions by constants included: no int8 kernels.
        cache_dir: where compiled models and measured choices are kept between runs; ``None`` for nowhere.
        profile: measure every node, for :meth:`Executable.profile`; costs a little time.
    """

    threads: int = 0
    streams: int = 0
    precision: Precision = "f32"
    elastic: bool = False
    exact_codes: bool = False
    cache_dir: Path | None = None
    profile: bool = False

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Options:
        """Options from keywords. Raises ConfigError for one that does not exist or does not fit."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown option `{unknown[0]}`", expected=", ".join(sorted(known)))
        made = cls(**values)  # type: ignore[arg-type]
        if made.precision not in get_args(Precision):
            raise ConfigError("unknown precision", expected="f32 or bf16", found=made.precision)
        if made.threads < 0 or made.streams < 0:
            raise ConfigError("threads and streams cannot be negative", found=f"{made.threads}, {made.streams}")
        return made


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output: element type and dims, ``None`` where free."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class NodeTime:
    """A node as the engine runs it: often several operators of the model in one.

    Attributes:
        name: the engine's own.
        origins: names of the model's nodes and values that it stands for, the main one first; none for what the engine
            added by itself, such as a change of layout.
        kernel: what the engine calls the code that ran.
        seconds: mean time of one inference; 0 if it did not have to run.
    """

    name: str
    origins: tuple[str, ...]
    kernel: str
    seconds: float


class Executable(Protocol):
    """A compiled network. ``run`` may be called from several threads at once."""

    @property
    def engine(self) -> str:
        """Name of the engine that compiled it."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference.

        Args:
            feeds: C-contiguous arrays; they are read in place and not kept.
            into: arrays to write outputs into, of the output's type and shape; the answer holds these then.

        Returns:
            All outputs. An array may lie in memory of the engine, which is not used again while the array lives.

        Raises EngineError if the engine refuses the shapes or fails.
        """

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node over so many inferences, in the order of execution. May be called once.

        Raises EngineError if it was compiled without :attr:`Options.profile`, or as :meth:`run`.
        """

    def at(self, shapes: Shapes) -> Executable | None:
        """The same network compiled for inputs of these shapes and no others.

        ``None`` if the engine is as fast without. Raises EngineError if it cannot.
        """

    def side_by_side(self, streams: int) -> Executable | None:
        """The same network compiled for so many inferences at a time, with one thread each.

        ``None`` if it serves many as well as it is. Raises EngineError if the engine cannot.
        """


class Engine(Protocol):
    """Something that compiles ONNX models."""

    name: str

    def compile(self, model: onnx.ModelProto, options: Options) -> Executable:
        """Compiles an ONNX model. Raises EngineError if the engine cannot."""

    def version(self) -> str:
        """Version of the engine's package."""
