"""The values that parameters of ``config.pbtxt`` have as text. Each reader raises ValueError or ConfigError."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from tnn_serving.emit.limits import memory_of_machine_bytes
from tnn_serving.pictures.limits import MAX_PIXELS, PILLOW_MAX_PIXELS

NamedShapes = tuple[tuple[str, tuple[int, ...]], ...]
"""A shape for each of some inputs."""

UNITS = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


def one_of(literal: Any) -> Callable[[str], Any]:
    """A reader of the names of a ``Literal``; case does not matter where all of them are upper case."""
    names: tuple[str, ...] = get_args(literal)

    def read(text: str) -> str:
        name = text.upper() if all(name.isupper() for name in names) else text
        if name not in names:
            raise ValueError(f"expected one of {', '.join(names)}")
        return name

    return read


def flag(text: str) -> bool:
    """``true`` or ``false``."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise ValueError("expected true or false")


def count(text: str) -> int:
    """A number that is not negative; ``AUTO`` is 0."""
    number = 0 if text.upper() == "AUTO" else int(text)
    if number < 0:
        raise ValueError("expected a number that is not negative")
    return number


def count_or_auto(text: str) -> int | None:
    """A number that is not negative; ``None`` for ``auto``."""
    return None if text == "auto" else count(text)


def floats(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(float(part) for part in text.strip("[] ").split(","))


def bytes_of_color(text: str) -> tuple[int, ...]:
    """Numbers from 0 to 255, separated by commas."""
    color = tuple(int(part) for part in text.strip("[] ").split(","))
    if not all(0 <= value <= 255 for value in color):
        raise ValueError("expected bytes")
    return color


def picture_size(text: str) -> tuple[int, int] | None:
    """``height,width``, or ``none``."""
    if text.lower() == "none":
        return None
    height, width = (int(part) for part in text.replace("x", ",").split(","))
    if height < 1 or width < 1:
        raise ValueError("expected height,width")
    if height * width > MAX_PIXELS:
        raise ValueError(f"expected at most {MAX_PIXELS} pixels")
    return height, width


def pixel_limit(text: str) -> int:
    """A number of pixels that the decoder can enforce."""
    number = int(text)
    if not 1 <= number <= PILLOW_MAX_PIXELS:
        raise ValueError(f"expected 1 to {PILLOW_MAX_PIXELS}")
    return number


def size_in_bytes(text: str) -> int:
    """A size with or without a unit of 1024: ``512MB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", text.strip().upper())
    if match is None:
        raise ValueError("expected a size such as 512MB")
    unit = match[2] if match[2] in UNITS else match[2] + "B"
    return int(float(match[1]) * UNITS[unit])


def memory(text: str) -> int:
    """A size in bytes; ``auto`` for the memory that this process may use."""
    return memory_of_machine_bytes() if text.lower() == "auto" else size_in_bytes(text)


def seconds(text: str) -> float:
    """A time; 0 is no limit."""
    number = float(text)
    if not number >= 0:
        raise ValueError("expected seconds")
    return number or math.inf


def share(text: str) -> float:
    """A finite number that is not negative."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise ValueError("expected a number that is not negative")
    return number


def shapes(text: str) -> tuple[NamedShapes, ...]:
    """``NAME=1x3x224x224``, inputs separated by commas, combinations by semicolons; or ``none``."""
    if text.lower() == "none":
        return ()
    return tuple(tuple(_shape(part) for part in combination.split(",")) for combination in text.split(";"))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, dims = text.strip().rpartition("=")
    if not equals:
        raise ValueError("expected NAME=1x3x224x224")
    return name, tuple(int(dim) for dim in dims.split("x"))


def folder(text: str) -> Path | None:
    """A path, or ``none``."""
    return None if text.lower() == "none" else Path(text)
