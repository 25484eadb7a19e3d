"""Infer requests: one inference at a time each, on memory that they may lend to callers.

Who has a request, and when it is idle again:

- :meth:`InferRequest.infer` runs it. Outputs are copied out of its memory, or computed into the caller's; then it goes
  back to the idle ones at once.
- Large outputs are not copied: the arrays show the request's own memory. They hold a :class:`_Lease` among them, which
  puts the request back when the last of them is gone. Python's count of references says when: an array of a caller's
  can end in any thread, at any time, without a call of its own.
- A request does not know where the idle ones are kept. That would be a cycle of references, and a compiled network that
  is replaced would stay until Python's collector looks for cycles.
"""

from __future__ import annotations

import queue
from collections.abc import Sequence

import numpy as np
import openvino as ov

from tnn_serving.engines.base import Arrays, TensorSpec

COPY_UP_TO_BYTES = 16 * 1024
"""Inputs up to this size are copied into the request's own memory, which costs less than giving it theirs."""

VIEW_FROM_BYTES = 16 * 1024
"""Outputs from this size on show the request's memory; smaller ones are copied, which costs less than a lease."""


class InferRequest:
    """An infer request of a network with free shapes."""

    def __init__(self, compiled: ov.CompiledModel, outputs: Sequence[TensorSpec]) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = outputs

    def feed(self, index: int, array: np.ndarray) -> None:
        """Sets an input to the array's own memory."""
        self._request.set_input_tensor(index, tensor(array))

    def infer(self, into: Arrays, idle: queue.SimpleQueue[InferRequest]) -> dict[str, np.ndarray]:
        """Runs, gives the outputs, and goes to the idle ones when nothing refers to its memory any more."""
        self._lend(into)
        self._request.infer(share_outputs=True)
        lease: _Lease | None = None
        answer = {}
        for k, spec in enumerate(self._outputs):
            data = self._view(k)
            target = into.get(spec.name)
            if target is not None:
                if data is not target:
                    target[...] = data
                answer[spec.name] = target
            elif data.nbytes < VIEW_FROM_BYTES or data.dtype != spec.dtype:
                answer[spec.name] = np.array(data, dtype=spec.dtype)
            else:
                lease = lease or _Lease(self, idle)
                answer[spec.name] = np.asarray(_Leased(data, lease))
        self._take_back()
        if lease is None:
            idle.put(self)
        return answer

    def _lend(self, into: Arrays) -> None:
        """Lets the engine compute outputs straight into the caller's memory, where it can."""

    def _take_back(self) -> None:
        """Undoes :meth:`_lend`: the caller's memory may be gone at the next inference."""

    def _view(self, index: int) -> np.ndarray:
        data: np.ndarray = self._request.get_output_tensor(index).data
        return data


class FixedInferRequest(InferRequest):
    """An infer request of a network with fixed shapes: its own tensors never move, so they are looked up once, and
    outputs can be computed straight into memory of the caller."""

    def __init__(self, compiled: ov.CompiledModel, outputs: Sequence[TensorSpec]) -> None:
        super().__init__(compiled, outputs)
        self._own_inputs = [_written(tensor) for tensor in self._request.input_tensors]
        self._own_outputs = list(self._request.output_tensors)
        self._views: list[np.ndarray] = [tensor.data for tensor in self._own_outputs]
        self._lent: dict[int, np.ndarray] = {}

    def feed(self, index: int, array: np.ndarray) -> None:
        """Copies a small array into the request's memory; of a larger one, sets the input to its own memory."""
        own = self._own_inputs[index]
        if own is None:
            super().feed(index, array)
        elif own.shape == array.shape:
            own[...] = array
        else:
            raise RuntimeError(f"input {index} has shape {list(array.shape)}, not {list(own.shape)}")

    def _lend(self, into: Arrays) -> None:
        for k, spec in enumerate(self._outputs):
            target = into.get(spec.name)
            if target is not None and self._may_lend(k, target):
                self._request.set_output_tensor(k, ov.Tensor(target, shared_memory=True))
                self._lent[k] = target

    def _take_back(self) -> None:
        for k in self._lent:
            self._request.set_output_tensor(k, self._own_outputs[k])
        self._lent.clear()

    def _may_lend(self, index: int, target: np.ndarray) -> bool:
        own = self._views[index]
        return target.nbytes >= VIEW_FROM_BYTES and target.dtype == own.dtype and target.shape == own.shape

    def _view(self, index: int) -> np.ndarray:
        return self._lent.get(index, self._views[index])


class _Lease:
    """Keeps an infer request from its next use for as long as it is referred to."""

    def __init__(self, request: InferRequest, idle: queue.SimpleQueue[InferRequest]) -> None:
        self._request = request
        self._idle = idle

    def __del__(self) -> None:
        self._idle.put(self._request)


class _Leased:
    """Memory of an infer request for numpy, whose array then holds the lease."""

    def __init__(self, array: np.ndarray, lease: _Lease) -> None:
        self.__array_interface__ = array.__array_interface__
        self._lease = lease


class _Writeable:
    """The same memory without numpy's read-only mark, which OpenVINO refuses although it only reads inputs."""

    def __init__(self, array: np.ndarray) -> None:
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._keeps_alive = array


def tensor(array: np.ndarray) -> ov.Tensor:
    """A tensor over the array's own memory; an empty or rank-0 array has none that could be shared."""
    if not array.ndim or not array.size:
        return ov.Tensor(array)
    return ov.Tensor(array if array.flags.writeable else np.asarray(_Writeable(array)), shared_memory=True)


def _written(tensor: ov.Tensor) -> np.ndarray | None:
    """The tensor's memory if inputs are to be copied there: small ones, for which that is the cheapest way."""
    data: np.ndarray = tensor.data
    return data if data.ndim and data.size and data.nbytes <= COPY_UP_TO_BYTES else None
