"""Files of models, one package per format: syntax only, no meaning.

In: paths or bytes.  Out: what the files hold, and back.  Must not import an engine, ``translate`` or anything above.
"""
