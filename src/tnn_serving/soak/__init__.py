"""A long mixed load on a server of its own, and whether its memory grows.

In: a repository, or none for a small made set; a time or a number of requests.  Out: :class:`Soak`.  Imports clients
and the supervised server; is imported by the command line only.
"""

from __future__ import annotations

from tnn_serving.soak.growth import Growth, Verdict
from tnn_serving.soak.run import Soak, soak

__all__ = ["Growth", "Soak", "Verdict", "soak"]
