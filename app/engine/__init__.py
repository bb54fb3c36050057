"""Between HTTP and the model: plain Python that knows neither a web framework nor torch.

:mod:`~app.engine.supervisor` keeps a worker process alive and turns a request into an awaited
answer; :mod:`~app.engine.messages` is all that crosses the pipe to that process, through a
:mod:`~app.engine.channel` on either side. :mod:`~app.engine.batcher` decides who takes part in
the next step, and :mod:`~app.engine.knee` how many at most; both run in the worker.
:mod:`~app.engine.job` is a request that waits, :mod:`~app.engine.process` one worker's life.
"""
