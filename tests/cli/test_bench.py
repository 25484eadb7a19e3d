"""`bench`: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from tests.client.load.sending import region_files, regions
from tests.program import command, run
from tests.servers import DEADLINE_S, Running, wait_for
from tnn_serving.client.connection import connect
from tnn_serving.client.load import ClientSide, Latency, Measurement, ServerSide, Window


def test_bench_serves_a_model_and_prints_json(installed: None, repository: Path) -> None:
    done = run(
        "bench", repository / "relu" / "1", "--concurrency", "1,3", "--window", 0.1, "--max-windows", 3, "--json"
    )
    assert done.returncode == 0, done.stderr
    levels = json.loads(done.stdout)
    assert [level["concurrency"] for level in levels] == [1, 3]
    for level in levels:
        assert list(level) == [field.name for field in fields(Measurement)]
        for key, kind in (("latency", Latency), ("server", ServerSide), ("client", ClientSide)):
            assert list(level[key]) == [field.name for field in fields(kind)]
        assert list(level["windows"][0]) == [field.name for field in fields(Window)]
        assert level["errors"] == 0
        assert level["server"]["cpu_us"] > 0


def test_bench_of_a_running_server_as_table(loaded: Running) -> None:
    quick = ("--window", 0.1, "--max-windows", 3, "--shape", "x=1x3x8x8")
    done = run("bench", loaded.address("grpc"), "--model", "relu", "--rate", "50", *quick)
    assert done.returncode == 0, done.stderr
    title, head, row = done.stdout.splitlines()
    assert title.startswith("relu over grpc, batch 1")
    assert head.split()[:3] == ["rate", "requests/s", "p50"]
    assert row.split()[0] == "50"


def test_bench_ends_with_1_when_requests_failed(loaded: Running) -> None:
    quick = ("--window", 0.1, "--max-windows", 3, "--shape", "x=3x8x8")
    done = run("bench", loaded.address("http"), "--model", "bounded", "--concurrency", 6, *quick)
    assert done.returncode == 1
    assert "requests failed: 503" in done.stderr
    assert "maximum queue size" in done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_bench_is_interrupted(loaded: Running) -> None:
    options = ("--window", 0.2, "--max-windows", 10_000, "--stability", 0.001, "--shared-memory", "system")
    target = (loaded.address("http"), "--model", "counted", "--shape", "x=1x3x8x8")
    words = command("bench", *target, "--concurrency", "2,4", *options)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            with connect(loaded.address("http")) as connection:
                before = connection.statistics("counted")["requests"]
                wait_for(lambda: connection.statistics("counted")["requests"] > before + 500, "the load has begun")
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()  # otherwise the context waits for its end
    assert process.returncode == 130, stderr
    assert region_files(process.pid) == regions(loaded, process.pid) == []
    assert "concurrency 2: interrupted" in stderr
    assert "Traceback" not in stderr
    assert stdout.splitlines()[2].split()[0] == "2"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere/model"], 2, "'nowhere/model' is no model, no file, and no address"),
        (["relu"], 2, "'relu' is no model, no file, and no address"),
        (["{model}u"], 2, "did you mean `{model}`?"),
        (["127.0.0.1:1", "--model", "m"], 1, "no answer from http://127.0.0.1:1"),
        (["{url}", "--model", "nosuch", "--shape", "x=1"], 1, "has no model `nosuch` ready"),
        (["{url}"], 2, "choose one of: batched, bounded"),
        (["{url}", "--concurrency", "0"], 2, "expected positive numbers"),
        (["{url}", "--concurrency", "1", "--rate", "2"], 2, "give one of"),
        (["{url}", "--layers"], 2, "--layers needs a model file"),
        (["{model}", "--model", "relu"], 2, "only a server has models"),
    ],
)
def test_errors_of_bench(loaded: Running, repository: Path, arguments: list[str], code: int, message: str) -> None:
    places = {"url": loaded.address("http"), "model": repository / "relu"}
    words = [word.format(**places) for word in arguments]
    done = run("bench", *words)
    assert done.returncode == code
    assert message.format(**places) in done.stderr
    assert done.stdout == ""
