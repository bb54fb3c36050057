"""``python -m app.worker FD``: serve over the inherited socket ``FD`` until it ends."""

import signal
import sys
from multiprocessing.connection import Connection

from app.worker.startup import serve


def main() -> None:
    """Serve, ignoring the signals that end the API process.

    Ctrl-C and SIGTERM reach the whole group; accepted work is finished first all the same. The API
    process starts this one with both blocked; once ignored, they can be unblocked.
    """
    ending = {signal.SIGINT, signal.SIGTERM}
    for number in ending:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
