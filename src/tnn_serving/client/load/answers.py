"""Verification of answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tnn_serving.client.load.message import raw
from tnn_serving.deviation import deviation

ANSWER_TOLERANCE = 1e-3
"""Largest difference that counts as equal, as a share of the output's largest value: rounding depends on the batch
size."""

ReadShared = Callable[[int, str], memoryview]
"""Reads an output in shared memory: called with the connection's number and the output's name."""


def _nothing_shared(slot: int, name: str) -> memoryview:
    raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Expected:
    """The outputs that every answer must have, in the order of the request.

    Attributes:
        outputs: arrays by name.
        shared: names of the outputs in shared memory.
        read_shared: reads one of these.
    """

    outputs: Mapping[str, np.ndarray]
    shared: Collection[str] = ()
    read_shared: ReadShared = _nothing_shared

    def check_http(self, slot: int, body: memoryview) -> str | None:
        """The error in the body of an HTTP answer, if any. Its tensors are concatenated at the end of the body."""
        inline = {name: raw(array) for name, array in self.outputs.items() if name not in self.shared}
        at = len(body) - sum(map(len, inline.values()))
        if at < 0:
            return f"answer is too short: {len(body)} bytes"
        found = {}
        for name, content in inline.items():
            found[name] = body[at : at + len(content)]
            at += len(content)
        return self._compared(slot, found)

    def check_grpc(self, slot: int, body: memoryview) -> str | None:
        """The error in a serialised ``ModelInferResponse``, if any."""
        from tritonclient.grpc import service_pb2

        response = service_pb2.ModelInferResponse.FromString(bytes(body))
        names = [item.name for item in response.outputs]
        contents = [memoryview(content) for content in response.raw_output_contents]
        if len(names) != len(contents):  # outputs in shared memory have empty entries
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
    return deviation(found, expected).relative <= ANSWER_TOLERANCE
