"""How much memory and time a network may ask for: known before anything of that size is allocated."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tnn_serving.errors import LimitError

if TYPE_CHECKING:
    import numpy as np

MAX_RANK = 16
"""More dims than any TNN tensor has: a longer list is garbage."""

MAX_ELEMENTS = 2**31 - 1
"""Elements of one tensor, whatever the memory: engines count them in 32 bits in places."""

SAMPLE_LIMIT = 4096
"""Largest tensor, in elements, whose value is followed through shape arithmetic."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""The file of a container's limit, in version 2 and 1 of control groups; "max" or a huge number for none."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a network may ask for.

    Attributes:
        memory_bytes: weights and activations together, as :meth:`Builder.memory` estimates them.
        deadline_s: time of :func:`time.monotonic` at which loading gives up.
    """

    memory_bytes: float = math.inf
    deadline_s: float = math.inf

    def check_time(self) -> None:
        """Raises LimitError when the time is over."""
        if time.monotonic() > self.deadline_s:
            raise LimitError("loading takes too long", hint="the parameter `load_timeout_s` allows more")

    def check_tensor(self, dims: Sequence[int | None], dtype: np.dtype) -> int:
        """The bytes of a tensor; 0 where its dims are not known. Raises LimitError if it is larger than allowed."""
        if len(dims) > MAX_RANK:
            raise LimitError("a tensor has too many dims", expected=f"at most {MAX_RANK}", found=len(dims))
        if None in dims:
            return 0
        known = [int(dim) for dim in dims if dim is not None]
        count = math.prod(known)
        if count > MAX_ELEMENTS or min(known, default=0) < 0:
            raise LimitError("a tensor is too large", expected=f"at most {MAX_ELEMENTS} elements", found=known)
        size = count * dtype.itemsize
        if size > self.memory_bytes:
            raise LimitError(
                "a tensor is too large",
                expected=f"at most {bytes_text(self.memory_bytes)} in all",
                found=f"{known} of {dtype}, {bytes_text(size)}",
                hint="the parameter `memory_limit_bytes` allows more",
            )
        return size

    def check_memory(self, weights_bytes: int, activations_bytes: int) -> None:
        """Raises LimitError if both together are more than allowed."""
        if weights_bytes + activations_bytes > self.memory_bytes:
            raise LimitError(
                "the network needs too much memory",
                expected=f"at most {bytes_text(self.memory_bytes)}",
                found=f"about {bytes_text(weights_bytes)} of weights and {bytes_text(activations_bytes)} of "
                "activations",
                hint="the parameter `memory_limit_bytes` allows more",
            )


UNLIMITED = Limits()

COPIES = 4
"""How many times a process that loads a model may take the memory that the model may need: as read, as translated, as
compiled for any shape and for single ones."""

ENGINES_OWN_BYTES = 1 << 30
"""What an engine takes besides, whatever the model: stacks of its threads and pools, by address space."""


def process_bytes(memory_bytes: int) -> int:
    """The memory that a process may take to load a model which may need ``memory_bytes``."""
    return COPIES * memory_bytes + ENGINES_OWN_BYTES


def memory_of_machine_bytes(cgroup: Sequence[Path] = CGROUP_LIMITS) -> int:
    """The memory that this process may use: the machine's, or less where a container has a limit."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in cgroup:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found = min(found, int(text))
    return found


def bytes_text(count: float) -> str:
    """A number of bytes for people: 1.5 GB, 20 kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
