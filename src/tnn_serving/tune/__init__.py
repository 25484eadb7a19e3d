"""Finds the best settings for serving a model on this machine, by measurements on a real server.

In: a model, a goal and a time budget.  Out: :class:`Report`, and the lines for ``config.pbtxt``.  Each candidate is
loaded with exactly the configuration that would be written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tnn_serving.first_use import on_first_use

if TYPE_CHECKING:
    from tnn_serving.tune.goal import Goal
    from tnn_serving.tune.model_paths import ModelPaths
    from tnn_serving.tune.report import Report
    from tnn_serving.tune.trials import TrialLoad
    from tnn_serving.tune.tuning import tune
else:
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "tnn_serving.tune.goal": ("Goal",),
            "tnn_serving.tune.model_paths": ("ModelPaths",),
            "tnn_serving.tune.report": ("Report",),
            "tnn_serving.tune.trials": ("TrialLoad",),
            "tnn_serving.tune.tuning": ("tune",),
        },
    )

__all__ = ["Goal", "ModelPaths", "Report", "TrialLoad", "tune"]
