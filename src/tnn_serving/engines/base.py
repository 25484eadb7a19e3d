"""What an engine is: what it says of itself, what it compiles, and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from tnn_serving.engines.cpu import Cpu
from tnn_serving.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import onnx

Precision = Literal["f32", "bf16"]

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]

NO_ARRAYS: Arrays = {}

PROFILE_WARM_UP = 2
"""Inferences of a profile before those that count: the first ones build kernels."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to compile.

    Attributes:
        threads: inference threads, all streams together; 0 for all that the process may use.
        streams: concurrent inferences inside the engine; 0 for one.
        precision: "f32", or "bf16" for CPUs that have it: faster, 0.4 to 2 % off.
        concurrent: once so many inferences meet, compile for as many concurrent ones as there are threads as well.
        exact_codes: compute int8 codes in float32 as it is written, divisions by constants included: no int8 kernels.
        cache_dir: where compiled models and measurements are kept between runs; ``None`` for nowhere.
        profile: measure every node, for :meth:`Executable.profile`; costs a little time.
    """

    threads: int = 0
    streams: int = 0
    precision: Precision = "f32"
    concurrent: bool = False
    exact_codes: bool = False
    cache_dir: Path | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        if self.threads < 0 or self.streams < 0:
            raise ConfigError("threads and streams cannot be negative", found=f"{self.threads}, {self.streams}")


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
        origins: names of the model's nodes and values that it computes, the main one first; none for what the engine
            adds, such as a change of layout.
        kernel: what the engine calls the code that ran.
        seconds: mean time of one inference; 0 if it did not have to run.
    """

    name: str
    origins: tuple[str, ...]
    kernel: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Int8Kernels:
    """What an engine's int8 kernels take on one processor.

    Attributes:
        signed: they are fastest with int8 codes; otherwise they want uint8. Codes with zero points are always uint8.
        obstacle: why they are not to be used unless asked for, as a sentence; ``None`` if they are safe.
    """

    signed: bool = False
    obstacle: str | None = None


class Executable(ABC):
    """A compiled network. ``run`` may be called from several threads at once."""

    engine: str
    """Name of the engine that compiled it."""

    @property
    @abstractmethod
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""

    @abstractmethod
    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference.

        Args:
            feeds: C-contiguous arrays; they are read in place and not kept.
            into: arrays to write outputs into, of the output's type and shape; the answer holds these then.

        Returns:
            All outputs. An array may be memory of the engine, which is not used again while the array exists.

        Raises EngineError if the engine refuses the inputs or fails.
        """

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node over ``runs`` inferences, in the order of execution. May be called once.

        Raises EngineError if it was compiled without :attr:`Options.profile`, if the engine does not measure nodes, or
        as :meth:`run`.
        """
        raise EngineError(f"{self.engine} does not measure nodes")

    def export(self, model: onnx.ModelProto) -> bytes:
        """What :meth:`Engine.restore` opens in another process on this machine; by default the model itself.

        Args:
            model: what it was compiled from.

        Raises EngineError if the engine fails.
        """
        serialized: bytes = model.SerializeToString()
        return serialized

    def at(self, shapes: Shapes) -> Executable | None:
        """The same network compiled for inputs of these shapes and no others.

        ``None`` if the engine is as fast without. Raises EngineError if it cannot.
        """
        return None

    def concurrent(self, streams: int) -> Executable | None:
        """The same network compiled for ``streams`` concurrent inferences, one thread each.

        ``None`` if this one serves several as well. Raises EngineError if the engine cannot.
        """
        return None


class Engine(ABC):
    """Compiles ONNX models, and says what it can.

    A module that defines one imports nothing heavy: engines are listed, and asked what they can, where they do not run.
    What is not abstract is right for an engine with nothing special.

    Attributes:
        name: as settings give it, in lower case.
        title: as sentences and pictures give it.
        precisions: that it computes in.
        follows_onnx: its answers are what ONNX says: it is taken where engines disagree, or cannot be compared.
        checks_indices: it refuses indices out of range by itself, and ends no process by sizes.
        modules: that :meth:`compile` imports. A process that is going to be confined imports them first: packages may
            look for files that it cannot read any more.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]] = ("f32",)
    follows_onnx: ClassVar[bool] = False
    checks_indices: ClassVar[bool] = False
    modules: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def version(self) -> str:
        """Version of the engine's package."""

    @abstractmethod
    def compile(self, model: onnx.ModelProto, options: Options) -> Executable:
        """Compiles an ONNX model. Raises EngineError if the engine cannot, or would compute something else."""

    def restore(self, exported: Callable[[], bytes], options: Options) -> Executable:
        """Opens what :meth:`Executable.export` wrote, with the options that it was compiled with; by default compiles.

        Args:
            exported: reads it, now or when it is needed once more, so that it need not be kept.

        Raises EngineError for anything else, or if the engine fails.
        """
        import onnx

        return self.compile(onnx.ModelProto.FromString(exported()), options)

    def int8_kernels(self, cpu: Cpu) -> Int8Kernels:
        """What its int8 kernels take on a processor; by default it has none."""
        return Int8Kernels(obstacle=f"{self.title} has no int8 kernels")

    def stream_counts(self, cores: int) -> Sequence[int]:
        """Values of :attr:`Options.streams` above 1 that are worth measuring on so many cores; none by default."""
        return ()

    def thread_counts(self, cores: int) -> Sequence[int]:
        """Values of :attr:`Options.threads` below ``cores`` that are worth measuring; none by default."""
        return ()


def doubling(first: int, last: int) -> list[int]:
    """``first``, and twice as much again and again up to ``last``."""
    found = []
    while first <= last:
        found.append(first)
        first *= 2
    return found
