"""Inputs and outputs in system shared memory, registered with a server on this machine for as long as they are used."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from tritonclient.utils import shared_memory as shm

from tnn_serving.client.connection import Connection
from tnn_serving.client.load.message import Place, Places, Tensor, raw
from tnn_serving.client.load.schedule import clock
from tnn_serving.errors import RequestError, ServerError

RELEASE_S = 10.0
"""How long the server may take to be done with a region."""


class Regions:
    """One region with the inputs, which all connections read, and one a connection for its outputs.

    Args:
        connection: to the server that is to map them.
        sent: the inputs.
        outputs: an answer: outputs of fixed size get a place as large as in it; BYTES ones stay in the answers.
        slots: number of connections.
    """

    def __init__(
        self, connection: Connection, sent: Sequence[Tensor], outputs: Mapping[str, np.ndarray], slots: int
    ) -> None:
        self._stack = ExitStack()
        self._name = f"tnn-serving-bench-{os.getpid()}-{secrets.token_hex(4)}"
        sizes = {name: len(raw(array)) for name, array in outputs.items() if array.dtype.kind != "O" and array.size}
        self._outputs: list[dict[str, Place]] = []
        self._handles: list[Any] = []
        try:
            self._inputs = self._lay_out("inputs", {tensor.name: len(tensor.content) for tensor in sent})
            region = self._opened(connection, "inputs", self._inputs)
            for tensor in sent:
                content = np.frombuffer(tensor.content, np.uint8)
                shm.set_shared_memory_region(region, [content], self._inputs[tensor.name].offset_bytes)
            for slot in range(slots if sizes else 0):
                self._outputs.append(self._lay_out(f"outputs-{slot}", sizes))
                self._handles.append(self._opened(connection, f"outputs-{slot}", self._outputs[-1]))
        except BaseException:
            self.close()
            raise

    def _lay_out(self, label: str, sizes: Mapping[str, int]) -> dict[str, Place]:
        places = {}
        offset = 0
        for name, size in sizes.items():
            places[name] = Place(f"{self._name}-{label}", offset, size)
            offset += -(-size // 64) * 64  # the next cache line
        return places

    def _opened(self, connection: Connection, label: str, places: Mapping[str, Place]) -> Any:
        size = max(1, max((place.offset_bytes + place.size_bytes for place in places.values()), default=1))
        name = f"{self._name}-{label}"
        handle = shm.create_shared_memory_region(name, name, size, create_only=True)
        self._stack.callback(shm.destroy_shared_memory_region, handle)
        connection.register_shared_memory(name, f"/{name}", size)
        self._stack.callback(_unregister, connection, name)
        return handle

    def places(self, slot: int) -> Places:
        """Where the inputs and the outputs of a connection lie."""
        return Places(self._inputs, self._outputs[slot] if self._outputs else {})

    def output(self, slot: int, name: str) -> memoryview:
        """A copy of the bytes of a connection's output."""
        place = self._outputs[slot][name]
        found = shm.get_contents_as_numpy(self._handles[slot], np.uint8, [place.size_bytes], place.offset_bytes)
        return memoryview(found.tobytes())

    def close(self) -> None:
        """Unregisters and removes all of them."""
        self._stack.close()


def _unregister(connection: Connection, name: str) -> None:
    """Takes a region back, as soon as the server no longer uses it for a request that it has answered already."""
    deadline = clock() + RELEASE_S
    while True:
        try:
            connection.unregister_shared_memory(name)
            return
        except ServerError:
            return  # the server is gone, and with it the registration
        except RequestError:
            if clock() > deadline:
                raise
            time.sleep(0.02)
