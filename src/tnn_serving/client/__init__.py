"""Client of a running server: classification, face detection, request bodies.

In: pictures and the address of a server.  Out: labels, faces, JSON.  Built on tritonclient; must not import the serving
side of the package.
"""
