"""The table of the rules, and the functions by which ONNX itself defines operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tnn_serving.conversion.functions import definition
from tnn_serving.conversion.origin import Origin
from tnn_serving.errors import located
from tnn_serving.layers.pattern import OnnxNode, OnnxValue

Made = OnnxValue | Sequence[OnnxValue] | None
Lowering = Callable[[Origin, OnnxNode], Made]
LOWERINGS: dict[str, Lowering] = {}
"""The rule of an operator, by its name."""


def lowers(*operators: str) -> Callable[[Lowering], Lowering]:
    """Registers the rule of operators. It returns the outputs; ``None`` if it has no form for the node."""

    def register(rule: Lowering) -> Lowering:
        for operator in operators:
            if operator in LOWERINGS:
                raise ValueError(f"operator {operator} has two rules")
            LOWERINGS[operator] = rule
        return rule

    return register


def lowered(source: Origin, node: OnnxNode) -> list[OnnxValue] | None:
    """The outputs of a node, said in other operators; ``None`` if there is no rule and no function for it."""
    source.place = node.place
    with located():
        rule = LOWERINGS.get(node.op_type)
        found = None if rule is None else rule(source, node)
        if found is None:
            return _function(source, node)
        return [found] if isinstance(found, OnnxValue) else list(found)


def _function(source: Origin, node: OnnxNode) -> list[OnnxValue] | None:
    """The nodes of the function by which ONNX defines an operator, for the types of these inputs."""
    found = definition(node)
    return None if found is None else source.inline(found, node)[: len(node.outputs)]
