"""Engines as other packages bring them."""

from __future__ import annotations

from pathlib import Path

from tnn_serving.engines.base import Engine
from tnn_serving.engines.registry import GROUP


def write_metadata(folder: Path, engine: type[Engine], module: str) -> None:
    """Writes what pip leaves of a package with this engine into a folder that is on Python's path."""
    metadata = folder / f"{engine.name}_engine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {engine.name}-engine\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{engine.name} = {module}:{engine.__name__}\n")
