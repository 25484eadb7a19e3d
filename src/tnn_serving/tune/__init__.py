"""Finds the settings with which a model is served best on this machine, by measuring them on a real server.

In: a model, a goal and a time budget.  Out: :class:`Report`, and the lines for ``config.pbtxt``.  Every candidate is
loaded with the very configuration that would be written.
"""

from __future__ import annotations

from tnn_serving.tune.goal import Goal
from tnn_serving.tune.place import Place
from tnn_serving.tune.report import Report
from tnn_serving.tune.run import tune
from tnn_serving.tune.trials import Load

__all__ = ["Goal", "Load", "Place", "Report", "tune"]
