"""Soak test: a long mixed load on a temporary server, with a verdict on memory growth.

In: a repository, or none for a small generated one; a duration or a number of requests.  Out: :class:`Soak`.  Imports
the client and the supervised server; only the command line imports it.
"""

from __future__ import annotations

from tnn_serving.soak.growth import Growth, Verdict
from tnn_serving.soak.run import Soak, soak

__all__ = ["Growth", "Soak", "Verdict", "soak"]
