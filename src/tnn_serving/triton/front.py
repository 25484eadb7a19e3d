"""What a supervisor asks of a program in front of its server, through which all callers come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from tnn_serving.triton.launch import Launch

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class Front(Protocol):
    """A program in front of the server. It runs as long as the supervisor, over all restarts of the server."""

    @property
    def public(self) -> Launch:
        """The launch with the addresses that callers use."""

    def start(self, on_line: Callable[[str], None], on_warning: Callable[[str], None]) -> None:
        """Starts it and waits until it answers; from then on it keeps itself running.

        Args:
            on_line: called with each line of its log, in another thread.
            on_warning: called when it is restarted, in another thread.

        Raises:
            ServerError: it does not start.
        """

    def problem(self) -> str:
        """Why callers are not served; empty if they are."""

    def metrics(self) -> Iterable[Metric]:
        """Its metrics."""

    def leave(self) -> None:
        """Asks callers with each answer to connect again, elsewhere if they can. Everything is still answered."""

    def drain(self, timeout_s: float, stop_now: Callable[[], bool]) -> None:
        """Accepts no more connections, and waits until all requests are answered, the time is over, or ``stop_now()``
        is true."""

    def close(self) -> None:
        """Ends it. Can be called before :meth:`start`."""
