"""Parsing tritonserver's log; the lines are from tritonserver 2.51."""

from __future__ import annotations

import time

import pytest

from tnn_serving.triton.log import (
    NO_GPU,
    REPEATS,
    Repeats,
    as_shown,
    decision_at_load,
    failure_reasons,
    is_harmless,
    is_out_of_files,
    poll_failure,
)

HARMLESS = 'E1123 06:24:25.015537 6475 server.cc:241] "CudaDriverHelper has not been initialized."'
NO_REPOSITORY = "error: creating server: Internal - failed to stat file /nonexistent"
PORT = (
    "E1123 06:33:27.423833 10295 main.cc:257] "
    "\"failed to start HTTP service: Unavailable - Socket '0.0.0.0:18000' already in use \""
)
PORT_ISO = PORT.replace("E1123 06:33:27.423833", "2026-11-23T06:33:27Z E")
OPTION = "/opt/tritonserver/bin/tritonserver: unrecognized option '--foo=1'"
POLL = (
    "E1123 06:56:54.539129 8309 model_repository_manager.cc:1460] "
    "\"Poll failed for model directory 'face': failed to read text proto from /models/face/config.pbtxt\""
)


@pytest.mark.parametrize(
    ("lines", "reasons"),
    [
        ([HARMLESS, "I1123 06:33:27.382492 10295 grpc_server.cc:2558] \"Started\""], []),
        ([HARMLESS, PORT], ["failed to start HTTP service: Unavailable - Socket '0.0.0.0:18000' already in use"]),
        ([PORT_ISO], ["failed to start HTTP service: Unavailable - Socket '0.0.0.0:18000' already in use"]),
        ([OPTION, "Usage: tritonserver [options]"], ["unrecognized option '--foo=1'"]),
        (['Bad option: "--http-port".', "Invalid option value. Got x"],
         ['Bad option: "--http-port"', "Invalid option value. Got x"]),
        ([PORT, PORT, NO_REPOSITORY], ["creating server: Internal - failed to stat file /nonexistent",
          "failed to start HTTP service: Unavailable - Socket '0.0.0.0:18000' already in use"]),
    ],
)  # fmt: skip
def test_reasons_of_a_failed_start(lines: list[str], reasons: list[str]) -> None:
    assert failure_reasons(lines) == reasons


def test_missing_gpu_is_harmless() -> None:
    assert is_harmless(HARMLESS)
    assert not is_harmless(PORT)


def test_why_a_folder_could_not_be_read() -> None:
    assert poll_failure([HARMLESS, POLL], "face") == "failed to read text proto from /models/face/config.pbtxt"
    assert poll_failure([POLL], "other") == ""


def test_what_was_decided_at_load() -> None:
    line = 'I1125 15:13:23.080703 17746 loading.py:155] "face runs on openvino (openvino 2.3 ms, onnxruntime 2.9 ms)"'
    assert decision_at_load(line) == "face runs on openvino (openvino 2.3 ms, onnxruntime 2.9 ms)"
    assert decision_at_load(line.replace("loading.py", "bridge.py")) == ""
    assert decision_at_load(PORT) == ""


FLOOD = "[ warn] Error from accept() call: Too many open files"


def test_lines_that_repeat_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand a second, and each is the same but for its time."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    repeats = Repeats()
    logged = []
    for _ in range(5):
        now += 1.01
        logged += [text for _ in range(100_000) for text in repeats.passed(FLOOD)]
    logged += repeats.passed(PORT)
    assert logged[0] == FLOOD
    assert logged[-1] == PORT
    assert len(logged) == 5 * (REPEATS + 1) + 1
    held = sum(int(text.split()[4]) for text in logged if text.startswith("("))
    assert held + logged.count(FLOOD) == 500_000


def test_a_few_lines_that_say_the_same_are_no_flood() -> None:
    repeats = Repeats()
    lines = [f'I1123 06:33:27.38249{k} 10295 x.cc:1] "the same"' for k in range(REPEATS)]
    lines += [f'2026-11-30T12:00:0{k}Z I 10295 x.cc:1] "the same, too"' for k in range(REPEATS)]
    assert [text for line in [*lines, "end"] for text in repeats.passed(line)] == [*lines, "end"]


def test_a_server_without_descriptors() -> None:
    assert is_out_of_files(FLOOD)
    assert not is_out_of_files(PORT)


@pytest.mark.parametrize("stamp", ["{}1130 15:37:19.389360 18025", "2026-11-30T15:37:19Z {} 18025"])
def test_a_missing_gpu_is_no_error(stamp: str) -> None:
    line = stamp.format("E") + ' server.cc:241] "CudaDriverHelper has not been initialized."'
    assert is_harmless(line)
    assert as_shown(line) == stamp.format("I") + f' server.cc:241] "{NO_GPU}"'


@pytest.mark.parametrize(
    "line",
    [
        'E1130 15:37:19.389360 18025 model.cc:1] "failed to load: CudaDriverHelperX"',
        'I1130 15:37:19.389360 18025 a.cc:1] "the text CudaDriverHelper has not been initialized came from a model"',
        "  a continued line",
    ],
)
def test_other_lines_are_shown_as_they_are(line: str) -> None:
    assert as_shown(line) == line
