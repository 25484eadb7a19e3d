"""What an operator says of a model: Triton's configuration, our parameters in it, and the plan of cores that follows.

In: ``config.pbtxt`` as Triton hands it over.  Out: typed records.  Must not import ``prepare`` or
anything above.
"""
