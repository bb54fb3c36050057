"""Between HTTP and the model: plain Python that knows neither a web framework nor torch.

In the API process:

* :mod:`~app.engine.supervisor` keeps a worker alive and turns a request into an awaited answer; a
  :mod:`~app.engine.process` is one worker's life, a :mod:`~app.engine.job` a request that waits.
* :mod:`~app.engine.backlog` mirrors the worker's line: which job is due, which was running when it
  died, and by :mod:`~app.engine.forecast`, over learned :mod:`~app.engine.costs`, when each ends.
* :mod:`~app.engine.watchdog` says when silence has lasted too long, :mod:`~app.engine.quarantine`
  what is refused because its like ended workers.

Between the processes: :mod:`~app.engine.messages` is all that crosses the pipe, through a
:mod:`~app.engine.channel` on either side.

In the worker: :mod:`~app.engine.batcher` decides who takes part in the next step (and runs in the
forecast too); :mod:`~app.engine.knee` finds at start how many rows pay, and
:mod:`~app.engine.ceiling` lowers that where memory runs out.
"""
