"""Counts the lines of locald that this very Python process reaches, and tells the collector when it ends.

Goes into the guest's site-packages, beside the product, with the collector's socket. A .pth file imports it before
anything else runs, so also where the environment is empty, in `-P -m`, and as root of a user namespace that sees of the
host only what a Python needs, and cannot write there: connecting to a socket is no writing. What a signal ends tells
nothing, but the collector knows that it began.
"""

import atexit
import os
import socket
from typing import NoReturn

import coverage

HERE = os.path.dirname(os.path.abspath(__file__))
# The way for every Python on the host, also of a copy of the installation, and the one for where only that is seen.
PLACES = ("/var/lib/locald-coverage/told", os.path.join(HERE, "locald_kit_told"))
PACKAGE = os.path.join(HERE, "locald")
LIMIT_S = 30.0


def tell(message: bytes) -> None:
    """Send one message: the collector takes all of a connection for one."""
    with socket.socket(socket.AF_UNIX) as connection:
        # A collector that does not listen is not to be mistaken for code that nobody reached: the error is shown.
        connection.settimeout(LIMIT_S)
        connection.connect(next(filter(os.path.exists, PLACES), PLACES[0]))
        connection.sendall(message)


def begin() -> None:
    """Count from here to the end of the process, whichever of its two ways it takes."""
    measured = coverage.Coverage(data_file=None, config_file=False, branch=True, include=[f"{PACKAGE}/*"])
    # Not every Python of the product gets as far as a line of it.
    measured.set_option("run:disable_warnings", ["no-data-collected"])
    leave = os._exit

    def finish() -> None:
        measured.stop()
        tell(measured.get_data().dumps())

    def leave_told(status: int) -> NoReturn:
        try:
            finish()
        finally:
            leave(status)

    tell(b"")
    atexit.register(finish)
    os._exit = leave_told
    measured.start()


begin()
