"""What a server's process needs of the system: descriptors, and leave of the dead."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys

import pytest

from tnn_serving.triton.process import DESCRIPTORS_NEEDED, DESCRIPTORS_WANTED, allow_descriptors

LIMITED = """
import resource, sys
from tnn_serving.errors import ServerError
from tnn_serving.triton.process import allow_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
try:
    allow_descriptors()
except ServerError as error:
    sys.exit(str(error))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limited(soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(soft), str(hard)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be() -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)
    assert limited(256, hard).stdout.split() == [str(hard), str(hard)]


def test_too_few_descriptors_are_a_sentence() -> None:
    done = limited(64, 64)
    assert done.returncode == 1
    assert "too few file descriptors for a server" in done.stderr
    assert f"at least {DESCRIPTORS_NEEDED}" in done.stderr
    assert "found 64" in done.stderr
    assert "ulimit -n" in done.stderr


def test_a_limit_beyond_all_use_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: taken.append(limits))
    allow_descriptors()
    assert taken == [(DESCRIPTORS_WANTED, resource.RLIM_INFINITY)]


ORPHANS = """
import os, subprocess, sys, time
from tnn_serving.triton.process import Orphans, _zombies
assert os.getpid() == 1
orphans = Orphans()
# A child that leaves a grandchild behind, which ends as an orphan.
subprocess.run([sys.executable, "-S", "-c", "import os, time\\nif not os.fork(): time.sleep(0.5)"], check=True)
own = subprocess.Popen(["true"])
deadline = time.monotonic() + 60
while not list(_zombies()):
    time.sleep(0.05)
while set(_zombies()) - {own.pid}:
    assert time.monotonic() < deadline
    orphans.reap()
    own.poll()
    time.sleep(0.05)
assert own.wait() == 0
print("reaped")
"""


def test_process_1_takes_leave_of_orphans() -> None:
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare (util-linux) is not installed")
    command = [unshare, "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=60, check=False)
    if tried.returncode:
        pytest.skip(f"namespaces are not allowed here: {tried.stderr.strip()}")
    done = subprocess.run(
        [*command, sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "reaped\n", done.stderr
