"""What is imported or made when it is first used.

The ``__init__`` of a package runs before any module of it. If it imports all public names, every module costs all of
them; PEP 562 is the way out.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")


def on_first_use(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package; the latter gives its ``__all__``.

    No name may be that of one of the package's modules, whose import sets the same attribute.

    Args:
        package: its ``__name__``.
        names: what the package gives, by the module that defines it.
    """
    modules = {name: module for module, own in names.items() for name in own}
    attributes = vars(sys.modules[package])

    def getattribute(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return attributes.setdefault(name, getattr(import_module(modules[name]), name))

    def directory() -> list[str]:
        return sorted(attributes["__all__"])

    return getattribute, directory


def made_once(make: Callable[[], T]) -> Callable[[], T]:
    """Gives the value that the first call has made, to all threads, also to those that ask at the same time: with
    ``functools.cache`` alone they could make several, all but one of which end some time later."""
    lock = threading.Lock()
    cached = cache(make)

    @wraps(make)
    def get() -> T:
        with lock:
            return cached()

    return get
