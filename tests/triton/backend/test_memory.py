"""Memory of compilations that come and go, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROUNDS = 100
GROWTH_MB = 8.0
"""Left to itself, oneDNN keeps 20 MB."""

PROGRAM = f"""
import numpy as np
import psutil
import tnn_serving as ts
from tests.networks import network
from tnn_serving.triton.backend.memory import give_back

layers = [f"Convolution c{{k}} 1 1 b{{k}} b{{k + 1}} 1 8 8 3 3 1 1 1 1 1 -1 1 1 1" for k in range(4)]
graph = ts.fill_random_weights(network({{"b0": (1, 8, 16, 16)}}, layers, ["b4"]), name="net")
general = ts.load(graph, "openvino").shape_caches()[0].general

def come_and_go(first, count):
    for k in range(first, first + count):
        shape = (1, 8, 8 + k % 16, 8 + k // 16)
        general.at({{"b0": shape}}).run({{"b0": np.zeros(shape, np.float32)}})
    give_back()
    return psutil.Process().memory_full_info().uss / 1e6

before = come_and_go(0, {ROUNDS})
print(come_and_go({ROUNDS}, 2 * {ROUNDS}) - before)
"""


def test_shapes_that_have_gone_leave_no_kernels_behind() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < GROWTH_MB
