"""The names and numbers that the C shim and the Python that it starts agree on.

This is their one declaration. :mod:`~tnn_serving.triton.backend.contract_header` generates the C side, ``contract.h``,
from it, and from the two signatures that the shim fills with arguments: those of ``bridge.BackendModel.execute`` and
``RequestTensor``. Who owns what, and when, is in ``docs/backend.md``.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from tnn_serving.serving.tensors import ResponseTensor


SHIM_MODULE = "_tnn_triton"
"""The module that the shim registers in the Python inside tritonserver; :class:`Shim` is what it contains."""

BRIDGE_MODULE = "tnn_serving.triton.backend.bridge"
"""The module that the shim imports."""


class ErrorCode(IntEnum):
    """TRITONSERVER_Error_Code."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class LogLevel(IntEnum):
    """TRITONSERVER_LogLevel."""

    INFO = 0
    WARN = 1
    ERROR = 2
    VERBOSE = 3


class MetricKind(IntEnum):
    """TRITONSERVER_MetricKind."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class Deferred(Enum):
    """The type of :data:`LATER`."""

    LATER = "later"


LATER: Final = Deferred.LATER
"""The result of an ``execute`` whose group is answered by :meth:`GroupFunctions.finish`: later, or already."""


class TritonError(Exception):
    """An error in Triton's terms: a text and a code, and no frames that would keep tensors alive."""

    def __init__(self, triton_code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.triton_code = triton_code


Answer: TypeAlias = "list[ResponseTensor] | TritonError"
"""The outputs of a request, or its error. The shim empties the list when it has copied them."""

Answers: TypeAlias = "Answer | tuple[Answer, ...]"
"""One answer for all requests of a group, each of which gets its rows or the error; or an answer for each request."""

ExecuteResult: TypeAlias = "Answers | Literal[Deferred.LATER]"


class MetricFunctions(Protocol):
    """The part of :class:`Shim` that reaches the server's metrics endpoint. Handles are pointers; 0 is none."""

    def metric_family(self, kind: int, name: str, description: str, /) -> int:
        """A family, which stays until the server ends; 0 if this server has no such metrics."""
        ...

    def metric(self, family: int, labels: dict[str, str], buckets: tuple[float, ...], /) -> int: ...
    def metric_set(self, metric: int, value: float, /) -> None: ...
    def metric_inc(self, metric: int, value: float, /) -> None: ...
    def metric_observe(self, metric: int, value: float, /) -> None: ...
    def metric_delete(self, metric: int, /) -> None: ...

    def watch(self, model_handle: int, metric: int, /) -> None:
        """Sets the gauge to the age in seconds of the model's oldest execution, 0 if there is none, twice a second and
        without the interpreter, until :meth:`unwatch`."""
        ...

    def unwatch(self, model_handle: int, /) -> None: ...


class Shim(MetricFunctions, Protocol):
    """The functions of :data:`SHIM_MODULE`. Raises RuntimeError where Triton refuses."""

    def log(self, level: int, file: str, line: int, message: str, /) -> None: ...
    def log_enabled(self, level: int, /) -> bool: ...


class GroupFunctions(Protocol):
    """What Python can do for a group of requests: functions that the shim makes for each group, bound to its ticket.

    Raises:
        RuntimeError: Triton refuses, or the group has been answered.
    """

    def finish(self, answers: Answers, /) -> None:
        """Answers the group, whose ``execute`` returned :data:`LATER`, or will; from any thread."""
        ...

    def is_cancelled(self, /) -> bool:
        """Whether all requests of the group have been cancelled."""
        ...

    def allocate(self, name: str, datatype: str, shape: tuple[int, ...], nbytes: int, /) -> memoryview:
        """Triton's own memory for an output, which is then not among the answer's."""
        ...

    def span(self, name: str, start_ns: int, end_ns: int, /) -> None:
        """Adds a step to the traces of the group's requests; monotonic time."""
        ...
