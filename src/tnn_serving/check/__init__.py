"""Everything that is wrong with a model repository, found before anything is served.

In: folders of a repository.  Out: findings as plain data.  Must not import ``triton`` or a client.
"""
