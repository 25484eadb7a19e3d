"""What an operator writes about a model: Triton's configuration, the settings in it, and the plan of cores.

In: ``config.pbtxt`` as Triton passes it.  Out: typed records.  Must not import ``prepare`` or anything above.
"""
