"""Answers that were measured once and are kept for the next start.

One file an answer, named by a hash of all that it depends on. A file that cannot be read or written is no problem: the
answer is measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tnn_serving.engines.kept import Kept


class Choices:
    """The answers of one folder; with ``None`` nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._files = Kept(None if folder is None else folder / "choices")

    @property
    def kept(self) -> bool:
        """Whether anything is kept at all."""
        return self._files.folder is not None

    def get(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer for exactly these facts."""
        content = self._files.get(_name(facts))
        if content is None:
            return None
        answer: dict[str, Any] = json.loads(content)["answer"]
        return answer

    def put(self, facts: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Keeps an answer, with the facts for whoever wants to know what it is about."""
        self._files.put(_name(facts), json.dumps({"facts": facts, "answer": answer}, indent=1).encode())


def _name(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
