"""Repositories that change in every way while their models answer, and repositories of many models."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import BROKEN, write_model
from tests.servers import Running, ask, wait_for

Start = Callable[..., Running]

POLL = ["--model-control-mode=poll", "--repository-poll-secs=1"]
X = np.array([-1, 0, 2, 1e30], np.float32).reshape(1, 1, 2, 2)

MODELS = 200

CHANGES: dict[str, Callable[[Path], object]] = {
    "renamed away": lambda model: model.rename(model.parent.parent / "away"),
    "removed": shutil.rmtree,
    "a file in its place": lambda model: (shutil.rmtree(model), model.write_text("a file")),
    "a link to nothing in its place": lambda model: (shutil.rmtree(model), model.symlink_to("nothing")),
    "a link to itself in its place": lambda model: (shutil.rmtree(model), model.symlink_to(model.name)),
    "its version removed": lambda model: shutil.rmtree(model / "1"),
    "its version renamed": lambda model: (model / "1").rename(model / "one"),
    "its network removed": lambda model: (model / "1" / "proto.tnnproto").unlink(),
    "its weights removed": lambda model: (model / "1" / "model.tnnmodel").unlink(),
    "its network broken": lambda model: (model / "1" / "proto.tnnproto").write_bytes(BROKEN),
    "its network cut in place": lambda model: os.truncate(model / "1" / "proto.tnnproto", 10),
    "its network empty": lambda model: os.truncate(model / "1" / "proto.tnnproto", 0),
    "a pipe in place of its network": lambda model: (
        (model / "1" / "proto.tnnproto").unlink(),
        os.mkfifo(model / "1" / "proto.tnnproto"),
    ),
    "a folder in place of its network": lambda model: (
        (model / "1" / "proto.tnnproto").unlink(),
        (model / "1" / "proto.tnnproto").mkdir(),
    ),
    "its configuration broken": lambda model: (model / "config.pbtxt").write_text("max_batch_size: {"),
    "its configuration another model's": lambda model: (model / "config.pbtxt").write_text('name: "relu"\n'),
    "its configuration a folder": lambda model: (model / "config.pbtxt").mkdir(),
    "its times long ago": lambda model: [os.utime(path, (0, 0)) for path in (*model.rglob("*"), model)],
    "its times in the future": lambda model: [os.utime(path, (2**33, 2**33)) for path in (*model.rglob("*"), model)],
    "not readable": lambda model: [path.chmod(0) for path in (*(model / "1").iterdir(), model / "1", model)],
}
"""What happens to the folder of a model. Those that leave it as it was change nothing."""


@contextmanager
def answers(running: Running, name: str) -> Iterator[None]:
    """A neighbour is asked all the time meanwhile, and each answer is right."""
    done, wrong = threading.Event(), []

    def send() -> None:
        with running.grpc() as client:
            while not done.is_set():
                try:
                    y = ask((tritonclient.grpc, client), name, X).as_numpy("y")
                    if not np.array_equal(y, np.maximum(X, 0)):
                        wrong.append(y)
                except InferenceServerException as error:
                    wrong.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    assert not wrong, wrong[:3]


def serves(running: Running, name: str) -> bool:
    """Whether a model gives the right answer."""
    with running.grpc() as client:
        try:
            y = ask((tritonclient.grpc, client), name, X).as_numpy("y")
        except InferenceServerException:
            return False
    return bool(np.array_equal(y, np.maximum(X, 0)))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_models_replaced_in_every_way_while_the_server_polls(start_server: Start, tmp_path: Path) -> None:
    """Each change is followed by the folder as it was: the model answers again, and its neighbours all the time."""
    models, whole = tmp_path / "models", tmp_path / "whole"
    write_model(models, "relu")
    write_model(models, "changed")
    shutil.copytree(models / "changed", whole)
    running = start_server([models], POLL)
    pid = running.supervisor.pid
    with answers(running, "relu"):
        for name, change in CHANGES.items():
            assert serves(running, "changed"), name
            change(models / "changed")
            change_is_seen(running, models / "changed")
            restore(whole, models / "changed")
            wait_for(lambda: serves(running, "changed"), f"the model answers again after: {name}")
            shutil.rmtree(tmp_path / "away", ignore_errors=True)
    assert running.supervisor.pid == pid
    assert not running.restarts
    assert not [line for line in running.log if "failed to poll model repository" in line]


def change_is_seen(running: Running, model: Path) -> None:
    """Returns when the supervisor has looked at the folder as it is now."""
    wait_for(lambda: not running.overlay.changed(), f"the change of {model.name} is followed")


def restore(whole: Path, model: Path) -> None:
    """Puts a folder back, complete, in one step."""
    fresh = whole.parent / "fresh"
    shutil.copytree(whole, fresh)
    for path in (*fresh.rglob("*"), fresh):
        os.utime(path)
    if model.is_symlink() or model.is_file():
        model.unlink()
    elif model.exists():
        for path in (model, *model.iterdir()):
            path.chmod(0o755)
        shutil.rmtree(model)
    fresh.rename(model)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_repository_of_many_models(start_server: Start, tmp_path: Path) -> None:
    """All become ready and answer; one that comes, and one that goes, disturbs no other."""
    models = tmp_path / "models"
    names = [f"model{number}" for number in range(MODELS)]
    for name in names:
        write_model(models, name)
    running = start_server([models], POLL)
    assert {model.name for model in running.ready[0] if model.ready} == set(names)
    assert all(serves(running, name) for name in names)
    with answers(running, names[0]):
        shutil.rmtree(models / names[-1])
        write_model(models, "another")
        wait_for(lambda: serves(running, "another"), "the new model answers")
        wait_for(lambda: not serves(running, names[-1]), "the removed model is gone")
    assert all(serves(running, name) for name in names[:-1])
    assert not running.restarts
