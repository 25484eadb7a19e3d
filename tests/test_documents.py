"""Pages under docs/ that say what the code says: tables in step, examples that hold."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import generate_cli
import generate_conversion
import generate_parameters
import tnn_serving
from tests.pages import DOCS, GENERATED, ROOT, anchors, blocks, code_spans, links, pages, read, relative, rows, section
from tests.recordings import cases
from tnn_serving import conversion, load, read_model, write_model
from tnn_serving.check import report as checked
from tnn_serving.cli.pictures import Classified, Detected
from tnn_serving.client import load as load_test
from tnn_serving.client.classify import Prediction
from tnn_serving.client.detect import Face
from tnn_serving.config.settings import SETTINGS
from tnn_serving.formats.tnn.model import SCALE_NUMBER, SCALE_TYPE
from tnn_serving.layers import declaration, is_known, type_number
from tnn_serving.layers.base import Reserved
from tnn_serving.layers.registry import declared
from tnn_serving.look import compare, profile, summary
from tnn_serving.network import views
from tnn_serving.shield.metrics import metrics as shield_metrics
from tnn_serving.soak.run import Soak
from tnn_serving.triton.backend.metrics import FAMILIES
from tnn_serving.triton.launch import Launch
from tnn_serving.triton.monitor import Monitor
from tnn_serving.triton.supervisor_metrics import SupervisorMetrics
from tnn_serving.tune import goal as tune_goal
from tnn_serving.tune import report as tune_report

PACKAGE = ROOT / "src" / "tnn_serving"
CONVERSION = DOCS / "reference" / "conversion.md"
CLI = DOCS / "reference" / "cli.md"
SERVING = DOCS / "guides" / "serving.md"
FORMATS = DOCS / "reference" / "formats.md"
STABILITY = DOCS / "reference" / "stability.md"


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT.resolve()), f"{target} leads out of the repository"
        assert not anchor or (there.suffix == ".md" and anchor in anchors(there)), target


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_files_that_are_named_exist(page: Path) -> None:
    """Sources and folders in inline code, from the root, from the package, or by a bare name that only one file has."""
    missing = [span for span in code_spans(page) if re.fullmatch(r"[\w./-]+(\.(py|c|h)|/)", span) and not named(span)]
    assert missing == []


def named(span: str) -> bool:
    """Whether the repository has it, or `make` writes it; capitals stand for a name that the reader chooses."""
    if (
        span == "dist/"
        or re.search("[A-Z]{3}", span)
        or any((folder / span).exists() for folder in (ROOT, ROOT / "src", PACKAGE))
    ):
        return True
    return "/" not in span and bool([*PACKAGE.rglob(span), *ROOT.glob(f"benchmarks/{span}")])


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_examples_import_names_that_exist(page: Path) -> None:
    for block in blocks(page):
        if block.language != "python" or "import" not in block.text:
            continue
        for statement in ast.walk(ast.parse(block.text)):
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("tnn_serving"):
                module = importlib.import_module(statement.module or "")
                assert [alias.name for alias in statement.names if not hasattr(module, alias.name)] == []


@pytest.mark.slow
def test_forms_of_an_int8_network_are_compared(tmp_path: Path) -> None:
    case = next(iter(cases("_int8_networks")))
    folder = tmp_path / "face_int8" / "1"
    folder.mkdir(parents=True)
    (folder / "proto.tnnproto").write_bytes(case.proto)
    (folder / "model.tnnmodel").write_bytes(case.model)
    (block,) = [block.text for block in blocks(DOCS / "concepts" / "int8.md") if block.language == "python"]
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("None", "Difference("))


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    listed = {(DOCS / target.partition("#")[0]).resolve() for target in links(index)}
    missing = [relative(page) for page in DOCS.rglob("*.md") if page != index and page.resolve() not in listed]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in pages() if page not in GENERATED], ids=relative)
def test_lines_are_not_too_long(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    # A row of a table cannot be broken.
    assert [line for line in prose.splitlines() if len(line) > 128 and not line.startswith("|")] == []


def generate(what: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = DOCS / f"generate_{what}.py"
    return subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, check=False)


def test_generated_text_is_up_to_date() -> None:
    assert read(CLI) == generate_cli.page(), "run: make docs"
    assert read(SERVING) == generate_parameters.with_table(read(SERVING)), "run: make docs"
    assert read(CONVERSION) == generate_conversion.fresh(read(CONVERSION)), "run: make docs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "page", "said"),
    [
        ("parameters", SERVING, "one inference per thread"),
        ("cli", CLI, "## Measure"),
        ("conversion", CONVERSION, "| layer | made from |"),
    ],
)
def test_stale_text_is_noticed_and_written(what: str, page: Path, said: str, tmp_path: Path) -> None:
    copy = tmp_path / page.name
    stale = read(page).replace(said, "abacus")
    assert stale != read(page)
    copy.write_text(stale, encoding="utf-8")
    done = generate(what, "--check", copy)
    assert done.returncode == 1
    assert f"run: python docs/generate_{what}.py" in done.stderr
    assert read(copy) == stale
    assert generate(what, copy).returncode == 0
    assert read(copy) == read(page)


def test_every_parameter_is_described() -> None:
    page = read(SERVING)
    assert all(parameter.doc in page for parameter in SETTINGS.values())


def test_metrics_are_listed() -> None:
    page = section(DOCS / "guides" / "operations.md", "Metrics, alerts, dashboard")
    listed = {cells[0].strip("`").partition("{")[0] for cells in rows(page)}
    assert listed >= {family.name for family in FAMILIES}
    labels = {name.strip("`"): re.findall(r"`(\w+)`", cell) for name, cell, _ in (r for r in rows(page) if len(r) == 3)}
    assert labels == {family.name: list(family.labels) for family in FAMILIES}
    monitor = Monitor(Launch(("tritonserver",), {}))
    families = [
        *SupervisorMetrics(monitor).collect(),
        *shield_metrics({"server.memory_allocated": 1}, up=True, restarts=0),
    ]
    assert listed - labels.keys() == {one.name + "_total" * (one.type == "counter") for one in families}


def test_format_example_has_the_documented_answer() -> None:
    text, dump = re.findall(r"^```text\n(.*?)^```$", section(FORMATS, "Example"), re.MULTILINE | re.DOTALL)
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
    for names, numbers, _ in rows(section(FORMATS, "Entries by layer type")):
        types, values = names.split(", "), [int(number) for number in numbers.split(", ")]
        described.update(zip(types, values if len(values) > 1 else values * len(types), strict=True))
    assert described.pop(SCALE_TYPE) == SCALE_NUMBER
    kept = {name: type_number(name) for name in plain_names() if declaration(name).payload}
    assert described == kept


def plain_names() -> list[str]:
    """Every declared type without a mark in front."""
    return [name for name in declared() if not name.startswith(("Quantized", "DynamicRangeQuantized"))]


def test_type_numbers_are_listed() -> None:
    listed = dict(re.findall(r"(\w+) (\d+)[,.]", section(FORMATS, "Type numbers")))
    numbers = {name: int(number) for name, number in listed.items()}
    assert all(is_known(name) and type_number(name) == number for name, number in numbers.items())
    assert {name for name in numbers if declaration(name) is not Reserved} == set(plain_names())


KEYS = {
    "`inspect`": summary.Summary,
    "of a layer": views.LayerView,
    "of a weight": views.WeightView,
    "`compare`": compare.Comparison,
    "`convert`": conversion.Account,
    "of a try": conversion.SelfCheck,
    "of a run": conversion.Tried,
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
    "of a candidate": tune_report.CandidateResult,
    "of a level of load": tune_goal.Point,
    "`bench --layers`": profile.Profile,
    "of a layer's time": profile.LayerTime,
    "`soak`": Soak,
}


def test_stable_keys_are_the_ones_printed() -> None:
    found: list[tuple[str, list[str]]] = []
    for title, keys, *_ in rows(section(STABILITY, "Command line")):
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
    table = [row for row in rows(section(STABILITY, "Python")) if not row[0].startswith("`tnn_serving.")]
    named = {word for name, *_ in table for word in re.findall(r"^`(\w+)", name)}
    assert named == set(tnn_serving.__all__)


@pytest.mark.parametrize("module", ["tnn_serving.client.load", "tnn_serving.tune"])
def test_stable_modules_have_their_names(module: str) -> None:
    (names,) = (row[1] for row in rows(section(STABILITY, "Python")) if row[0].startswith(f"`{module}`"))
    assert set(re.findall(r"`(\w+)`", names)) == set(importlib.import_module(module).__all__)


@pytest.mark.parametrize("name", ["load", "to_onnx", "write_model", "compare"])
def test_stable_arguments_are_those_of_the_function(name: str) -> None:
    (text,) = re.findall(rf"`{name}\((.*)\)`", section(STABILITY, "Python"))
    named = re.findall(r"(?:^|, )(\w+)", text)
    parameters = inspect.signature(getattr(tnn_serving, name)).parameters
    assert named == [one for one in parameters if one != "unknown"]


@pytest.mark.parametrize(
    "name", ["run", "close", "inputs", "outputs", "optional_inputs", "default_shapes", "engine", "int8_form"]
)
def test_stable_parts_of_a_model_exist(name: str) -> None:
    assert f"`{name}`" in section(STABILITY, "Python")
    assert getattr(tnn_serving.Model, name).__doc__
