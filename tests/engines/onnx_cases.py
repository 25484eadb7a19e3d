"""Runs ONNX's own cases of its operators: ``python -m tests.engines.onnx_cases PART PARTS FIRST``.

A program of its own, since an engine may end its process. For each case of a part, from the number ``FIRST`` on, it
prints a line of JSON: first its name, then what came of it by engine. See :class:`Outcome`.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import tnn_serving as ts
from tnn_serving.errors import TnnError

ENGINES = ("auto", "openvino", "onnxruntime")

RIGHT, WRONG, REFUSED, RAISED = "right", "wrong", "refused", "raised"
"""What comes of a case: the recorded answer, another one, an error of ours, or one of anything else."""

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")


def all_cases() -> list[TestCase]:
    """ONNX's cases in one order; making them takes seconds, and numpy warns about numbers in them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted((case for kind in KINDS for case in load_model_tests(kind=kind)), key=lambda case: case.name)


def data_of(case: TestCase) -> tuple[onnx.ModelProto, list[tuple[Sequence[Any], Sequence[Any]]]]:
    """The model of a case, and its inputs with the recorded outputs."""
    if case.model is not None:
        return case.model, list(case.data_sets)
    folder = Path(case.model_dir)
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        sets.append(tuple([_tensors(data, kind) for kind in ("input", "output")]))
    return onnx.load(str(folder / "model.onnx")), sets


def _tensors(folder: Any, kind: str) -> list[onnx.TensorProto]:
    files = sorted(folder.glob(f"{kind}_*.pb"), key=lambda file: int(file.stem.rsplit("_", 1)[1]))
    return [onnx.TensorProto.FromString(file.read_bytes()) for file in files]


def arrays(items: Sequence[onnx.ValueInfoProto], values: Sequence[Any]) -> dict[str, np.ndarray]:
    """Recorded values by name."""
    tensors = (numpy_helper.to_array(one) if isinstance(one, onnx.TensorProto) else one for one in values)
    return {item.name: np.asarray(one) for item, one in zip(items, tensors, strict=True)}


def is_right(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], case: TestCase) -> bool:
    """Whether all outputs are the recorded ones."""
    return all(_are_equal(got[name], array, case) for name, array in wanted.items())


def _are_equal(got: object, wanted: np.ndarray, case: TestCase) -> bool:
    if not isinstance(got, np.ndarray) or got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if wanted.dtype.kind != "f":
        return np.array_equal(got, wanted)
    rtol, atol = max(case.rtol, 1e-3), max(case.atol, 1e-5)
    return np.allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True)


def plain(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], case: TestCase
) -> str:
    """ONNX Runtime without anything of ours."""
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    quiet.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(model.SerializeToString(), quiet, ["CPUExecutionProvider"])
        got = dict(zip(wanted, session.run(list(wanted), feeds), strict=True))
    except Exception:  # of types of its own
        return REFUSED
    return RIGHT if is_right(got, wanted, case) else WRONG


def served(
    engine: str, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], case: Any
) -> list[str]:
    """What comes of it on one of our engines, and the sentence or the reason."""
    try:
        loaded = ts.load(model, engine, threads=1)
        got = loaded.run(feeds)
    except TnnError as error:
        return [REFUSED, str(error)]
    except Exception as error:
        return [RAISED, repr(error)]
    return [RIGHT if is_right(got, wanted, case) else WRONG, f"{loaded.engine}: {loaded.choice.reason}"]


def run(case: TestCase) -> dict[str, list[str]]:
    """What comes of a case, by engine; "plain" is ONNX Runtime alone."""
    try:
        model, sets = data_of(case)
        ((given, recorded), *_) = sets
        stored = {item.name for item in model.graph.initializer}
        entries = [item for item in model.graph.input if item.name not in stored]
        feeds, wanted = arrays(entries, given), arrays(model.graph.output, recorded)
    except (TypeError, ValueError, KeyError) as error:  # sequences, optional values, strings
        feeds, wanted = {}, {}
        problem = repr(error)
    else:
        problem = ""
    found = {"plain": [REFUSED if problem else plain(model, feeds, wanted, case), problem]}
    for engine in ENGINES:
        found[engine] = served(engine, model, feeds, wanted, case)
    return found


def main() -> None:
    """Runs the cases of one part."""
    logging.disable(logging.CRITICAL)
    part, parts, first = map(int, sys.argv[1:])
    for case in all_cases()[part::parts][first:]:
        print(json.dumps([case.name]), flush=True)
        print(json.dumps(run(case)), flush=True)


if __name__ == "__main__":
    main()
