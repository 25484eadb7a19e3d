"""Pages under docs/ that say what the code says: tables in step, examples that hold."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import tnn_serving
from tnn_serving import load, read_model, write_model
from tnn_serving.check import report as checked
from tnn_serving.cli.pictures import Classified, Detected
from tnn_serving.client import Face, Prediction
from tnn_serving.client import load as load_test
from tnn_serving.config.settings import SETTINGS
from tnn_serving.formats.tnn.model import SCALE_NUMBER, SCALE_TYPE
from tnn_serving.layers import declaration, is_known, type_number
from tnn_serving.layers.base import Reserved
from tnn_serving.layers.registry import declared
from tnn_serving.look import compare, profile, summary
from tnn_serving.network import views
from tnn_serving.soak.run import Soak
from tnn_serving.tune import goal as tune_goal
from tnn_serving.tune import report as tune_report

DOCS = Path(__file__).parent.parent / "docs"
GENERATOR = DOCS / "generate_parameters.py"


def section(page: str, title: str) -> str:
    """The text of a section up to the next heading of its level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables' rows, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row, following in zip(cells, [*cells[1:], [""]], strict=True) if not is_rule(row + following)]


def is_rule(cells: list[str]) -> bool:
    return any(re.fullmatch(r"\|?-+(\|-+)*\|?", cell) for cell in cells)


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(GENERATOR), *arguments], capture_output=True, text=True, check=False)


def test_parameters_are_in_step() -> None:
    done = generate("--check")
    assert done.returncode == 0, done.stderr
    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    for parameter in SETTINGS.values():
        assert parameter.doc in page


def test_stale_parameters_are_noticed_and_written(tmp_path: Path) -> None:
    page = tmp_path / "serving.md"
    page.write_text((DOCS / "serving.md").read_text(encoding="utf-8").replace("`openvino` or", "`abacus` or"))
    assert generate("--check", str(page)).returncode == 1
    assert "abacus" in page.read_text()
    assert generate(str(page)).returncode == 0
    assert page.read_text() == (DOCS / "serving.md").read_text(encoding="utf-8")


def test_format_example_has_the_documented_answer() -> None:
    text, dump = re.findall(r"^```text\n(.*?)^```$", section("formats.md", "Example"), re.MULTILINE | re.DOTALL)
    proto = text.encode()
    model = b""
    for line in dump.splitlines():
        offset, row = int(line[:4], 16), line[6:70]
        assert offset == len(model), line
        model += bytes.fromhex(row)
    assert (len(proto), len(model)) == (143, 173)
    graph = read_model(proto, model)
    assert write_model(graph, canonical=True) == (proto, model)
    answer = load(graph).run({"x": np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 2, 2)})["y"]
    np.testing.assert_array_equal(answer.reshape(2, 4), [[15, 25, 35, 45], [-175, -375, -575, -775]])


def test_every_type_with_an_entry_is_described() -> None:
    described: dict[str, int] = {}
    for names, numbers, _ in rows(section("formats.md", "Entries by layer type")):
        types, values = names.split(", "), [int(number) for number in numbers.split(", ")]
        described.update(zip(types, values if len(values) > 1 else values * len(types), strict=True))
    assert described.pop(SCALE_TYPE) == SCALE_NUMBER
    kept = {name: type_number(name) for name in plain_names() if declaration(name).payload}
    assert described == kept


def plain_names() -> list[str]:
    """Every declared type without a mark in front."""
    return [name for name in declared() if not name.startswith(("Quantized", "DynamicRangeQuantized"))]


def test_type_numbers_are_listed() -> None:
    listed = dict(re.findall(r"(\w+) (\d+)[,.]", section("formats.md", "Type numbers")))
    numbers = {name: int(number) for name, number in listed.items()}
    assert all(is_known(name) and type_number(name) == number for name, number in numbers.items())
    assert {name for name in numbers if declaration(name) is not Reserved} == set(plain_names())


KEYS = {
    "`inspect`": summary.Summary,
    "of a layer": views.LayerView,
    "of a weight": views.WeightView,
    "`compare`": compare.Comparison,
    "`check`": checked.Checked,
    "of a model": checked.CheckedModel,
    "of a version": checked.CheckedVersion,
    "of a file": checked.CheckedFile,
    "of an input or output": checked.CheckedTensor,
    "of memory": checked.Memory,
    "of a finding": checked.Finding,
    "`classify`": Classified,
    "of a prediction": Prediction,
    "`detect`": Detected,
    "of a face": Face,
    "`bench`": load_test.Measurement,
    "of a latency": load_test.Latency,
    "of a window": load_test.Window,
    "of a server": load_test.ServerSide,
    "of a client": load_test.ClientSide,
    "`tune`": tune_report.Report,
    "of a machine": tune_report.Machine,
    "of a candidate": tune_report.Result,
    "of a level of load": tune_goal.Point,
    "`bench --layers`": profile.Profile,
    "of a layer's time": profile.LayerTime,
    "`soak`": Soak,
}


def test_stable_keys_are_the_ones_printed() -> None:
    found: list[tuple[str, list[str]]] = []
    for title, keys, *_ in rows(section("stability.md", "Command line")):
        if title.isdecimal():
            continue
        if title:
            found.append((title, []))
        found[-1][1].extend(re.findall(r"`(\w+)`", keys))
    blobs = [keys for title, keys in found if title == "of a blob"]
    assert blobs == [[f.name for f in fields(kind)] for kind in (summary.BlobSummary, compare.Difference)]
    documented = {title: keys for title, keys in found if title != "of a blob"}
    assert documented == {title: [f.name for f in fields(kind)] for title, kind in KEYS.items()}


def test_stable_names_are_the_public_ones() -> None:
    named = {re.match(r"`(\w+)", name)[1] for name, *_ in rows(section("stability.md", "Python"))}  # type: ignore[index]
    assert named == set(tnn_serving.__all__)


@pytest.mark.parametrize("name", ["run", "inputs", "outputs", "optional_inputs", "default_shapes", "engine"])
def test_stable_parts_of_a_model_exist(name: str) -> None:
    assert f"`{name}`" in section("stability.md", "Python")
    assert getattr(tnn_serving.Model, name).__doc__
