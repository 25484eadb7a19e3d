"""A caller's mistake is answered with what is wrong, and never counts against the engine: the server keeps running."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.request import urlopen

import onnx
import onnx.parser
import pytest

from tests.end_to_end.models import write_model
from tests.hostile.conftest import Target, assert_sentence
from tests.servers import start

pytestmark = pytest.mark.slow

TIMES = 8
"""More than the errors in a row after which a server is restarted."""

MODELS = {
    "gathered": "g (float[8] x, int64[k] i) => (float[k] y) { y = Gather (x, i) }",
    "computed": "g (float[8] x, int64[k] i) => (float[k] y) <int64 one = {1}> { j = Add (i, one) y = Gather (x, j) }",
    "scattered": """g (float[8] x, int64[k] i) => (float[8] y) <float[1] u = {9}>
    { s = Shape (i) v = Expand (u, s) y = ScatterElements (x, i, v) }""",
    "tiled": "g (float[8] x, int64[1] i) => (float[n] y) { y = Tile (x, i) }",
    "reshaped": "g (float[8] x, int64[2] i) => (float[a, b] y) { y = Reshape (x, i) }",
    "halved": "g (float[n, m] x) => (float[n, h, two] y) <int64[3] s = {0, -1, 2}> { y = Reshape (x, s) }",
}

GATHER = b'"1 2 1 4206624772 ,"\n"x 1 8 0 : i 1 4 3 ,"\n" i x y ,"\n"y ,"\n" 1 ,"\n"Gather g 2 1 x i y 0 0 0 ,"\n'
"""A layer of TNN's with data and indices from outside."""


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def server(
    request: pytest.FixtureRequest, installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("callers")
    engine = f'parameters [{{ key: "engine" value: {{ string_value: "{request.param}" }} }},\n'
    limit = '{ key: "memory_limit_bytes" value: { string_value: "100MB" } }]\n'
    write_model(folder, "relu")
    write_model(folder, "tnn", proto=GATHER, config=engine + limit)
    for name, text in MODELS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>\n{text}'), version / "model.onnx")
        (folder / name / "config.pbtxt").write_text(engine + limit)
    running = start([folder])
    assert running.ready, "\n".join(running.log[-50:])
    assert running.supervisor.pid is not None
    yield Target(running, folder, running.supervisor.pid)
    assert running.finish() == 0
    running.overlay.close()


def ask(server: Target, model: str, indices: list[int], x: list[float] | None = None) -> tuple[int, str]:
    data = x or [float(k) for k in range(8)]
    inputs = [
        {"name": "x", "shape": [len(data)], "datatype": "FP32", "data": data},
        {"name": "i", "shape": [len(indices)], "datatype": "INT32" if model == "tnn" else "INT64", "data": indices},
    ]
    return server.infer(model, inputs)


def errors_in_a_row(server: Target) -> dict[str, float]:
    with urlopen(f"{server.running.supervisor.launch.url_of('metrics')}/metrics") as answer:
        text = answer.read().decode()
    return {
        name: float(value)
        for name, value in re.findall(r'tnn_engine_errors_in_a_row\{[^}]*model="(\w+)"[^}]*\} (\S+)', text)
    }


WRONG: list[tuple[str, list[int], str]] = [
    ("gathered", [0, 1, 8, 2], "expected -8 to 7, found 8"),
    ("gathered", [0, -100_000, 1, 2], "expected -8 to 7, found -100000"),
    ("gathered", [2**40, 0, 0, 0], f"expected -8 to 7, found {2**40}"),
    ("computed", [0, 7, 0, 0], "expected -8 to 7, found 8"),
    ("scattered", [0, -9, 0, 0], "expected -8 to 7, found -9"),
    ("scattered", [0, 2**31, 0, 0], f"expected -8 to 7, found {2**31}"),
    ("tiled", [10**9], "for too large an output"),
    ("tiled", [-3], "expected at least 0, found -3"),
    ("reshaped", [3, 3], "a shape of as many elements as the data has"),
    ("reshaped", [-1, -1], "a shape of as many elements as the data has"),
    ("tnn", [0, 8, 0, 0], "expected -8 to 7, found 8"),
    ("tnn", [0, -100, 0, 0], "expected -8 to 7, found -100"),
]


@pytest.mark.parametrize(("model", "indices", "sentence"), WRONG)
def test_a_caller_is_told_what_is_wrong(server: Target, model: str, indices: list[int], sentence: str) -> None:
    good = {"tiled": [1], "reshaped": [4, 2]}.get(model, [0, 1, 2, 3])
    assert ask(server, model, good)[0] == 200
    for _ in range(TIMES):
        status, text = ask(server, model, indices)
        assert status == 400, text
        assert sentence in json.loads(text)["error"]
        assert_sentence(json.loads(text)["error"])
    assert errors_in_a_row(server)[model] == 0
    status, text = ask(server, model, good)
    assert status == 200, text
    server.assert_well()


def test_sizes_that_the_network_cannot_take_are_the_callers_fault(server: Target) -> None:
    for columns, wanted in ((4, 200), *[(5, 400)] * TIMES, (6, 200)):
        x = {"name": "x", "shape": [1, columns], "datatype": "FP32", "data": [1.0] * columns}
        status, text = server.infer("halved", [x])
        assert status == wanted, text
    assert errors_in_a_row(server)["halved"] == 0
    server.assert_well()
