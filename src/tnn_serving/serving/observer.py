"""The events of a Servable, and who receives them; the server publishes its metrics from them."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Receives the events of one model version, from any thread. Times are in seconds, wall clock."""

    def engine(self, name: str, precision: str, int8: str) -> None:
        """The network runs on engine ``name``: once, after loading."""

    def loaded(self, seconds: float) -> None:
        """The model has been loaded, in this time."""

    def batch(self, rows: int) -> None:
        """An inference of so many rows begins."""

    def decoded(self, seconds: float) -> None:
        """The pictures of a request have been decoded."""

    def shape_cache(self, hits: int, misses: int, size: int) -> None:
        """Hits and misses since the last call, and executables of single shapes that exist now."""

    def memory(self, nbytes: int) -> None:
        """The model takes so much memory now."""


class Silent:
    """An observer that ignores everything."""

    def engine(self, name: str, precision: str, int8: str) -> None:
        pass

    def loaded(self, seconds: float) -> None:
        pass

    def batch(self, rows: int) -> None:
        pass

    def decoded(self, seconds: float) -> None:
        pass

    def shape_cache(self, hits: int, misses: int, size: int) -> None:
        pass

    def memory(self, nbytes: int) -> None:
        pass


SILENT: Observer = Silent()
