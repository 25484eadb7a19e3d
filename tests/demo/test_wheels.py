"""Downloads with the real pip from a folder of wheels, set in pip's configuration."""

from __future__ import annotations

import base64
import hashlib
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tnn_serving.cache import cache_folder, cache_option
from tnn_serving.demo.wheels import Wheel, fetch, member
from tnn_serving.errors import ConfigError, FormatError

pytestmark = pytest.mark.slow


def make_wheel(folder: Path, name: str, text: str) -> Wheel:
    """A wheel that pip accepts, and its description."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/data.txt": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digest = {key: base64.urlsafe_b64encode(hashlib.sha256(value.encode()).digest()) for key, value in files.items()}
    record = [f"{key},sha256={digest[key].rstrip(b'=').decode()},{len(value)}" for key, value in files.items()]
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in files.items():
            archive.writestr(key, value)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))
    return Wheel(name, "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest(), "MIT")


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only source in the user's pip configuration."""
    folder = tmp_path / "links"
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nno-index = true\nfind-links = {folder}\n")
    for variable in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    folder.mkdir()
    return folder


def test_a_wheel_is_fetched_once(links: Path, tmp_path: Path) -> None:
    wheel = make_wheel(links, "demoweights", "content")
    kept = fetch(wheel, tmp_path / "cache")
    assert member(kept, "demoweights/data.txt") == b"content"
    (links / wheel.filename).unlink()
    assert fetch(wheel, tmp_path / "cache") == kept
    assert [path.name for path in kept.parent.iterdir()] == [wheel.filename]


def test_a_damaged_copy_is_fetched_again(links: Path, tmp_path: Path) -> None:
    wheel = make_wheel(links, "demoweights", "content")
    kept = fetch(wheel, tmp_path)
    kept.write_bytes(kept.read_bytes()[:-5])
    assert member(fetch(wheel, tmp_path), "demoweights/data.txt") == b"content"


def test_another_file_of_that_name_is_refused(links: Path, tmp_path: Path) -> None:
    known = make_wheel(links, "demoweights", "content")
    make_wheel(links, "demoweights", "something else")
    with pytest.raises(FormatError, match="not the expected file"):
        fetch(known, tmp_path)
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_missing_package_says_where_to_put_it(links: Path, tmp_path: Path) -> None:
    wheel = Wheel("demoweights", "1.0", "demoweights-1.0-py3-none-any.whl", "0" * 64, "MIT")
    with pytest.raises(ConfigError, match="could not download") as caught:
        fetch(wheel, tmp_path)
    assert str(tmp_path / "wheels") in str(caught.value.hint)


def test_a_python_without_pip_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(ConfigError, match="no pip") as caught:
        fetch(Wheel("demoweights", "1.0", "demoweights-1.0-py3-none-any.whl", "0" * 64, "MIT"), tmp_path)
    assert "ensurepip" in str(caught.value.hint)


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        fetch(Wheel("x", "1", "x.whl", "", ""), tmp_path / "file" / "cache")


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tnn-serving"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "tnn-serving"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(cls: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    assert cache_folder() is None
    assert cache_option("") is None
    assert cache_option("none") is None
    assert cache_option("here") == Path("here").absolute()


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    make_wheel(tmp_path, "demoweights", "content")
    with pytest.raises(FormatError, match=r"demoweights-1.0.*nothing.txt"):
        member(tmp_path / "demoweights-1.0-py3-none-any.whl", "nothing.txt")
    (tmp_path / "broken.whl").write_bytes(b"PK")
    with pytest.raises(FormatError):
        member(tmp_path / "broken.whl", "x")
