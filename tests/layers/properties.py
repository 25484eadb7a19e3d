"""Networks of one layer that hypothesis makes up: the engines against each other, and against NumPy where there is a
reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings

import tnn_serving as ts
from tests.layers.drawing import Array, Instance, Recipe, instances
from tests.recordings import difference
from tnn_serving.errors import RequestError

ENGINES = ("openvino", "onnxruntime")


def agreement(recipes: Mapping[str, Recipe]) -> Callable[[str], None]:
    """The test of a layer module: each of its types, in as many instances as its recipe says."""

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", recipes)
    def test(kind: str) -> None:
        recipe = recipes[kind]
        run = settings(
            max_examples=recipe.examples,
            deadline=None,  # the first example imports the engines
            suppress_health_check=list(HealthCheck),
        )(given(instances(kind, recipe))(check))
        run()

    return test


def check(instance: Instance) -> None:
    """Answers at the shape of the proto, and at another one if the network takes it."""
    note(repr(instance))
    models = {name: ts.load(instance.graph, name, threads=1) for name in ENGINES}
    agree(answers(models, instance.inputs), instance.expected(instance.operands))
    larger = grown(instance)
    if larger is None:
        return
    try:
        got = answers(models, larger)
    except RequestError:
        for model in models.values():
            with pytest.raises(RequestError):
                model.run(larger)
        return
    note(f"at {[array.shape for array in larger.values()]}")
    agree(got, instance.expected(list(larger.values())))


def answers(models: dict[str, ts.Model], inputs: dict[str, Array]) -> dict[str, list[Array]]:
    """Outputs in order, from each engine, and from one that compiles otherwise where the shapes are fixed."""
    got = {}
    for name, model in models.items():
        got[name] = list(model.run(inputs).values())
        fixed = model.shape_caches()[-1].general.at({key: array.shape for key, array in inputs.items()})
        if fixed is not None:
            got[f"{name} with fixed shapes"] = list(fixed.run(inputs).values())
    return got


def agree(got: dict[str, list[Array]], expected: list[Array] | None) -> None:
    """All that was computed is the same."""
    openvino, onnxruntime = (got[name] for name in ENGINES)
    wanted = onnxruntime if expected is None else expected
    assert len(openvino) == len(onnxruntime) == len(wanted)
    for name, outputs in got.items():
        wrong = [difference(output, want) for output, want in zip(outputs, wanted, strict=True)]
        assert not any(wrong), f"{name}: {wrong}"


def grown(instance: Instance) -> dict[str, Array] | None:
    """The input of a layer that has one, twice as long at the front."""
    if len(instance.inputs) != 1 or len(instance.operands) != 1:
        return None
    ((name, x),) = instance.inputs.items()
    return {name: np.concatenate([x, x])} if x.ndim else None
