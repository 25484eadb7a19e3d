"""An engine as another package brings it: ONNX's reference evaluator, which is slow and has nothing special."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from tnn_serving.engines import Engine, Executable, Options, TensorSpec
from tnn_serving.errors import EngineError


class ReferenceEngine(Engine):
    """Evaluates node by node, in numpy."""

    name = "reference"
    title = "ONNX reference evaluator"
    follows_onnx = True

    def version(self) -> str:
        return str(onnx.__version__)

    def compile(self, model: onnx.ModelProto, options: Options) -> ReferenceExecutable:
        try:
            return ReferenceExecutable(model)
        except Exception as error:
            raise EngineError("the reference evaluator cannot read the network", found=error) from error


class ReferenceExecutable(Executable):
    """A model and its evaluator."""

    engine = ReferenceEngine.name

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(model)
        self._outputs = [
            TensorSpec(
                item.name,
                onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type),
                tuple(d.dim_value if d.HasField("dim_value") else None for d in item.type.tensor_type.shape.dim),
            )
            for item in model.graph.output
        ]

    @property
    def outputs(self) -> list[TensorSpec]:
        return self._outputs

    def run(self, feeds: dict[str, np.ndarray], into: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        try:
            values = self._evaluator.run(None, dict(feeds))
        except Exception as error:
            raise EngineError("the reference evaluator failed", found=error) from error
        answer = {spec.name: np.asarray(value) for spec, value in zip(self._outputs, values, strict=True)}
        for name, target in (into or {}).items():
            target[...] = answer[name]
            answer[name] = target
        return answer
