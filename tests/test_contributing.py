"""CONTRIBUTING.md does what it says: its table of packages is the import contract, and its walks lead somewhere.

Each example is run as it stands, in a Python of its own, since declarations are made once per process.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest

from tests.networks import network
from tests.pages import ROOT, blocks_of, read, rows, section
from tnn_serving import to_onnx, write_model

PAGE = ROOT / "CONTRIBUTING.md"
LEAKY_PROTO = '"1 2 1 4206624770 ,"\n"x 1 4 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"LeakyRelu r 1 1 x y 0.5 ,"\n'


def example(walk: str, start: str) -> str:
    """The block of a walk that begins with these words."""
    (found,) = [block.text for block in blocks_of(section(PAGE, walk)) if block.text.startswith(start)]
    return found


def run(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def within(module: str, example: str) -> str:
    """Code that runs an example as a part of a module."""
    return f"import {module} as here\nexec({example!r}, vars(here))\n"


def test_packages_are_those_of_the_import_contract() -> None:
    contract = re.search(r'type = "layers"\nlayers = \[\n(.*?)\n\]', read(ROOT / "pyproject.toml"), re.DOTALL)
    assert contract is not None
    lines = [re.findall(r"tnn_serving\.(\w+)", line) for line in contract[1].splitlines()]
    listed = [re.findall(r"`(\w+)(?:\.py|/)`", first) for first, *_ in rows(section(PAGE, "How the tree is read"))]
    assert [sorted(names) for names in listed] == [sorted(names) for names in reversed(lines)]


@pytest.mark.slow
def test_a_layer(tmp_path: Path) -> None:
    proto = tmp_path / "net.tnnproto"
    proto.write_text(LEAKY_PROTO)
    (tmp_path / "net.tnnmodel").write_bytes(b"\x04\x00\xbc\xfa" + bytes(4))
    check = """
        import sys, numpy as np, tnn_serving as ts
        graph = ts.read_model(sys.argv[1])
        assert graph.layers[0].slope == 0.5
        print(*ts.load(graph, "onnxruntime").run({"x": np.array([[-2, -1, 0, 3]], np.float32)})["y"][0])
    """
    code = within("tnn_serving.layers.activation", example("Add a layer", "@layer")) + textwrap.dedent(check)
    assert run(code, proto) == "-1.0 -0.5 0.0 3.0\n"


@pytest.mark.slow
def test_the_recipe_of_a_layer() -> None:
    recipe = example("Add a layer", '"LeakyRelu"')
    check = f"""
        import tests.conftest  # without deadlines, as in every test
        import tests.layers.test_activation as there
        recipes = eval("{{" + {recipe.strip()!r} + "}}", vars(there))
        there.agreement(recipes)("LeakyRelu")
    """
    run(within("tnn_serving.layers.activation", example("Add a layer", "@layer")) + textwrap.dedent(check))


def test_an_engine_is_the_one_that_tests_use() -> None:
    source = read(ROOT / "tests" / "engines" / "third_party" / "onnx_reference_engine.py")
    assert example("Add an engine", "class ReferenceEngine").strip() in source
    assert 'GROUP = "tnn_serving.engines"' in read(ROOT / "src" / "tnn_serving" / "engines" / "registry.py")
    assert '[project.entry-points."tnn_serving.engines"]' in example("Add an engine", "[project.entry-points")


@pytest.mark.slow
def test_a_format(tmp_path: Path) -> None:
    model = to_onnx(network({"x": (1, 4)}, ["ReLU r 1 1 x y"], ["y"]))
    (tmp_path / "model.onnxz").write_bytes(zlib.compress(model.SerializeToString()))
    check = """
        import sys, numpy as np, tnn_serving as ts
        from tnn_serving.network.formats import FORMATS
        FORMATS.append(CompressedOnnx())
        print(*ts.load(sys.argv[1], "onnxruntime").run({"x": np.array([[-2, -1, 0, 3]], np.float32)})["y"][0])
        from tnn_serving.cli.app import main
        sys.argv[1:] = ["inspect", sys.argv[1], "--json"]
        main()
    """
    answer, _, summary = run(example("Add a format", "import zlib") + textwrap.dedent(check), tmp_path).partition("\n")
    assert answer == "0.0 0.0 0.0 3.0"
    assert '"Relu"' in summary


@pytest.mark.slow
def test_a_setting() -> None:
    check = f"""
        from dataclasses import dataclass
        import tnn_serving.config.settings as here
        body = {textwrap.indent(example("Add a setting", "most_outputs"), "    ")!r}
        exec("@dataclass(frozen=True, slots=True)\\nclass Extended(ModelSettings):\\n" + body, vars(here))
        *_, added = here.own(here.Extended)
        assert added.key == "most_outputs" and added.value("3") == 3
        assert here.Extended().most_outputs == 0
        assert here.Extended(most_outputs=3).of_model() == here.Extended().of_model()
    """
    run(textwrap.dedent(check))


@pytest.mark.slow
def test_a_command(tmp_path: Path) -> None:
    write_model(
        network({"x": (1, 4)}, ["ReLU r 1 1 x y", "Exp e 1 1 y z"], ["y", "z"]),
        tmp_path / "net.tnnproto",
        tmp_path / "net.tnnmodel",
    )
    (line,) = re.findall(r'`("outputs": Listed\(.*?\),)`', section(PAGE, "Add a command"))
    program = f"""
import sys, types
module = types.ModuleType("tnn_serving.cli.outputs")
exec({example("Add a command", "from tnn_serving")!r}, vars(module))
sys.modules[module.__name__] = module
from tnn_serving.cli.app import COMMANDS, Listed, main
COMMANDS.update({{{line}}})
main()
"""
    assert run(program, "outputs", tmp_path) == "y\nz\n"
    assert run(program, "outputs", tmp_path, "--json").split() == ["[", '"y",', '"z"', "]"]
    assert "tnn-serving outputs models/face/1" in run(program, "outputs", "--help")
