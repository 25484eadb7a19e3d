"""The recipes of all layers. Each is in the test of the module that declares the layer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from tests.layers.drawing import Recipe
from tnn_serving import layers

HERE = Path(__file__).parent


def recipes_of(module: str) -> Mapping[str, Recipe]:
    """By type name; none for a module without a test of its own."""
    name = f"test_{module}"
    found: Mapping[str, Recipe] = {}
    return (
        getattr(import_module(f"{__package__}.{name}"), "RECIPES", found) if (HERE / f"{name}.py").exists() else found
    )


BY_MODULE = {path.stem: recipes_of(path.stem) for path in sorted(Path(layers.__path__[0]).glob("[!_]*.py"))}
"""By layer module, then by type name."""

RECIPES: Mapping[str, Recipe] = {kind: recipe for recipes in BY_MODULE.values() for kind, recipe in recipes.items()}
