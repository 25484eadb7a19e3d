"""A public name is defined in one module, so that it can be looked up without its path."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "tnn_serving"

SHARED = {
    # A layer's class has TNN's name for it.
    "Comparison": {"layers/binary.py", "look/compare.py"},
    "Scale": {"emit/int8.py", "layers/normalization.py"},
    "Shape": {"layers/shape.py", "translate/free_dims.py"},
    # A command has the name of the function that it runs, and a row rule that of its operator.
    "check": {"check/repository.py", "cli/check.py", "formats/onnx/check.py"},
    "bench": {"cli/bench.py", "client/load/bench.py"},
    "classify": {"cli/pictures.py", "client/classify.py"},
    "compare": {"cli/model.py", "look/compare.py"},
    "convert": {"cli/convert.py", "conversion/convert.py"},
    "detect": {"cli/pictures.py", "client/detect.py"},
    "install": {"cli/backend.py", "triton/install.py"},
    "prepare": {"cli/check.py", "prepare/tasks.py"},
    "resize": {"pictures/resize.py", "translate/row_rules.py"},
    "serve": {"cli/serve.py", "service/serve.py"},
    "sign": {"cli/check.py", "prepare/manifest.py"},
    "soak": {"cli/soak.py", "soak/run.py"},
    "tune": {"cli/tune.py", "tune/tuning.py"},
    # One for each format, engine or program, with the same meaning.
    "compile": {"engines/onnxruntime/session.py", "engines/openvino/compilation.py"},
    "constant_views": {"network/onnx_layers.py", "network/tnn_layers.py"},
    "layer_views": {"network/onnx_layers.py", "network/tnn_layers.py"},
    "main": {"cli/app.py", "workers/server.py"},
    # A field of a declaration: of a setting, and of a stored weight.
    "flag": {"config/readers.py", "layers/weights.py"},
}
"""Names that several modules define, with the reason."""


def test_each_public_name_is_in_one_module() -> None:
    found = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
            found[name].add(str(path.relative_to(PACKAGE)))
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == SHARED


def public_names(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        # Each module has its own logger; a type variable is no more than a letter.
        yield from (name for name in names if not name.startswith("_") and name not in ("log", "T", "S", "Key"))
