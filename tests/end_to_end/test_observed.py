"""What operators see of the backend: series of the metrics endpoint, spans in traces of both modes."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http

from tests.end_to_end.models import write_model, write_slow_model
from tests.servers import DEADLINE_S, Running, ask, load, unload, wait_for

X = np.ones((1, 3, 8, 8), np.float32)


def series(server: Running, model: str) -> dict[str, float]:
    """The backend's own series of a model: ``name{further labels}`` to value."""
    endpoint = server.supervisor.launch.endpoint("metrics")
    assert endpoint is not None
    with urllib.request.urlopen(f"http://{endpoint[0]}:{endpoint[1]}/metrics", timeout=DEADLINE_S) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"^(tnn_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named.pop("model") == model:
            assert named.pop("version") == "1"
            rest = ",".join(f'{key}="{value}"' for key, value in sorted(named.items()))
            found[f"{name}{{{rest}}}" if rest else name] = float(value)
    return found


def test_series_of_a_model_come_and_go(server: Running, http: Any, repository: Path) -> None:
    write_model(repository, "observed", config="max_batch_size: 4\n")
    load(http, "observed")
    client = (tritonclient.http, http)
    before = series(server, "observed")
    for rows in (1, 3, 3):
        ask(client, "observed", np.repeat(X, rows, 0))
    after = series(server, "observed")
    assert after["tnn_batch_rows_count"] - before.get("tnn_batch_rows_count", 0) == 3
    assert after["tnn_batch_rows_sum"] - before.get("tnn_batch_rows_sum", 0) == 7
    one, four = 'tnn_batch_rows_bucket{le="1"}', 'tnn_batch_rows_bucket{le="4"}'
    assert after[one] - before.get(one, 0) == 1
    assert after[four] - before.get(four, 0) == 3
    assert [value for name, value in after.items() if name.startswith("tnn_engine_info")] == [1]
    assert after["tnn_load_seconds"] > 0
    assert "tnn_oldest_execution_seconds" in after
    unload(http, "observed")
    wait_for(lambda: not series(server, "observed"), "its series are gone")
    load(http, "observed")
    ask(client, "observed", X)
    again = series(server, "observed")
    assert again["tnn_batch_rows_count"] <= after["tnn_batch_rows_count"]
    unload(http, "observed")


def test_a_server_without_metrics_serves(start_server: Callable[..., Running], tmp_path: Path) -> None:
    write_model(tmp_path, "relu")
    running = start_server([tmp_path], ["--allow-metrics=false"])
    with running.http() as client:
        ask((tritonclient.http, client), "relu", X)


def test_spans_in_a_trace_file(start_server: Callable[..., Running], tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_model(repository, "relu")
    file = tmp_path / "trace.json"
    flags = [
        "--trace-config=mode=triton",
        "--trace-config=rate=1",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=triton,file={file}",
    ]
    running = start_server([repository], flags)
    with running.http() as client:
        ask((tritonclient.http, client), "relu", X)
    running.finish()  # which writes the file
    times = {t["name"]: t["ns"] for entry in json.loads(file.read_text()) for t in entry.get("timestamps", [])}
    assert (
        times["REQUEST_START"] < times["decode_START"] <= times["decode_END"] <= times["infer_START"]
        < times["infer_END"] < times["REQUEST_END"]
    )  # fmt: skip
    assert times["COMPUTE_START"] <= times["decode_START"]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Address of a collector of OpenTelemetry's HTTP protocol, and the spans that it gets."""
    spans: list[dict[str, Any]] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for resource in body["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    spans.extend(scope["spans"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Take) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        server.shutdown()
        thread.join()


def test_spans_for_opentelemetry(
    start_server: Callable[..., Running], tmp_path: Path, collector: tuple[str, list[dict[str, Any]]]
) -> None:
    url, spans = collector
    write_slow_model(tmp_path, "slow", config="")  # slow enough to run in a thread of its own
    flags = [
        "--trace-config=mode=opentelemetry",
        "--trace-config=rate=1",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=opentelemetry,url={url}",
        "--trace-config=opentelemetry,bsp_schedule_delay=50",
    ]
    running = start_server([tmp_path], flags)
    with running.http() as client:
        ask((tritonclient.http, client), "slow", X)
        named: dict[str, dict[str, Any]] = wait_for(
            lambda: (found := {span["name"]: span for span in spans}) and "InferRequest" in found and found,
            "the spans are exported",
        )
    request = named["slow"]
    for name in ("batch", "decode", "infer"):
        assert named[name]["parentSpanId"] == request["spanId"]
        start, end = (int(named[name][key]) for key in ("startTimeUnixNano", "endTimeUnixNano"))
        assert int(request["startTimeUnixNano"]) <= start <= end
