"""The recipes of all layers. Each is in the test of the module that declares the layer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from tests.layers.drawing import Recipe

BY_MODULE: Mapping[str, Mapping[str, Recipe]] = {
    path.stem.removeprefix("test_"): recipes
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if (recipes := getattr(import_module(f"tests.layers.{path.stem}"), "RECIPES", None)) is not None
}
"""By layer module, then by type name."""

RECIPES: Mapping[str, Recipe] = {kind: recipe for recipes in BY_MODULE.values() for kind, recipe in recipes.items()}
