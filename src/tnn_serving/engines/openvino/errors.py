"""What OpenVINO says when it fails."""

from __future__ import annotations

SOURCE_POSITIONS = ("Exception from", "Check '")
"""What lines begin with that say where in OpenVINO's source it failed."""


def reason(error: RuntimeError) -> str:
    """The sentence of an OpenVINO error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sentences = [line for line in lines if not line.startswith(SOURCE_POSITIONS)]
    return " ".join((sentences or lines)[:3])[:600]
