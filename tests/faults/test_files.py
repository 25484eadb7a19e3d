"""Disks that are full, caches that are damaged, files that may not be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import write_matrix
from tests.faults.conftest import MATRIX, Served
from tests.servers import load, wait_for
from tnn_serving.triton.index import UNLOAD_PAUSE_S

Serve = Callable[..., Served]


def load_again(served: Served) -> None:
    """Unloads the model and loads it, and checks an answer."""
    with served.running.http() as client:
        time.sleep(UNLOAD_PAUSE_S)
        client.unload_model("model")
        wait_for(lambda: not client.is_model_ready("model"), "the model is gone")
        client.load_model("model")
        served.check(client)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_damaged_cache_is_made_again(serve: Serve, tmp_path: Path, engine: str) -> None:
    cache = tmp_path / "cache"
    served = serve(f"--backend-config=tnn,cache_dir={cache}", f"--backend-config=tnn,engine={engine}")
    served.check()
    kept = files(cache)
    assert kept
    assert {file.suffix for file in kept} >= {".json", ".0"}
    damages: list[Callable[[bytes], bytes]] = [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: np.random.default_rng(0).bytes(len(content)),
        flip,
    ]
    for damage in damages:
        contents = {file: file.read_bytes() for file in kept}
        for file, content in contents.items():
            file.write_bytes(damage(content))
        load_again(served)
        assert served.logged("is damaged, and is made again")
        assert files(cache) == kept
        assert all(file.read_bytes() != damage(contents[file]) for file in kept)


def test_cache_whose_files_cannot_be_read_or_written(serve: Serve, tmp_path: Path) -> None:
    """A folder where a file should be is refused to every user, root too."""
    cache = tmp_path / "cache"
    served = serve(f"--backend-config=tnn,cache_dir={cache}")
    for file in files(cache):
        file.unlink()
        file.mkdir()
    load_again(served)
    assert served.logged("cannot be read", "Is a directory")
    assert served.logged("nothing can be stored in", "Is a directory")
    shutil.rmtree(cache)
    cache.write_text("")
    load_again(served)
    assert served.logged("nothing can be stored in", "Not a directory")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip() if done else 'no mount'}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_disk_full_while_caching(serve: Serve, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * (56 * 1024))
    served = serve(f"--backend-config=tnn,cache_dir={small_disk}", "--backend-config=tnn,engine=openvino")
    served.check()
    # A second, larger model does not fit into what is left.
    size = 64
    matrix = np.eye(size, dtype=np.float32)
    write_matrix(served.repository, "large", matrix)
    with served.running.http() as client:
        load(client, "large")
        assert client.is_model_ready("large")
    assert served.logged("nothing can be stored in", "No space left on device")
    assert not [file for file in files(small_disk) if file.name.startswith(".")]
    served.check()


def test_files_that_may_not_be_read(serve: Serve) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file; run the tests as another user")
    served = serve()
    weights = served.repository / "model" / "1" / "model.tnnmodel"
    weights.chmod(0)
    with served.running.http() as client:
        with pytest.raises(InferenceServerException, match=r"model\.tnnmodel.*Permission denied"):
            client.load_model("model")
        served.check(client)
        weights.chmod(0o644)
        client.load_model("model")
        served.check(client)


def test_files_that_are_no_files(serve: Serve) -> None:
    served = serve()
    weights = served.repository / "model" / "1" / "model.tnnmodel"
    weights.rename(served.repository.parent / "weights")
    os.mkfifo(weights)
    wait_for(lambda: not served.running.overlay.changed(), "the server is shown the change")
    with served.running.http() as client:
        with pytest.raises(InferenceServerException, match=r"model\.tnnmodel.*not a regular file"):
            client.load_model("model")
        weights.unlink()
        weights.symlink_to(weights.parent / "nowhere")
        wait_for(lambda: not served.running.overlay.changed(), "the server is shown the change")
        with pytest.raises(InferenceServerException, match=r"model\.tnnmodel.*No such file or directory"):
            client.load_model("model")
        served.check(client)
        weights.unlink()
        write_matrix(served.repository, "model", MATRIX)
        wait_for(lambda: not served.running.overlay.changed(), "the server is shown the change")
        client.load_model("model")
        served.check(client)
