"""Generates ``contract.h``, the C side of :mod:`tnn_serving.triton.backend.contract`.

    python -m tnn_serving.triton.backend.contract_header

writes it; a test compares it with what this module would write.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

from tnn_serving.serving.tensors import RequestTensor, ResponseTensor
from tnn_serving.triton.backend import contract
from tnn_serving.triton.backend.bridge import BackendModel
from tnn_serving.triton.backend.contract import (
    ErrorCode,
    GroupFunctions,
    LogLevel,
    MetricFunctions,
    MetricKind,
    Shim,
)

HEADER = Path(__file__).with_name("contract.h")

_PREFIXES: dict[type[IntEnum], str] = {ErrorCode: "ERROR", LogLevel: "LOG", MetricKind: "METRIC"}


def header() -> str:
    """The text of ``contract.h``."""
    _, *execute = inspect.signature(BackendModel.execute).parameters  # the first is self
    inputs = [field.name for field in dataclasses.fields(RequestTensor)]
    outputs = [field.name for field in dataclasses.fields(ResponseTensor)]
    parts = [
        "/* What C and Python agree on. Generated: python -m tnn_serving.triton.backend.contract_header */",
        "#ifndef TNN_CONTRACT_H",
        "#define TNN_CONTRACT_H",
        "",
        f'#define SHIM_MODULE "{contract.SHIM_MODULE}"',
        f'#define BRIDGE_MODULE "{contract.BRIDGE_MODULE}"',
        f'#define LATER_NAME "{contract.LATER.name}" /* an object of BRIDGE_MODULE */',
        f'#define INPUT_CLASS "{RequestTensor.__name__}" /* likewise */',
        "",
        *_macro("SHIM_FUNCTIONS", "The functions of SHIM_MODULE.", _functions(Shim, MetricFunctions)),
        *_macro("GROUP_FUNCTIONS", "The functions of a group.", _functions(GroupFunctions)),
        *_macro("OUTPUT_ATTRIBUTES", "The attributes of an output: ResponseTensor's.", outputs),
        *_places("EXECUTE", "The arguments of Model.execute.", execute),
        *_places("INPUT", "The arguments of RequestTensor.", inputs),
    ]
    for numbers, prefix in _PREFIXES.items():
        members = (f"{prefix}_{member.name} = {member.value}" for member in numbers)
        parts += _enum(inspect.getdoc(numbers) or "", members)
    return "\n".join([*parts, "#endif", ""])


def _functions(*protocols: type) -> list[str]:
    """Name and calling convention of each."""
    functions = {name: value for each in protocols for name, value in vars(each).items() if not name.startswith("_")}
    conventions = {1: "METH_NOARGS", 2: "METH_O"}  # by the number of parameters, of which the first is self
    counts = {name: len(inspect.signature(function).parameters) for name, function in functions.items()}
    return [f"{name}, {conventions.get(count, 'METH_VARARGS')}" for name, count in counts.items()]


def _macro(name: str, comment: str, names: Iterable[str]) -> list[str]:
    return [f"/* {comment} */", f"#define {name}(X) \\", " \\\n".join(f"  X({each})" for each in names), ""]


def _places(prefix: str, comment: str, names: Iterable[str]) -> list[str]:
    return _enum(comment, (f"{prefix}_{name.upper()}" for name in (*names, "arguments")))


def _enum(comment: str, members: Iterable[str]) -> list[str]:
    return [f"/* {comment} */", "enum {", *(f"  {member}," for member in members), "};", ""]


if __name__ == "__main__":
    HEADER.write_text(header())
