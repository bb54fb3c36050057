"""The process that owns the device: ``python -m app.worker FD``, started by the supervisor.

:mod:`~app.worker.serving` gets it ready; :mod:`~app.worker.loop` is what it does from then on.
"""
