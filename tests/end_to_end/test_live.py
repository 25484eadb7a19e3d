"""Models that come, go and are replaced while the server answers."""

from __future__ import annotations

import itertools
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import BROKEN, times, write_matrix, write_model
from tests.servers import DEADLINE_S, Running, ask, load, wait_for
from tnn_serving.triton.index import UNLOAD_PAUSE_S

Start = Callable[..., Running]

EXPLICIT = "--model-control-mode=explicit"
POLL = ["--model-control-mode=poll", "--repository-poll-secs=1"]
ALL = "version_policy { all {} }\n"

CLIENTS = 16
SIZE = 8


def whole_numbers(seed: int, size: int = SIZE) -> np.ndarray:
    """A matrix whose products with small whole numbers are exact in float32."""
    return np.random.default_rng(seed).integers(-9, 10, (size, size)).astype(np.float32)


def picture(seed: int, size: int = SIZE, side: int | None = None) -> np.ndarray:
    random = np.random.default_rng(seed)
    height, width = (side, side) if side else random.integers(1, 6, 2)
    return random.integers(-9, 10, (1, size, height, width)).astype(np.float32)


def answer(client: Any, model: str, x: np.ndarray, version: str = "") -> np.ndarray:
    y: np.ndarray = ask((tritonclient.http, client), model, x, model_version=version).as_numpy("y")
    return y


def memory_bytes(running: Running) -> int:
    """Memory of the server that no file stands behind: how much of a library's is its own depends on who else runs."""
    maps = psutil.Process(running.supervisor.pid).memory_maps(grouped=True)
    return sum(each.anonymous for each in maps)


def unload(client: Any, name: str) -> None:
    """Unloads a model and waits until it is gone: the answer comes as soon as it takes no more requests."""
    time.sleep(UNLOAD_PAUSE_S)
    client.unload_model(name)
    wait_for(lambda: state(client, name) == ("UNAVAILABLE", "unloaded"), f"{name} is unloaded")


def state(client: Any, name: str, version: str = "1") -> tuple[str, str]:
    """Triton's word for the state of a version, and its reason."""
    for entry in client.get_model_repository_index():
        if entry["name"] == name and entry.get("version") == version:
            return entry["state"], entry.get("reason", "")
    return "", ""


# ---- replaced under load ----


@dataclass
class Clients:
    """What 16 clients saw: how often each matrix answered, and everything that was no answer of one of them."""

    matrices: list[np.ndarray]
    wrong: list[str] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, x: np.ndarray, y: np.ndarray) -> None:
        which = [k for k, matrix in enumerate(self.matrices) if np.array_equal(y, times(matrix, x))]
        with self.lock:
            for k in which:
                self.counts[k] = self.counts.get(k, 0) + 1
            if not which:
                self.wrong.append(f"an answer of neither network for {x.shape}")

    def wait_for(self, which: int, more: int = 4 * CLIENTS) -> None:
        """Returns when a matrix has answered so many more requests, or something went wrong."""
        least = self.counts.get(which, 0) + more
        wait_for(lambda: self.wrong or self.counts.get(which, 0) >= least, f"network {which} answers")


@contextmanager
def clients_of(running: Running, model: str, matrices: list[np.ndarray]) -> Iterator[Clients]:
    seen, done = Clients(matrices), threading.Event()

    def send(number: int) -> None:
        with running.http() as client:
            for k in itertools.count():
                if done.is_set():
                    return
                x = picture(1000 * number + k % 20)
                try:
                    seen.look(x, answer(client, model, x))
                except Exception as error:
                    with seen.lock:
                        seen.wrong.append(repr(error))

    threads = [threading.Thread(target=send, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def replace_files(repository: Path, matrix: np.ndarray, step: int) -> None:
    write_matrix(repository, "model", matrix)


def add_version(repository: Path, matrix: np.ndarray, step: int) -> None:
    """A complete folder that is moved in; the version before stays on the disk."""
    made = write_matrix(repository.parent / f"made{step}", "model", matrix, version=step + 1)
    (made / str(step + 1)).rename(repository / "model" / str(step + 1))


def load_newest(running: Running, client: Any, version: int) -> None:
    """Loads a model whose version folder has just come: the supervisor must have linked it for tritonserver first."""
    (overlaid,) = running.overlay.locations
    wait_for(lambda: (Path(overlaid) / "model" / str(version)).exists(), f"version {version} is linked")
    client.load_model("model")


@pytest.mark.parametrize("replace", [replace_files, add_version])
@pytest.mark.parametrize("control", ["explicit", "poll"])
def test_replaced_while_clients_send(
    start_server: Start, tmp_path: Path, control: str, replace: Callable[[Path, np.ndarray, int], None]
) -> None:
    """No request fails, and each answer is wholly the old network's or wholly the new one's."""
    repository = tmp_path / "models"
    matrices = [whole_numbers(seed) for seed in range(4)]
    write_matrix(repository, "model", matrices[0])
    running = start_server([repository], [EXPLICIT, "--load-model=*"] if control == "explicit" else POLL)
    with running.http() as http, clients_of(running, "model", matrices) as seen:
        seen.wait_for(0)
        for step, matrix in enumerate(matrices[1:], 1):
            replace(repository, matrix, step)
            if control == "explicit":
                load_newest(running, http, 1 if replace is replace_files else step + 1)
            seen.wait_for(step)
        # The last one has taken over for good.
        before = dict(seen.counts)
        seen.wait_for(len(matrices) - 1)
    assert not seen.wrong
    assert [k for k in range(len(matrices) - 1) if seen.counts[k] > before.get(k, 0) + CLIENTS] == []
    assert len(running.ready) == 1
    assert not running.restarts


# ---- versions ----


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        (None, {3}),
        (ALL, {1, 2, 3}),
        ("version_policy { latest { num_versions: 2 } }", {2, 3}),
        ("version_policy { specific { versions: [1, 3] } }", {1, 3}),
    ],
)
def test_version_policies(
    server: Running, http: Any, repository: Path, tmp_path: Path, policy: str | None, served: set[int]
) -> None:
    name = f"versions_{len(policy or '')}"
    for version in (1, 2, 3):
        made = write_matrix(tmp_path, name, whole_numbers(version), version=version, config=policy)
    made.rename(repository / name)
    load(http, name)
    x = picture(0)
    for version in (1, 2, 3):
        assert http.is_model_ready(name, str(version)) == (version in served)
        if version in served:
            np.testing.assert_array_equal(answer(http, name, x, str(version)), times(whole_numbers(version), x))
        else:
            with pytest.raises(InferenceServerException, match="version"):
                answer(http, name, x, str(version))
    np.testing.assert_array_equal(answer(http, name, x), times(whole_numbers(max(served)), x))
    time.sleep(UNLOAD_PAUSE_S)
    http.unload_model(name)


def test_poll_follows_versions(start_server: Start, tmp_path: Path) -> None:
    """Without a config.pbtxt: the highest version that is there is the one that answers."""
    repository = tmp_path / "models"
    write_matrix(repository, "model", whole_numbers(1))
    running = start_server([repository], POLL)
    x = picture(0)
    with running.http() as http:
        add_version(repository, whole_numbers(2), 1)
        wait_for(lambda: http.is_model_ready("model", "2"), "version 2 is served")
        np.testing.assert_array_equal(answer(http, "model", x), times(whole_numbers(2), x))
        time.sleep(UNLOAD_PAUSE_S)
        (repository / "model" / "2").rename(tmp_path / "gone")
        wait_for(lambda: http.is_model_ready("model", "1"), "version 1 is served again")
        np.testing.assert_array_equal(answer(http, "model", x), times(whole_numbers(1), x))


@pytest.mark.parametrize("control", ["explicit", "poll"])
@pytest.mark.parametrize("where", ["new version", "same version"])
def test_new_files_that_fail_leave_the_old_serving(
    start_server: Start, tmp_path: Path, control: str, where: str
) -> None:
    repository, x = tmp_path / "models", picture(0)
    write_matrix(repository, "model", whole_numbers(1))
    running = start_server([repository], [EXPLICIT, "--load-model=*"] if control == "explicit" else POLL)
    version = "2" if where == "new version" else "1"
    with running.http() as http:
        if version == "2":
            made = write_model(tmp_path / "made", "model", version=2, proto=BROKEN)
            (made / "2").rename(repository / "model" / "2")
        else:
            (tmp_path / "broken").write_bytes(BROKEN)
            (tmp_path / "broken").rename(repository / "model" / "1" / "proto.tnnproto")
        if control == "explicit":
            with pytest.raises(InferenceServerException, match="NoSuchLayer") as told:
                load_newest(running, http, int(version))
            assert f", model/{version}/proto.tnnproto, " in str(told.value)
        wait_for(lambda: any("NoSuchLayer" in line for line in running.log), "the log says why")
        np.testing.assert_array_equal(answer(http, "model", x), times(whole_numbers(1), x))
        assert http.is_model_ready("model", "1")
        # Mended, it takes over.
        write_matrix(repository, "model", whole_numbers(2), version=int(version))
        if control == "explicit":
            http.load_model("model")

        def mended() -> bool:
            return np.array_equal(answer(http, "model", x), times(whole_numbers(2), x))

        wait_for(mended, "the mended files are served")


def test_a_version_that_fails_its_recorded_case_leaves_the_old_serving(start_server: Start, tmp_path: Path) -> None:
    repository, x = tmp_path / "models", picture(0)
    write_matrix(repository, "model", whole_numbers(1))
    running = start_server([repository], [EXPLICIT, "--load-model=*"])
    made = write_matrix(tmp_path / "made", "model", whole_numbers(2), version=2) / "2"
    right = times(whole_numbers(2), x)
    np.savez(made / "check.npz", **{"in.x": x, "out.y": right + 1})
    with running.http() as http:
        made.rename(repository / "model" / "2")
        with pytest.raises(InferenceServerException, match=r"check\.npz.*output `y`.*does not give what was recorded"):
            load_newest(running, http, 2)
        np.testing.assert_array_equal(answer(http, "model", x), times(whole_numbers(1), x))
        np.savez(repository / "model" / "2" / "check.npz", **{"in.x": x, "out.y": right})
        http.load_model("model")
        np.testing.assert_array_equal(answer(http, "model", x), right)


# ---- memory ----

LARGE = 2048
"""Channels of a network whose weights take 17 MB."""

HELD = 5.0
"""Most memory of a loaded network, in sizes of its weights: OpenVINO has them as the file does, packed for fixed
shapes, and packed for free ones, which may take twice the size. Nothing that was compiled to be measured is left."""

KEPT = 0.25
"""Share of a network's weights that may stay when it and seven like it have come and gone."""


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_memory_is_given_back_after_unload(start_server: Start, tmp_path: Path, engine: str) -> None:
    repository, weights, rounds = tmp_path / "models", 4 * LARGE * LARGE, 8
    for name in ("first", "second"):
        write_matrix(repository, name, whole_numbers(len(name), LARGE))
    running = start_server([repository], [EXPLICIT, f"--backend-config=tnn,engine={engine}"])
    with running.http() as http:

        def comes_and_goes(name: str) -> int:
            http.load_model(name)
            answer(http, name, picture(0, LARGE))
            loaded = memory_bytes(running)
            unload(http, name)
            return loaded

        for _ in range(rounds):  # engines keep a number of kernels, whose they ever were
            comes_and_goes("first")
        before = memory_bytes(running)
        loaded = [comes_and_goes("second") for _ in range(rounds)]
        assert weights < loaded[0] - before < HELD * weights
        wait_for(lambda: memory_bytes(running) - before < KEPT * weights, "the memory is given back")


def test_a_hundred_loads_and_unloads(start_server: Start, tmp_path: Path) -> None:
    """With the pause before each unload that tritonserver needs; memory does not grow by a tenth of what was loaded."""
    repository, size = tmp_path / "models", 512
    # Without batches there is less to try out at each load.
    write_matrix(repository, "model", whole_numbers(0, size), config="max_batch_size: 0\n")
    write_model(repository, "neighbour")
    running = start_server([repository], [EXPLICIT, "--load-model=neighbour", "--backend-config=tnn,engine=openvino"])
    x, pid = picture(0, size), running.supervisor.pid
    expected = times(whole_numbers(0, size), x)
    memory = []
    with running.http() as http:
        for _ in range(100):
            http.load_model("model")
            np.testing.assert_array_equal(answer(http, "model", x), expected)
            unload(http, "model")
            memory.append(memory_bytes(running))
        y = picture(1, 3)
        np.testing.assert_array_equal(answer(http, "neighbour", y), np.maximum(y, 0))
    assert running.supervisor.pid == pid
    early, late = np.median(memory[10:30]), np.median(memory[80:])
    assert late - early < 100 * 4 * size * size / 10


# ---- files that change under the server ----


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_files_cut_short_after_the_load(start_server: Start, tmp_path: Path, engine: str) -> None:
    """Nothing looks at them any more, not even for the compilations that new shapes and other outputs need."""
    repository, size = tmp_path / "models", 256
    matrix = whole_numbers(0, size)
    model = write_matrix(repository, "model", matrix)
    running = start_server([repository], [f"--backend-config=tnn,engine={engine}"])
    for file in (model / "1").iterdir():
        with file.open("r+b") as cut:
            cut.truncate(0)
    with running.http() as http:
        for side in (3, 5):
            x = picture(side, size, side)
            for _ in range(6):  # from the third time on, a shape is compiled for in the background
                np.testing.assert_array_equal(answer(http, "model", x), times(matrix, x))
        if engine == "openvino":
            wait_for(lambda: compiled_shapes(running) > 0, "a shape has been compiled for")
            x = picture(7, size, 5)
            np.testing.assert_array_equal(answer(http, "model", x), times(matrix, x))
    assert not running.restarts


def compiled_shapes(running: Running) -> int:
    """The backend's own count of executables for single shapes."""
    host, port = running.supervisor.launch.endpoint("metrics")
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=DEADLINE_S) as answered:
        rows = [row for row in answered.read().decode().splitlines() if row.startswith("tnn_shape_cache_size{")]
    return sum(int(float(row.split()[-1])) for row in rows)


def test_files_that_change_all_the_time_while_they_are_loaded(
    server: Running, http: Any, repository: Path, tmp_path: Path
) -> None:
    """Each load gives one of the networks that were written whole, or says what is wrong; nothing else happens."""
    matrices = [whole_numbers(seed, 128) for seed in range(2)]
    written = [
        write_matrix(tmp_path / str(k), "m", matrix) / "1" / "model.tnnmodel" for k, matrix in enumerate(matrices)
    ]
    contents = [file.read_bytes() for file in written]
    target = write_matrix(repository, "restless", matrices[0]) / "1" / "model.tnnmodel"
    done = threading.Event()

    def write() -> None:
        random = np.random.default_rng(0)
        while not done.is_set():
            content = contents[random.integers(2)]
            if random.integers(2):
                target.write_bytes(content)
                with target.open("r+b") as file:
                    file.truncate(int(random.integers(len(content))))
            else:
                fresh = tmp_path / "fresh"
                fresh.write_bytes(content)
                fresh.rename(target)

    load(http, "restless")
    time.sleep(UNLOAD_PAUSE_S)
    writer = threading.Thread(target=write)
    writer.start()
    loaded, refusals = 0, []
    x = picture(0, 128)
    try:
        for _ in range(40):
            try:
                http.load_model("restless")
                loaded += 1
            except InferenceServerException as error:
                refusals.append(str(error))
            time.sleep(UNLOAD_PAUSE_S)  # a load that succeeds unloads what was loaded before
            if loaded:
                y = answer(http, "restless", x)
                assert any(np.array_equal(y, times(matrix, x)) for matrix in matrices)
    finally:
        done.set()
        writer.join()
    assert refusals
    told = re.compile(r"`restless`.*(changed while they were read|tnnmodel)|failed to poll")
    assert [text for text in refusals if not told.search(text)] == []
    target.write_bytes(contents[1])
    http.load_model("restless")
    np.testing.assert_array_equal(answer(http, "restless", x), times(matrices[1], x))
    unload(http, "restless")
