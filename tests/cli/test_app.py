"""The program itself: version, help, wrong usage, completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import tnn_serving as ts
from tests.program import command, run
from tnn_serving.cli.app import COMMANDS

NAMES = [*(name for name, listed in COMMANDS.items() if not listed.is_group), "backend install", "demo build"]

NARROW = 60


def test_version() -> None:
    process = subprocess.run(command("--version"), capture_output=True, text=True, timeout=120, check=True)
    assert process.stdout == f"tnn-serving {ts.__version__}\n"
    assert process.stderr == ""


# ---- help ----


@pytest.fixture(params=[NARROW, 200])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_fits_the_terminal_and_names_no_types_of_python(columns: int, name: str) -> None:
    shown = run(*name.split(), "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith(f"Usage: {' '.join(['tnn-serving', *name.split()])} [OPTIONS]")
    assert [line for line in shown.stdout.splitlines() if len(line) > columns] == []
    assert re.findall(r"list\[|<\w+|\bint range|Path\b", shown.stdout) == []


@pytest.mark.parametrize("name", NAMES)
def test_examples_can_be_pasted_at_any_width(columns: int, name: str) -> None:
    shown = run(*name.split(), "--help").stdout
    examples = shown.partition("Examples:\n")[2].partition("\n\n")[0].replace("\\\n", " ")
    for line in filter(None, examples.splitlines()):
        words = shlex.split(line.strip().lstrip("("))
        assert words[0] in ("tnn-serving", "cd", "curl"), line
        assert "\\" not in line
    assert f"tnn-serving {name}" in " ".join(examples.split())


def test_help_lists_all_commands_under_their_headings() -> None:
    shown = run("--help").stdout
    for name, listed in COMMANDS.items():
        section = shown.partition(f"\n{listed.panel}:\n")[2].partition("\n\n")[0]
        assert re.search(rf"^  {name}  ", section, re.MULTILINE), name


def test_no_words_are_a_wish_for_help() -> None:
    for words in ([], ["backend"]):
        shown = run(*words)
        assert shown.returncode == 2
        assert shown.stderr.startswith(f"Usage: {' '.join(['tnn-serving', *words])} ")


# ---- wrong usage: one line, exit code 2 ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("comapre a b", "No such command 'comapre'. Did you mean 'compare'?"),
        ("inspect --shpe x=1 m", "no such option --shpe: did you mean `--shape`? (see tnn-serving inspect --help)"),
        ("bench m --protocol htp", "Invalid value for '--protocol': 'htp' is not one of 'http', 'grpc'."),
        ("export m -o x.onnx --int8 fats", "Invalid value for '--int8': 'fats' is not one of 'exact', 'fast'."),
        ("compare m --int8 quick", "'quick' is not one of 'auto', 'fast', 'exact'."),
        ("serve m --http-port 70000", "Invalid value for '--http-port': "),
        ("serve m --shield sometimes", "Invalid value for '--shield': 'sometimes' is not one of 'auto', "),
        ("inspect", "Missing argument 'MODEL'."),
        ("inspect m --shape x:1", "expected NAME=1x3x224x224"),
    ],
)
def test_wrong_usage(words: str, said: str) -> None:
    shown = run(*words.split())
    assert shown.returncode == 2
    assert shown.stdout == ""
    assert shown.stderr.startswith("error: ")
    assert said in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--http-prot=1", "neither serve nor tritonserver has the flag --http-prot (did you mean `--http-port`"),
        ("--model-controll-mode=poll", "did you mean `--model-control-mode`?"),
        ("--model-control-mode=pol", "unknown model control mode: expected none, poll, explicit, found pol (did you"),
        ("--no-admin-token --admin-token-file t", "--admin-token-file can't be used with --no-admin-token"),
    ],
)
def test_flags_of_serve_are_read_before_a_server_starts(
    installed: None, repository: Path, words: str, said: str
) -> None:
    shown = run("serve", repository, *words.split())
    assert (shown.returncode, shown.stdout) == (2, "")
    assert said in shown.stderr
    assert shown.stderr.count("\n") == 1


# ---- completion ----


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("insp", {"inspect"}),
        ("inspect --sh", {"--shape"}),
        ("serve --tls-c", {"--tls-cert", "--tls-client-ca"}),
        ("export --int8 ", {"exact", "fast"}),
        ("demo b", {"build"}),
    ],
)
def test_completion(typed: str, wanted: set[str]) -> None:
    line = f"tnn-serving {typed}"
    variables = {"_TNN_SERVING_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        command(), capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **variables}
    )
    assert set(done.stdout.split()) == wanted, done.stderr


def test_the_shells_script() -> None:
    shown = run("--show-completion", "bash").stdout
    assert "complete -o default -F" in shown
    assert shown.rstrip().endswith("tnn-serving")
