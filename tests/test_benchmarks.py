"""The programs under benchmarks/ show how to call them, and the benchmarks page says what their results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
PROGRAMS = sorted(path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
LIBRARIES = {"bare_engine.py", "load.py", "machine.py", "networks.py", "plots.py", "processes.py", "results.py"} | {
    "server.py",
    "wire.py",
}


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / program), *arguments], capture_output=True, text=True, check=False
    )


def test_every_file_is_a_program_or_a_known_part() -> None:
    files = {path.name for path in BENCHMARKS.glob("*.py")}
    assert files - set(PROGRAMS) == LIBRARIES


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_how_to_call_it(program: str) -> None:
    done = run(program, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{program}" in done.stdout


def test_peers_are_named_when_one_is_unknown() -> None:
    done = run("peers.py", "install", "nginx")
    assert done.returncode == 2
    assert "no peer nginx; there are fastapi, mosec," in done.stderr


def test_every_peer_has_a_server_and_pinned_requirements() -> None:
    done = run("peers.py", "run", "--help")
    names = {path.stem.removeprefix("serve_") for path in (BENCHMARKS / "peers").glob("serve_*.py")}
    assert names
    for name in names:
        assert name in done.stdout
        pinned = (BENCHMARKS / "peers" / "requirements" / f"{name}.txt").read_text(encoding="utf-8").split()
        assert pinned[:2] == ["-r", "engine.txt"]
        assert all("==" in requirement for requirement in pinned[2:])


def test_page_is_what_the_results_say() -> None:
    done = run("report.py", "--check")
    assert done.returncode == 0, f"type: make bench, or python benchmarks/report.py\n{done.stderr}"


def test_stale_page_is_noticed(tmp_path: Path) -> None:
    for path in RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "engines.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["targets"][0]["measured"] = 123.0
    file.write_text(json.dumps(told), encoding="utf-8")
    done = run("report.py", "--check", "--results", str(tmp_path))
    assert done.returncode == 1
    assert "| 123 | **missed** |" in done.stderr


def test_no_results_are_said_so(tmp_path: Path) -> None:
    done = run("report.py", "--check", "--results", str(tmp_path))
    assert done.returncode == 1
    assert "no results in" in done.stderr
