"""Broken models, loaded into a running server: each is refused with a sentence or serves, and nobody else notices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import RELU
from tests.formats.tnn.test_damage import PAIRS, WORDS, damaged
from tests.hostile.conftest import Target, assert_sentence, bounded, write_files
from tests.servers import wait_for
from tnn_serving.layers import declared

KINDS = sorted(declared())
NUMBERS = ["0", "1", "-1", "2", "3", "7", "65536", "2147483647", "-2147483648", "1e30", "nan", "0.5"]


def load(target: Target, name: str) -> str:
    """The refusal of a load request, empty if the model loads."""
    wait_for(lambda: target.is_shown(name), f"the overlay has followed the change of {name}")
    with target.running.http() as client:
        try:
            client.load_model(name)
        except InferenceServerException as error:
            refusal = str(error.message())
            assert_sentence(refusal)
            return refusal
    return ""


broken_proto = st.sampled_from(PAIRS).flatmap(lambda pair: st.tuples(damaged(pair[0]), st.just(pair[1])))
broken_model = st.sampled_from(PAIRS).flatmap(lambda pair: st.tuples(st.just(pair[0]), damaged(pair[1])))


@bounded
@given(broken_proto | broken_model)
def test_damaged_files(target: Target, files: tuple[bytes, bytes]) -> None:
    name, folder = target.pool_model()
    write_files(folder, *files)
    load(target, name)
    target.assert_well()


@bounded
@given(
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(NUMBERS), max_size=16),
    st.lists(st.sampled_from(["1", "2", "3", "8", "0", "70000"]), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_any_layer_with_any_parameters(
    target: Target, kind: str, tokens: list[str], dims: list[str], inputs: int
) -> None:
    """Valid syntax, senseless meaning: what is refused, is refused by the translation, never by a crash behind it."""
    names = "x " * inputs
    line = f"{kind} n {inputs} 1 {names}y {' '.join(tokens)} "
    proto = f'"1 2 1 4206624770 ,"\n"x {" ".join(dims)} ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"{line},"\n'
    name, folder = target.pool_model()
    write_files(folder, proto.encode())
    load(target, name)
    target.assert_well()


@pytest.mark.parametrize(
    "line",
    [
        "Expand e 1 1 x y 4 2147483647 2147483647 2147483647 2147483647",
        "Tile t 1 1 x y 2147483647 2147483647 1 1",
        "Upsample u 1 1 x y 1 1e18 1e18 0",
        "Histogram h 1 1 x y 2147483647",
        "OneHot o 1 1 x y 0 2147483647 0 1",
        "Pad p 1 1 x y 2147483647 2147483647 2147483647 2147483647 0 0 0 0",
        "Pooling p 1 1 x y 1 1 1 1 1 0 0 -1 -1 -1 0 1 2147483647 2147483647",
        "Unsqueeze u 1 1 x y 60 " + "0 " * 60,
        "Reshape r 1 1 x y 0 4 4 2147483647 2147483647 1 1 0",
    ],
)
def test_sizes_beyond_all_bounds(target: Target, line: str) -> None:
    name, folder = target.pool_model()
    write_files(folder, RELU.replace(b"ReLU r 1 1 x y ", line.encode() + b" "))
    refusal = load(target, name)
    assert name in refusal
    assert "layer 0" in refusal
    target.assert_well()


@bounded
@given(
    st.lists(
        st.sampled_from(
            [
                *WORDS,
                'backend: "tnn"',
                "max_batch_size: 2147483647",
                "max_batch_size: -5",
                'input [{ name: "x" data_type: TYPE_FP32 dims: [ -9223372036854775808 ] }]',
                'input [{ name: "x" data_type: TYPE_STRING dims: [ 1, 1, 1 ] }]',
                'output [{ name: "y" label_filename: "../../../../etc/hostname" }]',
                'parameters [{ key: "engine" value: { string_value: "../../x.so" } }]',
                'parameters [{ key: "resize" value: { string_value: "1000000,1000000" } }]',
                'parameters [{ key: "x.scale" value: { string_value: "nan,inf" } }]',
                "version_policy { specific { versions: [ 9223372036854775807 ] } }",
                "instance_group [{ count: 0 kind: KIND_GPU }]",
                "a {" * 2000,
            ]
        ),
        max_size=4,
    )
)
def test_configurations(target: Target, parts: list[str]) -> None:
    name, folder = target.pool_model()
    write_files(folder, RELU, config="\n".join(parts).encode("utf-8", "replace"))
    load(target, name)
    target.assert_well()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "huge"])
@pytest.mark.parametrize("file", ["proto.tnnproto", "model.tnnmodel"])
def test_files_that_are_none(target: Target, kind: str, file: str) -> None:
    """A pipe would wait for ever, a device never ends."""
    name, folder = target.pool_model()
    write_files(folder, RELU)
    path: Path = folder / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        with path.open("wb") as sparse:
            sparse.truncate(1 << 40)
    try:
        assert load(target, name)
        target.assert_well()
    finally:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
