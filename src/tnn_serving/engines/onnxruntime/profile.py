"""Where the time of an ONNX Runtime model goes: its profile, node by node, traced back to the model as it was given.

ONNX Runtime names few of the nodes that its optimisations make. What a node computes is found in the optimised model
instead: the original nodes between the values that both models have.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from tnn_serving.engines.base import PROFILE_WARM_UP, NodeTime
from tnn_serving.errors import EngineError

if TYPE_CHECKING:
    import onnx

LAYOUT_CHANGES = ("ReorderInput", "ReorderOutput")
"""Operators that ONNX Runtime adds."""

OTHER_LAYOUT = "_nchwc"
"""What the name of a node ends in that was given another layout."""

_SUFFIX = "_kernel_time"


class Profiling:
    """Makes a session record its time, and reads the record.

    Args:
        model: as it was given to ONNX Runtime.
        options: of the session, which are changed.
    """

    def __init__(self, model: onnx.ModelProto, options: ort.SessionOptions) -> None:
        self._model = model
        folder = Path(tempfile.mkdtemp(prefix="tnn-serving-"))
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._optimized = folder / "optimized.onnx"
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(self._optimized)

    def profiled(self, session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], runs: int) -> list[NodeTime]:
        """Mean time of every node over ``runs`` inferences, in the order of execution.

        Raises:
            EngineError: the session has been profiled before.
        """
        import onnx

        if not self._optimized.exists():
            raise EngineError("ONNX Runtime profiles a session once only")
        for _ in range(PROFILE_WARM_UP + runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_bytes())
        optimized = onnx.load_model(self._optimized, load_external_data=False)
        self._remove()
        starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
        nodes = [e for e in events if e["cat"] == "Node" and e["name"].endswith(_SUFFIX) and e["ts"] >= starts[-runs]]
        seconds: dict[tuple[str, str], float] = defaultdict(float)
        for event in sorted(nodes, key=lambda event: event["ts"]):
            seconds[event["name"].removesuffix(_SUFFIX), event["args"]["op_name"]] += event["dur"] * 1e-6
        origins = _Origins(self._model.graph, optimized.graph)
        unnamed = origins.unnamed()
        return [
            NodeTime(name, origins.of(name) or next(unnamed[kernel], ()), kernel, total / runs)
            for (name, kernel), total in seconds.items()
        ]


class _Origins:
    """Which nodes of the original graph each node of the optimised one computes."""

    def __init__(self, original: onnx.GraphProto, optimized: onnx.GraphProto) -> None:
        self._producer = {name: node for node in original.node for name in node.output if name}
        self._results = {node.name: node.output[0] for node in original.node}
        self._nodes = list(optimized.node)
        self._named = {node.name: node for node in self._nodes if node.name}
        self._computed = {name for node in self._nodes for name in node.output}
        self._computed.update(name for node in self._nodes if (name := self._result(node)) is not None)
        self._readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self._nodes:
            for name in node.input:
                self._readers[name].append(node)

    def of(self, name: str) -> tuple[str, ...]:
        """Names of nodes and their outputs, the main one first; empty for an unknown name."""
        return self._of(self._named[name]) if name in self._named else ()

    def unnamed(self) -> dict[str, Iterator[tuple[str, ...]]]:
        """The same for nodes without a name, by operator type, in the order of the graph."""
        found: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for node in self._nodes:
            if not node.name:
                found[node.op_type].append(self._of(node))
        return defaultdict(lambda: iter(()), {kind: iter(entries) for kind, entries in found.items()})

    def _of(self, node: onnx.NodeProto) -> tuple[str, ...]:
        if node.op_type in LAYOUT_CHANGES:
            return ()
        result = self._result(node) or self._next_result(node)
        region = [] if result is None else self._region(result)
        # The main part is the one whose type is in the name of the fused one: Conv of a FusedConv.
        main = [part for part in region if part.op_type in node.op_type]
        ordered = main + [part for part in region if part not in main]
        return tuple(name for part in ordered for name in (part.name, *part.output) if name)

    def _result(self, node: onnx.NodeProto) -> str | None:
        """The original value that a node computes, if perhaps in another layout; that shows in its name only."""
        known = next((name for name in node.output if name in self._producer), None)
        if known is not None or node.op_type in LAYOUT_CHANGES:
            return known
        name = node.name.removesuffix(OTHER_LAYOUT)
        return name if name in self._producer else self._results.get(name)

    def _next_result(self, node: onnx.NodeProto) -> str | None:
        """The first original value behind a node that computes a part of it."""
        waiting: list[onnx.NodeProto] = [node]
        seen: set[str] = set()
        while waiting:
            for name in waiting.pop(0).output:
                for reader in [] if name in seen else self._readers[name]:
                    result = self._result(reader)
                    if result is not None:
                        return result
                    waiting.append(reader)
                seen.add(name)
        return None

    def _region(self, result: str) -> list[onnx.NodeProto]:
        """The original nodes from a value back to other values that the optimised graph computes."""
        found: list[onnx.NodeProto] = []
        waiting = [result]
        while waiting:
            producer = self._producer.get(waiting.pop(0))
            if producer is None or any(producer is one for one in found):
                continue
            found.append(producer)
            waiting += [name for name in producer.input if name not in self._computed]
        return found
