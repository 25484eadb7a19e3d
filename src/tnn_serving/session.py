"""A network that is compiled and answers: all that serving needs, in whichever process it was prepared.

In: an analysis, and executables.  Out: answers.  What only a load needs is in :mod:`tnn_serving.model`; nothing here
reads a file, translates or knows ONNX.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from typing_extensions import Self

from tnn_serving.admission import Admission, ShapeAuthority, not_taken
from tnn_serving.analysis import Analysis, Blob, scores_of
from tnn_serving.display import dims_text, few, lines, page, table
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines import Shapes, TensorSpec
from tnn_serving.engines.base import NO_ARRAYS, Arrays
from tnn_serving.engines.choose import Choice
from tnn_serving.engines.shapes import Allocate, ShapeCache, placeholders
from tnn_serving.errors import EngineError, RequestError, TnnError
from tnn_serving.nearest import did_you_mean, listed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

TRUSTED_S = 1.0
"""How long an engine is trusted that has shown to be well."""


class Session(ABC):
    """A compiled network. :meth:`run` and :meth:`infer` may be called from several threads at once.

    In a ``with`` statement it is closed at the end.

    Args:
        analysis: of the network.
        served: the outputs that are asked for by default.
        typical: the input shapes to measure at, if they are not the default ones.

    Attributes:
        choice: the engine that runs the network, and why. A subclass sets it, and calls :meth:`_opened`.
        sizes: the shape of each input that inferences are measured at.
        sized: inputs that decide a size, an index or a count, with values that the network is likely to take.
    """

    choice: Choice

    def __init__(self, analysis: Analysis, served: Sequence[str], typical: Shapes) -> None:
        self.analysis = analysis
        self.sized: Arrays = {}
        self._dims = {blob.name: tuple(dim or 0 for dim in blob.dims) for blob in analysis.inputs}
        self.sizes = dict(self._dims)
        self.sizes.update({name: tuple(shape) for name, shape in typical.items() if name in self.sizes})
        self._served = tuple(served)
        self._inputs = {blob.name: _spec(blob) for blob in analysis.inputs}
        self._blobs = {blob.name: _spec(blob) for blob in analysis.blobs}
        self._trusted_until = 0.0
        self._lock = threading.Lock()
        self._is_closed = False
        self._compiled: dict[tuple[tuple[str, ...], tuple[str, ...]], ShapeCache] = {}

    def _opened(self, authority: ShapeAuthority, compiled: ShapeCache) -> None:
        """The served outputs are compiled, and ``authority`` says which other shapes the network takes."""
        self._authority = authority
        self._admission = Admission(authority, self.analysis)
        self._compiled[self._served, ()] = compiled

    @abstractmethod
    def _compile_for(self, outputs: tuple[str, ...], fed: tuple[str, ...]) -> ShapeCache:
        """Compiles for other outputs than the served ones, or with optional inputs fed. Raises EngineError."""

    @property
    @abstractmethod
    def int8_form(self) -> str:
        """How int8 layers are run: "exact", or one of the forms for int8 kernels; "none" where there are no such
        layers."""

    @property
    def engine(self) -> str:
        """Name of the engine that runs the network."""
        return self.choice.engine

    @property
    def inputs(self) -> list[TensorSpec]:
        """Name, type and shape of each input (``None`` where free), in file order."""
        return list(self._inputs.values())

    @property
    def outputs(self) -> list[TensorSpec]:
        """Name, type and shape of each output (``None`` where it follows the inputs), in file order."""
        return [self._blobs[name] for name in self.analysis.outputs]

    @property
    def optional_inputs(self) -> list[str]:
        """Inputs that may be left out, because the model file holds a value for them."""
        return list(self.analysis.optional)

    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]:
        """The input shapes that the file gives."""
        return self.analysis.default_shapes

    def blobs(self) -> dict[str, TensorSpec]:
        """Type and shape of every blob that a layer produces."""
        return dict(self._blobs)

    def run(self, inputs: Arrays | ArrayLike, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs the network.

        Args:
            inputs: an array for each input; those with a stored value may be left out. The array alone, where one
                input has none. Arrays are converted to the input's type where that loses nothing in kind (float64 to
                float32, int64 to int32).
            outputs: blobs to return, any of the network; its outputs if left out.

        Returns:
            An array for each output, by its name.

        Raises:
            RequestError: an input is missing, unknown, or of a wrong type, rank or size; an unknown output; or the
                model is closed.
            EngineError: the engine fails.
        """
        if self._is_closed:
            raise _closed()
        given = self._named(inputs)
        wanted = (
            self.analysis.outputs if outputs is None else (outputs,) if isinstance(outputs, str) else tuple(outputs)
        )
        try:
            answer = self.infer({name: self._converted(name, array) for name, array in given.items()}, wanted)
        except TnnError as error:
            self._check_blobs(wanted, error)
            raise
        # Memory of the engine would keep an infer request busy for as long as the caller has it.
        return {name: array if array.flags.owndata else array.copy() for name, array in answer.items()}

    def close(self) -> None:
        """Frees the compiled network. Inferences that are running end as usual; later ones raise RequestError."""
        with self._lock:  # not during a compilation
            self._is_closed = True
            self._authority = _CLOSED
            self._admission = Admission(_CLOSED, self.analysis)
            self._compiled = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return lines(
            self._title(),
            inputs=few([_spec_text(spec) for spec in self.inputs]),
            outputs=few([_spec_text(spec) for spec in self.outputs]),
        )

    def _repr_html_(self) -> str:
        """Inputs and outputs, and what :meth:`_details` adds, for a notebook."""
        rows = [
            (kind, spec.name, spec.dtype, dims_text(spec.shape))
            for kind, specs in (("input", self.inputs), ("output", self.outputs))
            for spec in specs
        ]
        return page(self._title(), table(("", "name", "type", "dims"), rows), *self._details())

    def _details(self) -> Sequence[str]:
        """Further HTML about the network."""
        return ()

    def _title(self) -> str:
        state = ", closed" if self._is_closed else ""
        return f"{type(self).__name__} {self.analysis.source} on {self.engine}, {self.choice.precision}{state}"

    def infer(self, feeds: Arrays, outputs: tuple[str, ...], allocate: Allocate | None = None) -> dict[str, np.ndarray]:
        """One inference without a copy: arrays in the inputs' own types in, memory that may be the engine's out.

        Args:
            feeds: C-contiguous arrays of the inputs' types.
            outputs: blobs to return.
            allocate: asked for memory to write large outputs into.

        Raises:
            RequestError: an input is missing, unknown, or of a wrong rank or size, or the engine refuses it.
            EngineError: the engine fails, on inputs that it has answered before as well.
        """
        fed, fresh = self._admission.check(feeds)
        executable = self._executable(outputs, fed)
        try:
            answer = executable.run(feeds, allocate)
        except EngineError as error:
            self._admission.withdraw(feeds)
            if self._has_failed(executable, feeds):
                raise
            raise not_taken(feeds, error) from error
        for name in outputs:
            self._check_shape(name, answer[name].shape)
        if fresh is not None:
            self._admission.note_answer(fresh, feeds)
        return answer

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises EngineError for an answer that an engine has not written as the network says."""
        known = self._blobs.get(name)  # int8 blobs that are merged with others are not analysed
        wanted = shape if known is None else known.shape
        if shape != wanted and (
            len(shape) != len(wanted)
            or any(have != want for have, want in zip(shape, wanted, strict=True) if want is not None)
        ):
            dims = [-1 if dim is None else dim for dim in wanted]
            raise EngineError(f"{self.engine} answers `{name}` in another shape", expected=dims, found=list(shape))

    def _has_failed(self, executable: ShapeCache, feeds: Arrays) -> bool:
        """Whether an engine that has refused inputs does not take those either that it has answered before.

        If it does, nothing is wrong with the engine, and what it has refused is the request. It is asked once in
        :data:`TRUSTED_S` at most, so that bad requests do not cost the others time.
        """
        known = self._admission.answered(feeds)
        if known is None or time.monotonic() < self._trusted_until:
            return False
        try:
            executable.run(known)
        except EngineError:
            return True
        except RequestError:
            return False
        self._trusted_until = time.monotonic() + TRUSTED_S
        return False

    def warm(self, shapes: Shapes, outputs: Sequence[str] | None = None) -> None:
        """Compiles for single input shapes ahead of the first request. Raises as :meth:`run`."""
        wanted = tuple(outputs) if outputs is not None else self._served
        fed, _ = self._admission.check(placeholders([self._inputs[name] for name in shapes], shapes))
        self._executable(wanted, fed).warm(shapes)

    def memory_at(self, shapes: Shapes) -> int:
        """The memory in bytes that the network needs at these shapes. Raises RequestError: it does not take them."""
        return self._admission.needs(placeholders([self._inputs[name] for name in shapes], shapes))

    def note_obstacle(self, obstacle: str) -> None:
        """Takes back that rows are independent: a trial has shown that they are not."""
        self.analysis = replace(self.analysis, obstacle=obstacle)
        self._admission = Admission(self._authority, self.analysis)

    def shape_caches(self) -> list[ShapeCache]:
        """What has been compiled, for statistics."""
        return list(self._compiled.values())

    def _executable(self, outputs: tuple[str, ...], fed: tuple[str, ...]) -> ShapeCache:
        found = self._compiled.get((outputs, fed))
        if found is not None:
            return found
        with self._lock:
            if self._is_closed:
                raise _closed()
            if (outputs, fed) not in self._compiled:
                self._compiled[outputs, fed] = self._compile_for(outputs, fed)
            return self._compiled[outputs, fed]

    def _inputs_of(self, fed: Sequence[str]) -> list[TensorSpec]:
        """The inputs of an executable that takes the optional inputs ``fed``."""
        return [spec for spec in self.inputs if spec.name not in self.analysis.optional or spec.name in fed]

    def _named(self, inputs: Arrays | ArrayLike) -> Mapping[str, ArrayLike]:
        """The inputs by name. Raises RequestError for an array alone where several are needed."""
        if isinstance(inputs, Mapping):
            return inputs
        needed = [name for name in self._inputs if name not in self.analysis.optional]
        if len(needed) == 1:
            return {needed[0]: inputs}
        raise RequestError(
            f"the network needs {len(needed)} inputs",
            expected=f"a dict with an array for each of {', '.join(f'`{name}`' for name in needed)}",
            found=_given(inputs),
        )

    def _check_blobs(self, names: Sequence[str], failure: TnnError) -> None:
        """Raises RequestError if a failure is that of a blob that is not there. Not asked before: int8 blobs that are
        merged with others exist, but are not analysed."""
        for name in names:
            if scores_of(name, self._blobs) not in self._blobs and name not in self._inputs:
                hint = did_you_mean(name, self._blobs)
                raise RequestError(f"there is no blob `{name}`", expected=listed(self._blobs), hint=hint) from failure

    def _converted(self, name: str, value: ArrayLike) -> np.ndarray:
        spec = self._inputs.get(name)
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise RequestError(f"input `{name}` is no array", found=str(error)) from error
        if spec is not None and array.dtype != spec.dtype:
            if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise RequestError(f"input `{name}` has another type", expected=spec.dtype, found=array.dtype)
            array = array.astype(spec.dtype)
        return np.ascontiguousarray(array) if array.ndim else array


class _Closed:
    """In place of the network of a closed session."""

    limits: Limits = UNLIMITED

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays = NO_ARRAYS
    ) -> NoReturn:
        """Refuses."""
        raise _closed()


_CLOSED = _Closed()


def _closed() -> RequestError:
    return RequestError("the model is closed", hint="load it again")


def _given(inputs: object) -> str:
    """What a caller has given, in words."""
    if isinstance(inputs, np.ndarray):
        return f"an array {inputs.dtype} {dims_text(inputs.shape)}"
    return f"an object of type {type(inputs).__name__}"


def _spec_text(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {dims_text(spec.shape)}"


def _spec(blob: Blob) -> TensorSpec:
    return TensorSpec(blob.name, blob.dtype, blob.known)
