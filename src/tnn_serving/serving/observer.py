"""Who wants to know what a Servable does: nobody, or whatever the server publishes its metrics with."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Told of events of one model version, from any thread. Times are in seconds, wall clock."""

    def engine(self, name: str, precision: str, int8: str) -> None:
        """The network runs on engine ``name``: once after loading."""

    def compiled(self, seconds: float) -> None:
        """A compilation of the network is done."""

    def batch(self, rows: int) -> None:
        """An inference of so many rows begins."""

    def decoded(self, seconds: float) -> None:
        """A picture has been decoded."""

    def shape_cache(self, hits: int, misses: int, size: int) -> None:
        """So many hits and misses since the last call; so many compilations are kept now."""

    def memory(self, nbytes: int) -> None:
        """The model takes so much memory now."""


class Silent:
    """An observer that takes no notice."""

    def engine(self, name: str, precision: str, int8: str) -> None:
        pass

    def compiled(self, seconds: float) -> None:
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
