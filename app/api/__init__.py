"""HTTP, and nothing else: requests in, answers and problems out. It never imports torch.

The way of ``POST /variations`` through this folder::

    access       gives the request its id; in the end counts and logs it
    admission    refuses what can be refused unread; bounds body, time and company
    routes       the handlers, over the wire models of ``schemas``
    resolving    the form becomes parameters, every default filled in
    uploads      the uploaded bytes become an RGB array
    (engine)     the array becomes variations of it, unless its caller leaves (``disconnect``)
    answers      the variations become JSON; ``pictures`` writes the files in it
    problems     whatever went wrong becomes application/problem+json

``application`` puts it together, ``service`` is what handlers share, ``server`` runs it.
"""
