"""This service beside what a user would pick instead: ``python -m benchmarks.peers``.

Every peer is one file here that serves diffusers' own pipeline on the same checkpoint, behind
``POST`` with the same fields as JSON and the same PNG in base64 in the answer. :mod:`~.systems`
starts one, :mod:`~.load` posts to it from a process of its own, :mod:`~.campaign` runs them all in
turn and keeps what they did, :mod:`~.figures` makes the figures of it.

The peers have an environment of their own (``make benchmark-peers`` makes ``.peers``), and their
settings in theirs: ``PEER_MODEL``, the folder of the checkpoint, ``PEER_PORT``, and ``PEER_BATCH``,
the largest batch, where another than the file's own is to be tried.
"""
