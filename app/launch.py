"""Processes of this package, started alike from a checkout, a wheel and any working folder."""

import os
import sys
from pathlib import Path

import app

# Ctrl-C, SIGTERM and SIGHUP are for the service, which finishes what it has accepted. The package
# is imported from where it is, and nothing from that folder or from the working folder. On Linux
# the kernel ends the process with its parent; elsewhere its pipe does, once it reads that.
_BOOT = """
import ctypes, importlib, os, signal, sys
root, parent, module, *arguments = sys.argv[1:]
ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
for number in ending:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(0)
sys.path.insert(0, root)
import app
del sys.path[0]
importlib.import_module(module).main(*arguments)
"""


def command(module: str, *arguments: str) -> list[str]:
    """The command that calls ``main(*arguments)`` of this module in a process of its own.

    Its parent must be this process, and on Linux it ends with the thread that starts it.
    """
    root = str(Path(app.__file__).parents[1])
    return [sys.executable, "-P", "-c", _BOOT, root, str(os.getpid()), module, *arguments]


def working_folder() -> Path:
    """The present one, or the root if that has been removed: nothing would start in it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")
