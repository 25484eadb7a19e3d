"""Looking into a network without serving it: its layers, two runs of it side by side, the time of each layer.

In: a network or a loaded model.  Out: plain data, of which tables and JSON are two views.  Must not import ``serving``.
"""
