"""Overlays: which models get a config.pbtxt, how changes are applied, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tnn_serving.config.model_config import CONFIG_FILE
from tnn_serving.config.prototext import top_level_fields
from tnn_serving.config.text import CONFIG_MAX_BYTES
from tnn_serving.errors import ServerError
from tnn_serving.triton.overlay import Overlay


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of overlays, so that a test can see what is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def add_model(
    repository: Path, name: str, config: str | None = None, version: int = 1, suffix: str = ".tnnproto"
) -> Path:
    model = repository / name
    folder = model / str(version)
    folder.mkdir(parents=True)
    (folder / f"proto{suffix}").write_text("proto")
    (folder / "model.tnnmodel").write_text("weights")
    if config is not None:
        (model / "config.pbtxt").write_text(config)
    return model


def remote(repository: Path, name: str) -> None:
    """A model of another backend, which Triton recognises by its file."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.pt").write_text("")


def seen(location: str) -> dict[str, str]:
    """The content of every file that Triton sees in a location."""
    root = Path(location)
    files = {}
    for model in filter(Path.is_dir, root.iterdir()):
        for path in sorted(
            [*model.iterdir(), *(file for sub in model.iterdir() if sub.is_dir() for file in sub.iterdir())]
        ):
            if path.is_file():
                files[str(path.relative_to(root))] = path.read_text()
    return files


def test_a_configuration_that_is_too_large_is_not_shown(repository: Path) -> None:
    add_model(repository, "face", 'backend: "tnn"\n')
    large = add_model(repository, "large", 'backend: "tnn"\n') / CONFIG_FILE
    with large.open("ab") as file:
        file.truncate(1 << 40)
    with Overlay([str(repository)]) as overlay:
        assert {Path(name).parts[0] for name in seen(overlay.locations[0])} == {"face"}
        (skipped,) = overlay.refused
        assert skipped.folder == large.parent
        expected = f"at most {CONFIG_MAX_BYTES} bytes, found {1 << 40} bytes"
        assert f"{CONFIG_FILE}: file is too large for a config.pbtxt: expected {expected}" in skipped.reason
        large.write_text("")
        overlay.sync()
        assert not overlay.refused
        assert seen(overlay.locations[0])[f"large/{CONFIG_FILE}"] == '\nbackend: "tnn"\n'.lstrip("\n")


@pytest.mark.parametrize("location", ["s3://bucket/models", "gs://bucket/models", "as://account/models"])
def test_remote_repositories_pass_through(location: str) -> None:
    with Overlay([location]) as overlay:
        assert overlay.locations == [location]


def test_models_of_any_name_get_the_backend(repository: Path) -> None:
    add_model(repository, "face")
    add_model(repository, "with.dots and spaces")
    with Overlay([str(repository)]) as overlay:
        files = seen(overlay.locations[0])
    for name in ("face", "with.dots and spaces"):
        assert files[f"{name}/config.pbtxt"] == 'backend: "tnn"\n'
        assert files[f"{name}/1/proto.tnnproto"] == "proto"
        assert files[f"{name}/1/model.tnnmodel"] == "weights"


def test_config_without_backend_is_kept_and_gets_the_line(repository: Path) -> None:
    model = add_model(repository, "face", "max_batch_size: 4 # no newline")
    (model / "labels.txt").write_text("cat\ndog\n")
    with Overlay([str(repository)]) as overlay:
        files = seen(overlay.locations[0])
    config = files["face/config.pbtxt"]
    assert config.startswith("max_batch_size: 4 # no newline\n")
    assert top_level_fields(config) == {"max_batch_size", "backend"}
    assert files["face/labels.txt"] == "cat\ndog\n"
    assert (model / "config.pbtxt").read_text() == "max_batch_size: 4 # no newline"


def test_other_models_of_an_overlaid_repository_are_unchanged(repository: Path) -> None:
    add_model(repository, "face")
    add_model(repository, "ready", 'backend: "tnn"\nmax_batch_size: 2\n')
    remote(repository, "resnet")
    (repository / "pipeline" / "1").mkdir(parents=True)
    (repository / "pipeline" / "config.pbtxt").write_text('platform: "ensemble"\n')
    with Overlay([str(repository)]) as overlay:
        files = seen(overlay.locations[0])
    assert files["ready/config.pbtxt"] == 'backend: "tnn"\nmax_batch_size: 2\n'
    assert "resnet/config.pbtxt" not in files
    assert files["pipeline/config.pbtxt"] == 'platform: "ensemble"\n'


def test_folders_that_are_no_models_are_reported(repository: Path) -> None:
    add_model(repository, "face")
    (repository / "notes").mkdir()
    (repository / "README.md").write_text("")
    (repository / ".git").mkdir()
    with Overlay([str(repository)]) as overlay:
        assert [item.folder.name for item in overlay.skipped] == ["notes"]
        assert "version folder" in overlay.skipped[0].reason
        assert {path.name for path in Path(overlay.locations[0]).iterdir()} == {"face"}


def test_several_repositories_keep_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    add_model(first, "one", 'backend: "tnn"')
    add_model(second, "two")
    with Overlay([str(first), "s3://bucket", str(second)]) as overlay:
        assert overlay.locations[1] == "s3://bucket"
        assert seen(overlay.locations[0])["one/config.pbtxt"] == 'backend: "tnn"'
        assert seen(overlay.locations[2])["two/config.pbtxt"] == 'backend: "tnn"\n'


def test_changes_are_followed(repository: Path) -> None:
    face = add_model(repository, "face")
    add_model(repository, "old")
    with Overlay([str(repository)]) as overlay:
        location = overlay.locations[0]
        add_model(repository, "new")
        add_model(repository, "face", version=2)
        (face / "config.pbtxt").write_text("max_batch_size: 8\n")
        (repository / "old").rename(repository.parent / "old")
        overlay.sync()
        files = seen(location)
        assert files["new/config.pbtxt"] == 'backend: "tnn"\n'
        assert files["face/2/proto.tnnproto"] == "proto"
        assert files["face/config.pbtxt"].startswith("max_batch_size: 8\n")
        assert not [name for name in files if name.startswith("old/")]

        (face / "config.pbtxt").write_text('backend: "tnn"\n')  # no longer needs the overlay
        overlay.sync()
        assert seen(location)["face/config.pbtxt"] == 'backend: "tnn"\n'
        (face / "config.pbtxt").unlink()  # needs it again
        (face / "1" / "proto.tnnproto").write_text("changed")
        overlay.sync()
        assert seen(location)["face/config.pbtxt"] == 'backend: "tnn"\n'
        assert seen(location)["face/1/proto.tnnproto"] == "changed"


def test_repository_that_starts_empty_is_followed(repository: Path) -> None:
    with Overlay([str(repository)]) as overlay:
        assert overlay.locations != [str(repository)]
        add_model(repository, "face")
        overlay.sync()
        assert "face/1/proto.tnnproto" in seen(overlay.locations[0])


def test_what_is_unchanged_is_not_touched(repository: Path) -> None:
    add_model(repository, "face")
    with Overlay([str(repository)]) as overlay:
        model = Path(overlay.locations[0]) / "face"
        before = {path: path.lstat().st_mtime_ns for path in (model, *model.iterdir())}
        overlay.sync()
        assert {path: path.lstat().st_mtime_ns for path in (model, *model.iterdir())} == before


def test_nothing_is_left_and_sources_are_untouched(repository: Path, temporary: Path) -> None:
    face = add_model(repository, "face")
    with Overlay([str(repository)]) as overlay:
        assert list(temporary.iterdir())
        overlay.close()
        overlay.close()
    assert not list(temporary.iterdir())
    assert (face / "1" / "model.tnnmodel").read_text() == "weights"


def test_nothing_is_left_when_a_second_repository_is_wrong(repository: Path, temporary: Path) -> None:
    add_model(repository, "face")
    with pytest.raises(ServerError, match="no model repository"):
        Overlay([str(repository), str(repository / "missing")])
    assert not list(temporary.iterdir())


def test_messages_have_the_paths_of_the_user(repository: Path) -> None:
    add_model(repository, "face")
    with Overlay([str(repository)]) as overlay:
        text = f"cannot read {overlay.locations[0]}/face/1/proto.tnnproto"
        assert overlay.with_source_paths(text) == f"cannot read {repository}/face/1/proto.tnnproto"


@pytest.mark.parametrize("kind", ["missing", "file", "model", "version"])
def test_paths_that_are_not_a_repository(repository: Path, kind: str) -> None:
    model = add_model(repository, "face")
    path = {
        "missing": repository / "x",
        "file": model / "1" / "proto.tnnproto",
        "model": model,
        "version": model / "1",
    }[kind]
    with pytest.raises(ServerError) as raised:
        Overlay([str(path)])
    assert str(path) in str(raised.value)
    if kind in ("model", "version"):
        assert "parent" in (raised.value.hint or "")


def test_changes_that_matter_are_seen_cheaply(tmp_path: Path) -> None:
    model = tmp_path / "models" / "relu"
    (model / "1").mkdir(parents=True)
    (model / "1" / "proto.tnnproto").write_bytes(b"")
    with Overlay([str(tmp_path / "models")]) as overlay:
        assert not overlay.changed()
        for change in (
            (model / "2").mkdir,
            (model / "1" / "model.tnnmodel").touch,
            (model / "config.pbtxt").touch,
            (tmp_path / "models" / "other").mkdir,
            (model / "2").rmdir,
        ):
            time.sleep(0.01)  # the file system's clock ticks every 4 ms
            change()
            assert overlay.changed()
            overlay.sync()
            assert not overlay.changed()


LABELLED = 'output [{ name: "y" label_filename: "./labels.txt" }]'


def test_label_files_are_copies(repository: Path) -> None:
    """Triton reads what has been looked at, whatever the name means later."""
    model = add_model(repository, "face", LABELLED)
    (model / "labels.txt").write_text("cat\n")
    with Overlay([str(repository)]) as overlay:
        shown = Path(overlay.locations[0], "face", "labels.txt")
        assert not shown.is_symlink()
        before = shown.stat()
        overlay.sync()
        assert shown.stat() == before
        (model / "labels.txt").unlink()
        (model / "labels.txt").symlink_to("/etc/passwd")
        overlay.sync()
        assert shown.read_text() == "cat\n"
        assert "link out of the model folder" in overlay.refused[0].reason
        (model / "labels.txt").unlink()
        (model / "labels.txt").write_text("dog\n")
        overlay.sync()
        assert shown.read_text() == "dog\n"
        assert not overlay.refused


def test_code_is_never_shown(repository: Path) -> None:
    face = add_model(repository, "face")
    add_model(repository, "hostile")
    (repository / "hostile" / "1" / "libtriton_tnn.so").write_text("code")
    with Overlay([str(repository)]) as overlay:
        assert {name.partition("/")[0] for name in seen(overlay.locations[0])} == {"face"}
        assert "file `1/libtriton_tnn.so` is a shared library" in overlay.refused[0].reason
        before = seen(overlay.locations[0])
        (face / "1" / "libtriton_tnn.so").write_text("code")  # what is served goes on
        overlay.sync()
        assert seen(overlay.locations[0]) == before
        assert [skipped.folder.name for skipped in overlay.refused] == ["face", "hostile"]


def test_a_refused_model_is_withdrawn_where_loads_are_requests(repository: Path) -> None:
    face = add_model(repository, "face")
    with Overlay([str(repository)]) as overlay:
        before = seen(overlay.locations[0])
        code = face / "1" / "libtriton_tnn.so"
        code.write_text("code")
        overlay.sync(withdraws=True)
        assert not Path(overlay.locations[0], "face").is_dir()
        assert [skipped.folder.name for skipped in overlay.refused] == ["face"]
        code.unlink()
        overlay.sync(withdraws=True)
        assert seen(overlay.locations[0]) == before
        assert not overlay.refused


def test_models_of_allowed_backends_are_linked(repository: Path) -> None:
    model = repository / "script"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text("code")
    (model / "config.pbtxt").write_text('backend: "python"\n')
    with Overlay([str(repository)]) as overlay:
        assert seen(overlay.locations[0]) == {}
        assert "--allow-backend python" in overlay.refused[0].reason
    with Overlay([str(repository)], allowed=["python"]) as overlay:
        files = seen(overlay.locations[0])
        assert files == {"script/1/model.py": "code", "script/config.pbtxt": 'backend: "python"\n'}
        (model / "1" / "more.py").write_text("code")
        overlay.sync()
        assert "script/1/more.py" in seen(overlay.locations[0])


def test_no_entry_vanishes_while_triton_looks(repository: Path) -> None:
    """It lists a repository, then looks at each entry, and gives up all models if one of them is gone."""
    for name in ("face", "other"):
        add_model(repository, name, 'backend: "tnn"\n')
    with Overlay([str(repository)]) as overlay:
        location, stop, missing = Path(overlay.locations[0]), threading.Event(), []

        def look() -> None:
            while not stop.is_set():
                for entry in list(location.iterdir()):
                    try:
                        entry.stat()
                    except FileNotFoundError:
                        missing.append(entry.name)

        looking = threading.Thread(target=look)
        looking.start()
        for _ in range(100):
            (repository / "face").rename(repository.parent / "away")
            overlay.sync()
            assert not (location / "face").is_dir()
            (repository.parent / "away").rename(repository / "face")
            overlay.sync()
            assert (location / "face" / "1" / "proto.tnnproto").read_text() == "proto"
        stop.set()
        looking.join()
    assert not missing


def test_a_version_appears_in_one_step(repository: Path) -> None:
    """With the folders and the many files of a large model in it."""
    model = add_model(repository, "face")
    with Overlay([str(repository)]) as overlay:
        location, stop, partial = Path(overlay.locations[0]), threading.Event(), []

        def look() -> None:
            while not stop.is_set():
                version = location / "face" / "2"
                with suppress(FileNotFoundError):
                    before, count = version.stat().st_ino, len(os.listdir(version))
                    if count < 21 and version.stat().st_ino == before:
                        partial.append(count)

        looking = threading.Thread(target=look)
        looking.start()
        for _ in range(20):
            (model / "2" / "parts").mkdir(parents=True)
            for k in range(20):
                (model / "2" / f"part{k}").write_text("")
                (model / "2" / "parts" / f"part{k}").write_text("")
            overlay.sync()
            assert len(list((location / "face" / "2" / "parts").iterdir())) == 20
            shutil.rmtree(model / "2")
            overlay.sync()
            assert not (location / "face" / "2").exists()
        stop.set()
        looking.join()
    assert not partial
