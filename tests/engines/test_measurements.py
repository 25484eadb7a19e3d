"""What was measured is kept, and measured again where that does not work; what is measured decides."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tnn_serving.engines.cpu import available_cores
from tnn_serving.engines.measurements import Measurements
from tnn_serving.engines.timing import fastest, time_in_turn

FACTS = {"network": "abc", "threads": [2, 1]}


def test_answers_are_kept_by_all_their_facts(tmp_path: Path) -> None:
    measurements = Measurements(tmp_path)
    assert measurements.get(FACTS) is None
    measurements.put(FACTS, {"engine": "openvino"})
    assert Measurements(tmp_path).get(FACTS) == {"engine": "openvino"}
    assert measurements.get({**FACTS, "threads": [1, 1]}) is None


def test_without_a_folder_nothing_is_kept() -> None:
    measurements = Measurements(None)
    measurements.put(FACTS, {"engine": "openvino"})
    assert not measurements.stored
    assert measurements.get(FACTS) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"facts": {}, "result": {"engine": "x"}}', b"\xff\xfe"])
def test_a_damaged_answer_is_none(tmp_path: Path, damage: bytes) -> None:
    measurements = Measurements(tmp_path)
    measurements.put(FACTS, {"engine": "openvino"})
    (file,) = (tmp_path / "measurements").iterdir()
    file.write_bytes(damage)
    assert measurements.get(FACTS) is None
    measurements.put(FACTS, {"engine": "onnxruntime"})
    assert measurements.get(FACTS) == {"engine": "onnxruntime"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    measurements = Measurements(tmp_path / "file")
    measurements.put(FACTS, {"engine": "openvino"})
    assert "can be stored" in caplog.text
    assert measurements.get(FACTS) is None


def test_candidates_run_in_turn() -> None:
    order: list[str] = []
    seconds = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0.01)
    assert set(seconds) == {"a", "b"}
    assert order == ["a", "b"] * (len(order) // 2)
    assert len(order) >= 8


def test_a_slow_candidate_runs_once_after_the_first_time() -> None:
    runs = []

    def slow() -> None:
        runs.append(1)
        time.sleep(0.05)

    time_in_turn({"slow": slow}, 0.001)
    assert len(runs) == 2


def test_the_first_candidate_stays_unless_another_is_clearly_faster() -> None:
    assert fastest({"openvino": 1.0, "onnxruntime": 0.99}) == "openvino"
    assert fastest({"openvino": 1.0, "onnxruntime": 0.9}) == "onnxruntime"
    assert fastest({"openvino": 1.0}) == "openvino"


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        file = root / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


GROUP = "cpu,cpuacct"
V1 = "4:memory:/a\n3:cpu,cpuacct:/a/b\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "count", "told"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 2, "quota of 1.5 cores"),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3, "quota of 3 cores"),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1, "quota of 0.5 cores"),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, 8, ""),
        ("0::/a/b\n", {"a/b/cpu.max": "900000 100000\n"}, 8, ""),
        (
            V1,
            {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "200000", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"},
            2,
            "2 cores",
        ),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"}, 8, ""),
        # A container that does not see its own group's path finds its limits at the root of the hierarchy.
        (V1, {f"{GROUP}/cpu.cfs_quota_us": "400000", f"{GROUP}/cpu.cfs_period_us": "100000"}, 4, "4 cores"),
        ("", {}, 8, ""),
    ],
)
def test_cores_follow_the_quota_of_control_groups(
    tmp_path: Path, cgroup: str, files: dict[str, str], count: int, told: str
) -> None:
    cores = available_cores(machine(tmp_path, cgroup, files), allowed=8)
    assert cores.count == count
    assert told in cores.reason


def test_cores_follow_the_affinity_of_the_process(tmp_path: Path) -> None:
    assert available_cores(tmp_path).count == len(os.sched_getaffinity(0))
    assert available_cores(tmp_path, allowed=1).count == 1
