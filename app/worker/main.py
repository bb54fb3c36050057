"""The worker's process, which :mod:`app.launch` starts."""

from multiprocessing.connection import Connection

from app.worker.startup import serve


def main(descriptor: str) -> None:
    """Serve over the inherited socket of this number until it ends."""
    serve(Connection(int(descriptor)))
