"""Whether an answer is the expected one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tnn_serving.client.load.message import raw
from tnn_serving.deviation import deviation

TOLERANCE = 1e-3
"""Largest difference, as a share of the output's largest value, that counts as equal: inferences of another batch size
round otherwise."""

Shared = Callable[[int, str], memoryview]
"""The bytes of an output of a connection that lies in shared memory."""


def _nothing_shared(slot: int, name: str) -> memoryview:
    raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Expected:
    """The outputs that every answer must have, in the order in which requests ask for them.

    Attributes:
        outputs: arrays by name.
        shared: names of those that are not in the answer but in shared memory.
        read_shared: gives the bytes of one of these.
    """

    outputs: Mapping[str, np.ndarray]
    shared: Collection[str] = ()
    read_shared: Shared = _nothing_shared

    def of_http(self, slot: int, body: memoryview) -> str | None:
        """What is wrong with the body of an HTTP answer, whose tensors stand one after the other at its end."""
        inline = {name: raw(array) for name, array in self.outputs.items() if name not in self.shared}
        at = len(body) - sum(map(len, inline.values()))
        if at < 0:
            return f"answer is too short: {len(body)} bytes"
        found = {}
        for name, content in inline.items():
            found[name] = body[at : at + len(content)]
            at += len(content)
        return self._compared(slot, found)

    def of_grpc(self, slot: int, body: memoryview) -> str | None:
        """What is wrong with a serialised ``ModelInferResponse``."""
        from tritonclient.grpc import service_pb2

        response = service_pb2.ModelInferResponse.FromString(bytes(body))
        names = [item.name for item in response.outputs]
        contents = [memoryview(content) for content in response.raw_output_contents]
        if len(names) != len(contents):  # an output in shared memory has an empty entry
            return f"answer has {len(contents)} tensors for {len(names)} outputs"
        return self._compared(slot, dict(zip(names, contents, strict=True)))

    def _compared(self, slot: int, inline: Mapping[str, memoryview]) -> str | None:
        for name, expected in self.outputs.items():
            content = self.read_shared(slot, name) if name in self.shared else inline.get(name)
            if content is None:
                return f"answer has no output `{name}`"
            if bytes(content) != raw(expected) and not _close(content, expected):
                return f"output `{name}` differs from the first answer"
        return None


def _close(content: memoryview, expected: np.ndarray) -> bool:
    if expected.dtype.kind != "f" or len(content) != expected.nbytes:
        return False
    found = np.frombuffer(content, expected.dtype).reshape(expected.shape)
    return deviation(found, expected).relative <= TOLERANCE
