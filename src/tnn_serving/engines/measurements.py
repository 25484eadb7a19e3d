"""Measurements that are stored for the next start.

One file per measurement, named by a hash of all that it depends on. A file that cannot be read or written is no
problem: it is measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tnn_serving.engines.store import FileStore


class Measurements:
    """The measurements of one folder; with ``None`` nothing is stored."""

    def __init__(self, folder: Path | None) -> None:
        self._files = FileStore(None if folder is None else folder / "measurements")

    @property
    def stored(self) -> bool:
        """Whether anything is stored at all."""
        return self._files.folder is not None

    def get(self, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was measured with exactly these facts."""
        content = self._files.get(_name(facts))
        if content is None:
            return None
        result: dict[str, Any] = json.loads(content)["result"]
        return result

    def put(self, facts: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Stores what was measured, with the facts for those who look into the folder."""
        self._files.put(_name(facts), json.dumps({"facts": facts, "result": result}, indent=1).encode())


def _name(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
