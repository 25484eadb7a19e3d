"""Exceptions in Triton's terms: :data:`TRITON_CODES` is the one place that knows the code of each error."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from tnn_serving.errors import (
    CancelledError,
    ConfigError,
    ConversionError,
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
    ConversionError: ErrorCode.INTERNAL,
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


REPOSITORIES = "TNN_REPOSITORIES"
"""The variable in which the supervisor says where repositories are, as a JSON list: the user's folders, and those that
Triton is shown."""


def without_paths(text: str, repository: Path | None = None) -> str:
    """``text`` with files named by their path in the repository: callers need not know where they are.

    Args:
        repository: a further one, as of a server without a supervisor.
    """
    folders = _folders(os.environ.get(REPOSITORIES, "[]"), repository)
    return folders.sub(lambda found: "" if found[0].endswith("/") else "the server", text)


@lru_cache(maxsize=16)
def _folders(repositories: str, repository: Path | None) -> re.Pattern[str]:
    """Folders of this server, those inside of others first, at the beginning of a path or as a whole one."""
    more = [] if repository is None else [os.fspath(repository)]
    known = [*json.loads(repositories), *more, sys.prefix, os.fspath(Path(__file__).parents[3]), tempfile.gettempdir()]
    home = os.path.expanduser("~")
    found = {place for folder in (*known, home) for place in (os.path.abspath(folder), os.path.realpath(folder))}
    names = "|".join(map(re.escape, sorted(found - {"/"}, key=len, reverse=True)))
    return re.compile(rf"(?<![\w./-])(?:{names})(?:/|(?![\w.-]))")


def triton_error(error: BaseException, repository: Path | None = None) -> TritonError:
    """``error`` in Triton's terms, without the paths of the server, which has the model in ``repository``.

    The frames of ``error`` are emptied: a reference cycle through them would keep arrays over request memory, which
    Triton frees after the answer.
    """
    if isinstance(error, TnnError):
        code = next(TRITON_CODES[base] for base in type(error).__mro__ if base in TRITON_CODES)
        result = TritonError(code, without_paths(str(error), repository))
    else:
        # The system names the file in such an error; the log has it.
        text = (
            error.strerror if isinstance(error, OSError) and error.filename else without_paths(str(error), repository)
        )
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
