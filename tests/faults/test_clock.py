"""The wall clock jumps; everything that waits or measures goes by the monotonic one."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tnn_serving
from tests.faults.conftest import Served
from tests.servers import wait_for

WALL = re.compile(r"\btime\.time(_ns)?\(|\bgettimeofday\b|\bCLOCK_REALTIME\b|\btime\(NULL\)")


def test_no_duration_is_taken_from_the_wall_clock() -> None:
    package = Path(tnn_serving.__file__).parent
    sources = [*package.rglob("*.py"), *package.rglob("*.c"), *package.rglob("*.h")]
    assert len(sources) > 50
    assert [str(file) for file in sources if WALL.search(file.read_text())] == []


def libfaketime() -> Path:
    for folder in Path("/usr/lib").glob("*/faketime"):
        library = folder / "libfaketimeMT.so.1"
        if library.is_file():
            return library
    pytest.skip("libfaketime is not installed (package faketime)")


@pytest.mark.parametrize("jump", ["+30d", "-30d"])
def test_the_wall_clock_jumps(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    """tritonserver sees its wall clock jump by a month while it serves; the supervisor sees nothing to act on."""
    offset = tmp_path / "offset"
    offset.write_text("+0\n")
    monkeypatch.setenv("LD_PRELOAD", str(libfaketime()))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    monkeypatch.setenv("NO_FAKE_STAT", "1")
    served = serve(exit_timeout_s=1)
    served.check()
    day = time.strftime("%m%d", time.gmtime())
    assert any(re.match(rf"[IWE]{day} ", line) for line in list(served.running.log))
    offset.write_text(f"{jump}\n")
    moved = time.strftime("%m%d", time.gmtime(time.time() + (30 if jump.startswith("+") else -30) * 86400))
    for _ in range(20):
        served.check()
    with served.running.http() as client:
        (served.repository / "model" / "1" / "model.tnnmodel").touch()
        client.load_model("model")  # its line in the log shows that the server's clock has jumped
        served.check(client)
    wait_for(lambda: any(re.match(rf"[IWE]{moved} ", line) for line in list(served.running.log)), "the clock jumped")
    assert not served.running.restarts
    assert not served.running.warnings
    report = served.running.supervisor.monitor.report()
    assert report.ready, report
