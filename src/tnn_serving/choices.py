"""The names that settings, options of ``load`` and options of commands choose among. Light: a help lists them."""

from __future__ import annotations

from typing import Literal

PrecisionChoice = Literal["f32", "bf16", "auto"]
"""What floats are computed in; ``auto`` measures."""

Int8Choice = Literal["auto", "fast", "exact"]
"""The form of int8 layers; ``auto`` is fast where that is safe."""

ExportedInt8 = Literal["exact", "fast"]
"""The form of int8 layers in an exported model."""

ShieldChoice = Literal["auto", "none", "always"]
"""When the shield is in front of the server; ``auto``: if other machines can reach it."""
