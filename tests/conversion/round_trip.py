"""TNN to ONNX and back: ``python -m tests.conversion.round_trip RECORD [EVERY]`` tries recorded cases of the layers.

A case is right if the network that comes back answers like the one that was exported, on the recorded inputs.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import tnn_serving as ts
from tests.recordings import Case, CaseId, case_ids, folders, read_case
from tnn_serving.deviation import deviation
from tnn_serving.errors import TnnError
from tnn_serving.graph import Graph
from tnn_serving.layers.weights import narrowed

TOLERANCE = 1e-4
RIGHT, REFUSED, WRONG = "right", "refused", "wrong"


def there_and_back(graph: Graph) -> Graph:
    """The network that becomes of its export."""
    dims = {item.name: item.dims for item in graph.inputs if item.name not in graph.constants}
    return ts.convert(ts.to_onnx(graph), dims=dims, checked=False).graph


def answers(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of a network as a reader of its files gets it."""
    network = ts.load(ts.read_model(*ts.write_model(graph)), "onnxruntime", int8="exact")
    return network.run({name: narrowed(array) for name, array in inputs.items()})


def outcome(case: Case) -> tuple[str, str]:
    """What comes of a case, and why."""
    graph = ts.read_model(case.proto, case.model)
    inputs = {item.name: case.inputs[item.name] for item in graph.inputs if item.name in case.inputs}
    try:
        before = answers(graph, inputs)
    except TnnError as error:
        return REFUSED, f"the network itself: {error.problem}"
    try:
        after = answers(there_and_back(graph), inputs)
    except TnnError as error:
        return REFUSED, error.problem
    for name, wanted in before.items():
        if after[name].shape != wanted.shape or deviation(after[name], narrowed(wanted)).relative > TOLERANCE:
            return WRONG, f"{name}: {list(after[name].shape)} instead of {list(wanted.shape)}, or other numbers"
    return RIGHT, ""


def _recorded(case: CaseId) -> tuple[str, str, str]:
    logging.disable(logging.WARNING)
    try:
        return case.folder, *outcome(read_case(case))
    except Exception as error:
        return case.folder, WRONG, f"raised {type(error).__name__}: {error}"[:300]


def record(cases: Sequence[CaseId]) -> dict[str, dict[str, dict[str, int]]]:
    """By folder: how many cases are right, and why the others are not."""
    found: dict[str, dict[str, Counter[str]]] = {}
    with ProcessPoolExecutor(2) as pool:
        for folder, result, reason in pool.map(_recorded, cases, chunksize=20):
            entry = found.setdefault(folder, {"results": Counter(), "reasons": Counter()})
            entry["results"][result] += 1
            if reason:
                entry["reasons"][reason] += 1
    return {folder: {key: dict(count) for key, count in entry.items()} for folder, entry in found.items()}


if __name__ == "__main__":
    every = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    chosen = [case for folder in folders() for case in case_ids(folder)[::every]]
    Path(sys.argv[1]).write_text(json.dumps(record(chosen), indent=1) + "\n", encoding="utf-8")
