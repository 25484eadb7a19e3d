"""A model that is ready to serve, whether this process has prepared it or a worker."""

from __future__ import annotations

from dataclasses import dataclass

from tnn_serving.prepare.configuring import Configured
from tnn_serving.session import Session


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to serve.

    Attributes:
        model: compiled.
        configured: the configuration that it is served with.
        joined_rows: how many rows of several requests run as one inference; 1 for none.
        seconds: of one inference of one row.
    """

    model: Session
    configured: Configured
    joined_rows: int
    seconds: float
