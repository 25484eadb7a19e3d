"""A compiled OpenVINO network in bytes: for another process on this machine, with the same version of OpenVINO."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

HEADER_BYTES = 8
"""Length of the facts, as a decimal number."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a compiled network does not say of itself.

    Attributes:
        inputs, outputs: the model's names, in order.
        limits: least and largest value of inputs that are right within limits only.
        properties: what it was compiled with.
    """

    inputs: list[str]
    outputs: list[str]
    limits: dict[str, tuple[int, int]]
    properties: dict[str, str | int | bool]


def write_exported(facts: Facts, blob: bytes) -> bytes:
    """Facts and compiled network in one piece."""
    header = msgspec.json.encode(facts)
    return b"%0*d" % (HEADER_BYTES, len(header)) + header + blob


def read_exported(exported: bytes) -> tuple[Facts, bytes]:
    """What :func:`write_exported` joined. Raises ValueError for anything else."""
    end = HEADER_BYTES + int(exported[:HEADER_BYTES])
    return msgspec.json.decode(exported[HEADER_BYTES:end], type=Facts), exported[end:]
