"""Reads what a container file says."""

from __future__ import annotations

import re
from pathlib import Path


def instructions(file: Path) -> list[tuple[str, str]]:
    """Each instruction and what follows it, comments left out and lines joined."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for line in text.splitlines() if line for word, rest in [line.split(None, 1)]]
