"""Every declared layer is driven by the property tests of its module."""

from __future__ import annotations

from tests.layers.recipes import BY_MODULE
from tnn_serving.layers.registry import declared

NOT_DRIVEN = {
    "Const": "it takes no input that could vary; the translation of constants is tested by its own",
    "ROIPooling": "TNN has no code for it, so that nothing says what it computes",
}
"""Declared layers without a recipe, and why."""


def test_each_declared_layer_has_a_recipe_in_the_test_of_its_module() -> None:
    layers = {(cls.__module__.rpartition(".")[2], cls.types[0]) for cls in declared().values()}
    recipes = {(module, kind) for module, kinds in BY_MODULE.items() for kind in kinds}
    assert recipes <= layers
    assert {kind for _, kind in layers - recipes} == NOT_DRIVEN.keys()
