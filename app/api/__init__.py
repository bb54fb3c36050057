"""HTTP, and nothing else: requests in, answers and problems out. It never imports torch.

The way of ``POST /variations`` through this folder::

    middleware.access      gives the request its id; in the end counts and logs it
    middleware.admission   refuses unread: no good key (``keys``), not ready or draining, not a
                           form, too many bytes, a wrong deadline, a full queue (``limiter``);
                           bounds the body and the time of the request
    routes.variations      the form (``schemas``) becomes wishes, and these become parameters
    middleware.disconnect  from here on, a caller that goes away cancels everything
    (pictures)             a decoder process turns the upload into the encoder's input
    (engine)               predicts the end, which may be too late; then accepts the request
    renderers              the result becomes JSON with the pictures' files in it
    problems               any error becomes application/problem+json

``application`` puts it together, ``state`` is what the handlers share, ``timeline`` measures a
request's stages, ``server`` runs the application and ends connections that only wait
(``middleware.connections``).
"""
