"""Tasks that behave and misbehave, run in workers by the tests beside."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tnn_serving.errors import FormatError, located


def echo(arguments: dict[str, Any]) -> Any:
    return arguments["value"]


def repeat(arguments: dict[str, Any]) -> Any:
    return "0" * arguments["count"]


def niceness(arguments: dict[str, Any]) -> Any:
    group = Path("/proc/self/autogroup")
    words = group.read_text().split() if group.exists() else []
    return [os.getpriority(os.PRIO_PROCESS, 0), " ".join(words[1:])]


def pid(arguments: dict[str, Any]) -> Any:
    return [os.getpid(), os.getppid()]


def second_time(arguments: dict[str, Any]) -> Any:
    """Waits for ever the first time."""
    file = Path(arguments["path"])
    if not file.exists():
        file.touch()
        while True:
            time.sleep(1)
    return os.getppid()


def nap(arguments: dict[str, Any]) -> Any:
    time.sleep(arguments["seconds"])


def log(arguments: dict[str, Any]) -> Any:
    logging.getLogger("tnn_serving.somewhere").warning("heard: %s", arguments["value"])


def refuse(arguments: dict[str, Any]) -> Any:
    with located("a file", "layer 3"):
        raise FormatError("is broken", expected=4, found="5", hint="mend it")


def fail(arguments: dict[str, Any]) -> Any:
    raise ZeroDivisionError("by nothing")


def read(arguments: dict[str, Any]) -> Any:
    return Path(arguments["path"]).read_text()


def write(arguments: dict[str, Any]) -> Any:
    Path(arguments["path"]).write_bytes(b"0" * arguments["size"])


def connect(arguments: dict[str, Any]) -> Any:
    socket.socket(socket.AF_INET, arguments["kind"])


def execute(arguments: dict[str, Any]) -> Any:
    subprocess.run(["/bin/true"], check=True)


def allocate(arguments: dict[str, Any]) -> Any:
    return len(bytearray(arguments["size"]))


def crash(arguments: dict[str, Any]) -> Any:
    ctypes.string_at(0)


def leave(arguments: dict[str, Any]) -> Any:
    os._exit(3)


def hang(arguments: dict[str, Any]) -> Any:
    """Inside C, with the interpreter lock held: no thread of Python runs any more."""
    ctypes.PyDLL(None).sleep(10_000)


def spin(arguments: dict[str, Any]) -> Any:
    while True:
        pass


def leave_a_child(arguments: dict[str, Any]) -> Any:
    child = os.fork()
    if not child:
        time.sleep(10_000)
    return child
