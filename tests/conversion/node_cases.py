"""ONNX's own cases of its operators, converted and answered: ``python -m tests.conversion.node_cases RECORD``.

Writes what comes of every case to a JSON file, from which docs/generate_conversion.py makes a page. A case that is
refused with all of its inputs free is tried again with those behind the first stored, which is how networks have
weights, shapes and axes.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

import tnn_serving as ts
from tests.engines.onnx_cases import arrays
from tnn_serving.errors import ConversionError, TnnError
from tnn_serving.layers.weights import narrowed

RIGHT, STORED, REFUSED, WRONG = "right", "right, parameters stored", "refused", "wrong"


@dataclass(frozen=True)
class Outcome:
    """What comes of a case.

    Attributes:
        operators: of its nodes.
        result: one of the four above.
        reason: why it is refused, or what is wrong.
    """

    operators: list[str]
    result: str
    reason: str = ""


@cache
def all_cases() -> list[TestCase]:
    """ONNX's cases of single operators; making them takes seconds, and numpy warns about numbers in them."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return sorted(collect_testcases(None), key=lambda case: case.name)


def outcome(case: TestCase) -> Outcome:
    """Converts a case, loads it and runs it on the case's inputs."""
    assert case.model is not None
    operators = sorted({node.op_type for node in case.model.graph.node})
    inputs, outputs = case.data_sets[0]
    if any(isinstance(value, list) or value is None for value in (*inputs, *outputs)):
        return Outcome(operators, REFUSED, "sequences and optional values")
    reason = ""
    for stored in (False, True) if len(inputs) > 1 else (False,):
        try:
            wrong = _answers(case, inputs, outputs, stored)
        except TnnError as error:
            if isinstance(error, ConversionError):
                return Outcome(operators, WRONG, error.problem)
            reason = f"{error.problem}: {error.found}" if error.found is not None else error.problem
            continue
        if wrong:
            return Outcome(operators, WRONG, wrong)
        return Outcome(operators, STORED if stored else RIGHT)
    return Outcome(operators, REFUSED, reason)


def _answers(case: TestCase, inputs: Sequence[Any], outputs: Sequence[Any], stored: bool) -> str:
    """What is wrong about the answer; empty if nothing is."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feeds, wanted = arrays(model.graph.input, inputs), arrays(model.graph.output, outputs)
    if stored:
        for item in model.graph.input[1:]:
            model.graph.initializer.append(numpy_helper.from_array(feeds.pop(item.name), item.name))
        del model.graph.input[1:]
    made = ts.convert(model, dims={name: array.shape for name, array in feeds.items()}, checked=False)
    network = ts.load(ts.read_model(*ts.write_model(made.graph)), "onnxruntime")
    got = network.run({name: narrowed(array) for name, array in feeds.items()})
    return next((text for name, want in wanted.items() if (text := _wrong(got[name], narrowed(want), case))), "")


def _wrong(got: np.ndarray, wanted: np.ndarray, case: TestCase) -> str:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype} {list(got.shape)} instead of {wanted.dtype} {list(wanted.shape)}"
    rtol, atol = max(case.rtol, 1e-3), max(case.atol, 1e-5)
    if wanted.dtype.kind != "f":
        return "" if np.array_equal(got, wanted) else "other numbers"
    with np.errstate(all="ignore"):
        return "" if np.allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True) else "other numbers"


def _named(index: int) -> tuple[str, Outcome]:
    case = all_cases()[index]
    logging.disable(logging.WARNING)
    try:
        return case.name, outcome(case)
    except Exception as error:
        return case.name, Outcome([], WRONG, f"raised {type(error).__name__}: {error}"[:300])


def record() -> Mapping[str, Mapping[str, object]]:
    """What comes of every case, by its name."""
    with ProcessPoolExecutor(2) as pool:
        found = dict(pool.map(_named, range(len(all_cases())), chunksize=20))
    return {name: asdict(result) for name, result in found.items()}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(record(), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
