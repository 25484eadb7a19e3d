"""Answers that were measured once and are kept for the next start.

One JSON file an answer, named by a hash of all that it depends on. A file that cannot be read or written is no
problem: the answer is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Choices:
    """The answers of one folder; with ``None`` nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / "choices"

    @property
    def kept(self) -> bool:
        """Whether anything is kept at all."""
        return self._folder is not None

    def get(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer for exactly these facts."""
        if self._folder is None:
            return None
        try:
            stored = json.loads((self._folder / _name(facts)).read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(stored, dict) or stored.get("facts") != json.loads(json.dumps(facts)):
            return None
        answer = stored.get("answer")
        return answer if isinstance(answer, dict) else None

    def put(self, facts: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keeps an answer; a full disk or a folder that may not be written to is told and otherwise ignored."""
        if self._folder is None:
            return
        scratch: str | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(handle, "w") as file:
                json.dump({"facts": facts, "answer": answer}, file, indent=1)
            os.replace(scratch, self._folder / _name(facts))
        except OSError as error:
            log.warning("what was measured cannot be kept in %s: %s", self._folder, error.strerror or error)
            if scratch is not None:
                with suppress(OSError):
                    os.unlink(scratch)


def _name(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest() + ".json"
