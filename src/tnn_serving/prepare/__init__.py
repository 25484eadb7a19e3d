"""From a model folder to a network that is configured, compiled, measured and verified.

In: a version folder and its configuration.  Out: what ``serving`` opens.  Must not import ``serving`` or ``triton``.
"""
