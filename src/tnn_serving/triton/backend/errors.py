"""Exceptions in Triton's terms: :data:`TRITON_CODES` is the one place that knows the code of each error."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping

from tnn_serving.errors import (
    CancelledError,
    ConfigError,
    EngineError,
    FormatError,
    LimitError,
    RequestError,
    ServerError,
    ShapeError,
    TnnError,
    UnsupportedLayer,
    WorkerError,
)
from tnn_serving.triton.backend.contract import ErrorCode, TritonError

TRITON_CODES: Mapping[type[TnnError], ErrorCode] = {
    TnnError: ErrorCode.INTERNAL,
    FormatError: ErrorCode.INVALID_ARG,
    UnsupportedLayer: ErrorCode.UNSUPPORTED,
    ShapeError: ErrorCode.INVALID_ARG,
    LimitError: ErrorCode.INVALID_ARG,
    ConfigError: ErrorCode.INVALID_ARG,
    RequestError: ErrorCode.INVALID_ARG,
    CancelledError: ErrorCode.CANCELLED,
    WorkerError: ErrorCode.INTERNAL,
    EngineError: ErrorCode.INTERNAL,
    ServerError: ErrorCode.UNAVAILABLE,
}
"""Triton's code (and through it the HTTP and gRPC status) of each error; a subclass has its nearest base's."""


SHOWN_PATHS = "TNN_SHOWN_PATHS"
"""The variable in which the supervisor says which folders the temporary ones show, as a JSON object."""


def with_shown_paths(text: str) -> str:
    """``text`` with the paths of the repositories in place of temporary ones, which are of no use to a caller."""
    paths: dict[str, str] = json.loads(os.environ.get(SHOWN_PATHS, "{}"))
    for ours, source in paths.items():
        text = text.replace(ours, source)
    return text


def triton_error(error: BaseException) -> TritonError:
    """``error`` in Triton's terms.

    The frames of ``error`` are emptied: a reference cycle through them would keep arrays over request memory, which
    Triton frees after the answer.
    """
    if isinstance(error, TnnError):
        code = next(TRITON_CODES[base] for base in type(error).__mro__ if base in TRITON_CODES)
        result = TritonError(code, with_shown_paths(str(error)))
    else:
        text = with_shown_paths(str(error))
        result = TritonError(ErrorCode.INTERNAL, f"{type(error).__name__}: {text}" if text else type(error).__name__)
    _drop_frames(error)
    return result


def _drop_frames(error: BaseException) -> None:
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        current = following.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        following += [current.__cause__, current.__context__]
        if current.__traceback__ is not None:
            traceback.clear_frames(current.__traceback__)
            current.__traceback__ = None
