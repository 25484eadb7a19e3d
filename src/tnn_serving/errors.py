"""Everything the package raises on purpose.

TnnError                      base; str() is a whole, readable message
├─ FormatError                the files are not what they claim
│  ├─ ProtoError              text file: segment and token
│  └─ WeightsError            binary file: byte offset
├─ UnsupportedLayer           valid TNN, no translation; or valid ONNX, no TNN layer
├─ ConversionError            a converted network answers otherwise than its source
├─ ShapeError                 incompatible shapes
├─ LimitError                 more memory or time than a model or request may use
├─ ConfigError                config.pbtxt, options or parameters
├─ UsageError                 words of a command line that do not go together
├─ RequestError               the caller's tensors
│  └─ CancelledError          the caller cancelled the request
├─ WorkerError                a worker process ended without an answer
├─ EngineError                OpenVINO or ONNX Runtime refused or failed
└─ ServerError                tritonserver cannot be found, started or kept running

Raise where the fact is known; add the place while unwinding with :func:`located`; print at one edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TnnError(Exception):
    """A problem with its place, what was expected, what was found and what to do.

    Args:
        problem: one sentence, without a final full stop.
        expected: what a correct input contains.
        found: what this input contains.
        hint: what the reader can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        expected: object | None = None,
        found: object | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.expected = expected
        self.found = found
        self.hint = hint
        self.where: tuple[str, ...] = ()

    def headline(self) -> str:
        """Place and problem in one line."""
        return f"{', '.join(self.where)}: {self.problem}" if self.where else self.problem

    def __str__(self) -> str:
        parts = [self.headline()]
        facts = []
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        if self.found is not None:
            facts.append(f"found {self.found}")
        if facts:
            parts.append(", ".join(facts))
        text = ": ".join(parts)
        return f"{text} ({self.hint})" if self.hint else text


class FormatError(TnnError):
    """A file is not what it claims to be."""


class ProtoError(FormatError):
    """The .tnnproto text is broken."""


class WeightsError(FormatError):
    """The .tnnmodel bytes are broken or do not belong to the proto."""


class UnsupportedLayer(TnnError):
    """A layer that can be read and written but not executed, or an ONNX node that no layer computes."""


class ConversionError(TnnError):
    """A converted network that does not answer like its source."""


class ShapeError(TnnError):
    """Incompatible shapes."""


class LimitError(TnnError):
    """A network that needs more memory or time than is allowed, at its own shapes or at those of a request."""


class ConfigError(TnnError):
    """A config.pbtxt, an option or a parameter that cannot be honoured."""


class UsageError(TnnError):
    """A command line that does not say what to do: an unknown flag, or options that exclude each other."""


class RequestError(TnnError):
    """Tensors of a request that the model does not accept."""


class CancelledError(RequestError):
    """A request that its sender has cancelled."""


class EngineError(TnnError):
    """The engine refused the network or failed while running it."""


class WorkerError(TnnError):
    """A worker process ended without an answer: by a signal, or because the system ran out of something."""


class ServerError(TnnError):
    """tritonserver cannot be found, started or kept running."""


@contextmanager
def located(*steps: str) -> Iterator[None]:
    """Adds places, outermost first, to any :class:`TnnError` raised inside the block."""
    try:
        yield
    except TnnError as error:
        error.where = (*steps, *error.where)
        raise
