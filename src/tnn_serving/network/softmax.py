"""Scores as probabilities: an output ``BLOB.softmax`` is the softmax of a blob over its classes, a node of the graph.

With it a classifier that ends in scores answers probabilities, and Triton's classification extension their labels.
A blob that has such a name itself is that blob.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from tnn_serving.analysis import SOFTMAX, Blob
from tnn_serving.emit.inference import OPSET
from tnn_serving.errors import ConfigError
from tnn_serving.translate.graph import Translation


def with_softmax(made: Translation, outputs: Sequence[str]) -> Translation:
    """A translation whose outputs are these, in this order.

    Args:
        made: with the blobs of :func:`scores_of` as its outputs.
        outputs: blobs, and ``BLOB.softmax``.

    Raises:
        ConfigError: a blob whose softmax is asked for does not hold scores.
    """
    graph = made.model.graph
    values = {value.name or "": value for value in graph.outputs}
    blobs = {blob.name: blob for blob in made.outputs}
    for name in outputs:
        if name in values:
            continue
        scores = blobs.get(name.removesuffix(SOFTMAX))
        if scores is None:
            raise ConfigError(f"output `{name}`: the type of the blob is not known")
        _check(scores)
        node = ir.node("Softmax", [values[scores.name]], {"axis": 1}, name=name)
        (value,) = node.outputs
        value.name = name
        value.type = ir.TensorType(ir.DataType.from_numpy(scores.dtype))
        value.shape = ir.Shape([f"{name}.dim{k}" if dim is None else dim for k, dim in enumerate(scores.known)])
        graph.append(node)
        graph.opset_imports.setdefault("", OPSET)
        values[name], blobs[name] = value, replace(scores, name=name)
    graph.outputs[:] = [values[name] for name in outputs]
    return replace(made, outputs=[blobs[name] for name in outputs if name in blobs], blobs={**made.blobs, **blobs})


def _check(scores: Blob) -> None:
    # Over one axis alone: before operator set 13, ONNX's Softmax joins the axes behind it.
    if scores.dtype.kind != "f" or len(scores.known) < 2 or any(dim != 1 for dim in scores.known[2:]):
        raise ConfigError(
            f"output `{scores.name}{SOFTMAX}`: blob `{scores.name}` does not hold scores",
            expected="floating-point numbers, [N, classes] or [N, classes, 1, 1]",
            found=f"{scores.dtype} {[-1 if dim is None else dim for dim in scores.known]}",
        )
