"""Finds the best settings for serving a model on this machine, by measurements on a real server.

In: a model, a goal and a time budget.  Out: :class:`Report`, and the lines for ``config.pbtxt``.  Each candidate is
loaded with exactly the configuration that would be written.
"""

from __future__ import annotations

from tnn_serving.tune.goal import Goal
from tnn_serving.tune.model_paths import ModelPaths
from tnn_serving.tune.report import Report
from tnn_serving.tune.trials import TrialLoad
from tnn_serving.tune.tuning import tune

__all__ = ["Goal", "ModelPaths", "Report", "TrialLoad", "tune"]
