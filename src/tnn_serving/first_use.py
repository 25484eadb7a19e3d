"""Public names of a package that are imported when they are first used (PEP 562).

The ``__init__`` of a package runs before any module of it. If it imports them all, every module costs all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


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
