"""HTTP, and nothing else: requests in, answers and problems out. It never imports torch.

The way of ``POST /variations`` through this folder::

    access       gives the request its id; in the end counts and logs it
    admission    refuses unread: no good key (``keys``), not ready or draining, not a form, too many
                 bytes, a deadline that is none, no place (``slots``); bounds the body and its time
    routes       the handlers, over the wire models of ``schemas``
    disconnect   from here on a caller that leaves cancels everything
    resolving    the form becomes parameters, every default filled in
    fingerprints tells requests that are alike, should one of them end workers
    (engine)     foresees the end, which may be too late; then takes the request in line, and calls
                 back, when there is room for pixels, for
    uploads      the uploaded bytes become an RGB array; ``containers`` cuts the first picture out
    answers      the variations become JSON; ``pictures`` writes the files in it
    problems     whatever went wrong becomes application/problem+json

``application`` puts it together, ``service`` is what handlers share, ``server`` runs it.
"""
