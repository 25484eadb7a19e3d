"""Tiny TNN models written to a folder, for servers that tests start."""

from __future__ import annotations

from pathlib import Path

RELU = b'"1 2 1 4206624770 ,"\n"x 1 3 8 8 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"ReLU r 1 1 x y ,"\n'
"""One input x and one output y = max(x, 0), both float32 and free in every dim."""

NO_WEIGHTS = bytes.fromhex("0200bcfa00000000")


def write_model(
    repository: Path, name: str, *, config: str | None = None, version: int = 1, proto: bytes = RELU
) -> Path:
    """Writes ``repository/name/version`` and returns the model's folder."""
    model = repository / name
    folder = model / str(version)
    folder.mkdir(parents=True)
    (folder / "proto.tnnproto").write_bytes(proto)
    (folder / "model.tnnmodel").write_bytes(NO_WEIGHTS)
    if config is not None:
        (model / "config.pbtxt").write_text(config)
    return model


BROKEN = RELU.replace(b"ReLU", b"NoSuchLayer")
