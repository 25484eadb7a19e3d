"""Processes that work on strangers' files with limits: time, memory, and no more rights than the work needs.

In: the name of a task, its arguments, limits.  Out: what the task returns, or a sentence that says what ended it.
Knows nothing of models; must not import anything of the package but ``errors``.
"""
