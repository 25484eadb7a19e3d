"""The program ``tnn-serving``, in a process of its own or in this one."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from tnn_serving.cli.app import main

NAME = "tnn-serving"

START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from tnn_serving.cli.app import main
main()
"""
"""Ctrl-C interrupts it as on a terminal. A shell without job control starts what runs in the background with SIGINT
ignored, tests included, and Python leaves an ignored signal alone."""


def command(*arguments: object) -> list[str]:
    """The words that start it as a process."""
    return [sys.executable, "-c", START, *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs it to its end in this process, which has imported everything already: a process takes seconds for that."""
    words, stdout, stderr, code = [NAME, *map(str, arguments)], io.StringIO(), io.StringIO(), None
    with mock.patch.object(sys, "argv", words), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(words, code or 0, stdout.getvalue(), stderr.getvalue())
