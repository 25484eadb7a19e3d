"""Inputs and outputs in system shared memory, registered with a server on this machine while they are in use."""

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
from tnn_serving.client.load.message import RegionSlice, RegionSlices, RequestInput, raw
from tnn_serving.client.load.schedule import clock
from tnn_serving.errors import RequestError, ServerError

RELEASE_S = 10.0
"""How long the server may take to release a region."""


class Regions:
    """Regions of shared memory: one with the inputs for all connections, and one per connection for its outputs.

    Args:
        connection: to the server that maps them.
        sent: the inputs.
        outputs: of an answer; outputs of fixed size go to shared memory, BYTES outputs stay in the answers.
        slots: number of connections.
    """

    def __init__(
        self, connection: Connection, sent: Sequence[RequestInput], outputs: Mapping[str, np.ndarray], slots: int
    ) -> None:
        self._stack = ExitStack()
        self._name = f"tnn-serving-bench-{os.getpid()}-{secrets.token_hex(4)}"
        sizes = {name: len(raw(array)) for name, array in outputs.items() if array.dtype.kind != "O" and array.size}
        self._outputs: list[dict[str, RegionSlice]] = []
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

    def _lay_out(self, label: str, sizes: Mapping[str, int]) -> dict[str, RegionSlice]:
        slices = {}
        offset = 0
        for name, size in sizes.items():
            slices[name] = RegionSlice(f"{self._name}-{label}", offset, size)
            offset += -(-size // 64) * 64  # starts a new cache line
        return slices

    def _opened(self, connection: Connection, label: str, slices: Mapping[str, RegionSlice]) -> Any:
        size = max(1, max((part.offset_bytes + part.size_bytes for part in slices.values()), default=1))
        name = f"{self._name}-{label}"
        handle = shm.create_shared_memory_region(name, name, size, create_only=True)
        self._stack.callback(shm.destroy_shared_memory_region, handle)
        connection.register_shared_memory(name, f"/{name}", size)
        self._stack.callback(_unregister, connection, name)
        return handle

    def slices(self, slot: int) -> RegionSlices:
        """The inputs and outputs of a connection."""
        return RegionSlices(self._inputs, self._outputs[slot] if self._outputs else {})

    def output(self, slot: int, name: str) -> memoryview:
        """A copy of an output of a connection."""
        part = self._outputs[slot][name]
        found = shm.get_contents_as_numpy(self._handles[slot], np.uint8, [part.size_bytes], part.offset_bytes)
        return memoryview(found.tobytes())

    def close(self) -> None:
        """Unregisters and removes all regions."""
        self._stack.close()


def _unregister(connection: Connection, name: str) -> None:
    """Unregisters a region, which the server may still use for a short time after an answer."""
    deadline = clock() + RELEASE_S
    while True:
        try:
            connection.unregister_shared_memory(name)
            return
        except ServerError:
            return  # the server has stopped
        except RequestError:
            if clock() > deadline:
                raise
            time.sleep(0.02)
