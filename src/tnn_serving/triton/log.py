"""Facts that only tritonserver's log has: why it did not start, why a configuration cannot be read."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

_REASONS = (
    re.compile(r"^error: (?P<text>.+)"),
    re.compile(r"(?P<text>unrecognized option .+)"),
    re.compile(r"^(?P<text>(?:Bad option|Invalid option value|invalid argument for).*)"),
    re.compile(r'^E\d{4} \S+ \d+ \S+\] "(?P<text>.*)"'),
    re.compile(r'^\S+Z E \d+ \S+\] "(?P<text>.*)"'),
)
_POLL_FAILED = re.compile(r"Poll failed for model directory '(?P<name>[^']*)': (?P<text>.*?)\"?$")
_STACK = re.compile(r'^(?:Current thread|Thread) 0x|^  File "|^Fatal Python error|^Signal \(\d|^ *\d+# ')
_DECISION = re.compile(r'(?:^I\d{4} \S+ \d+|^\S+Z I \d+) loading\.py:\d+\] "(?P<text>.*)"$')
_TIME = re.compile(r"^(?:[IWEF]\d{4} [\d:.]+ \d+|\d{4}-\d\d-\d\dT\S+Z) ")
_OUT_OF_FILES = "Too many open files"
_NO_GPU = re.compile(r'^(?P<head>E(?=\d{4} )|\S+Z E )(?P<place>[^\]]*\] )"?CudaDriverHelper has not been initialized')
NO_GPU = "there is no GPU: models run on the CPU"


def failure_reasons(lines: Sequence[str]) -> list[str]:
    """The errors in tritonserver's output. Those from its end come first, since they concern the whole server."""
    found: dict[str, None] = {}
    for pattern in _REASONS:
        for line in lines:
            match = pattern.search(line)
            if match and not is_harmless(line):
                found[match["text"].strip().rstrip(".")] = None
    return list(found)


def is_harmless(line: str) -> bool:
    """Whether a line of the log looks like an error but is not: there is no GPU, and none is needed."""
    return _NO_GPU.match(line) is not None


def as_shown(line: str) -> str:
    """A line of the log for people: tritonserver calls it an error that there is no GPU, and has no flag against it."""
    found = _NO_GPU.match(line)
    return line if found is None else f'{found["head"].replace("E", "I")}{found["place"]}"{NO_GPU}"'


def is_alarming(line: str) -> bool:
    """Whether a line is shown even if the rest of the log is not: warnings, errors, and stacks of threads."""
    # Triton's lines start with level (I, W, E or F) and date, or with the date in ISO 8601 format.
    warns = line[:1] in ("W", "E", "F") or "Z W " in line[:32] or "Z E " in line[:32]
    return (warns and not is_harmless(line)) or _STACK.search(line) is not None


def poll_failure(lines: Sequence[str], model: str) -> str:
    """Why a model's folder could not be read; empty if the log does not mention it."""
    matches = (_POLL_FAILED.search(line) for line in lines)
    return next((match["text"] for match in matches if match and match["name"] == model), "")


def decision_at_load(line: str) -> str:
    """What the backend decided for a model at load, and why; empty for any other line of the log."""
    match = _DECISION.search(line)
    return match["text"] if match else ""


def is_out_of_files(line: str) -> bool:
    """Whether a line says that the server has no file descriptor left."""
    return _OUT_OF_FILES in line


REPEATS_S = 1.0
REPEATS = 10
"""How often a line may repeat within this time; beyond it, the log has their number instead."""


class Repeats:
    """Keeps lines that repeat from filling the log: without a descriptor, tritonserver writes one 100,000 times a
    second. A few that say the same are no flood."""

    def __init__(self) -> None:
        self._last = ""
        self._passed = 0
        self._held = 0
        self._since_s = 0.0

    def passed(self, line: str) -> Iterator[str]:
        """What to log for a line: itself, or nothing if it repeats too often, and now and then how many were held."""
        text = _TIME.sub("", line)
        if text != self._last or time.monotonic() - self._since_s > REPEATS_S:
            if self._held:
                yield f"(the last line came {self._held} more times)"
            self._last, self._since_s, self._passed, self._held = text, time.monotonic(), 0, 0
        if self._passed < REPEATS:
            self._passed += 1
            yield line
        else:
            self._held += 1
