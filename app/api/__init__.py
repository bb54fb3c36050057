"""HTTP, and nothing else: requests in, answers and problems out. It never imports torch.

The way of ``POST /variations`` through this folder::

    access       gives the request its id; in the end counts and logs it
    admission    refuses what can be refused unread: a bad ``keys``, no place in ``slots``, too many
                 bytes; bounds the body and the time it may take
    routes       the handlers, over the wire models of ``schemas``
    resolving    the form becomes parameters, every default filled in
    fingerprints tells requests that are alike, should one of them end workers
    uploads      the uploaded bytes become an RGB array; ``containers`` cuts the first picture out
    (engine)     the array becomes variations of it, unless its caller leaves (``disconnect``)
    answers      the variations become JSON; ``pictures`` writes the files in it
    problems     whatever went wrong becomes application/problem+json

``application`` puts it together, ``service`` is what handlers share, ``server`` runs it.
"""
