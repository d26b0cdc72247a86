# ruff: noqa: T201 -- a program of its own, alone in the guest
"""Takes what every Python of the product tells of itself, as root in the guest.

    collector.py serve DIRECTORY SOCKET    returns once it listens on SOCKET, and goes on in the background
    collector.py end DIRECTORY             ends it, and prints both counts as JSON

DIRECTORY/told leads to SOCKET. An empty message is a process that began, any other one what it reached, kept as
DIRECTORY/data/N.
"""

import json
import os
import socket
import sys
from pathlib import Path

BACKLOG = 128
LIMIT_S = 30.0
END = b"end"


def serve(directory: Path, name: Path) -> None:
    """Listen, go into the background, and take messages until told to end."""
    (directory / "data").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(name))
        # Whoever calls locald tells: users, and root of a user namespace.
        name.chmod(0o666)
        (directory / "told").symlink_to(name)
        listening.listen(BACKLOG)
        if os.fork():
            os._exit(0)
        os.setsid()
        began = told = 0
        while True:
            connection, _ = listening.accept()
            with connection:
                # One that was killed half-way is told apart by the sum of its bytes, when it is read.
                connection.settimeout(LIMIT_S)
                message = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # noqa: B023  # ends in this turn
                if message == END:
                    (directory / "counts").write_text(json.dumps({"began": began, "told": told}))
                    return
                began += not message
                if message:
                    told += 1
                    (directory / "data" / str(told)).write_bytes(message)


def end(directory: Path) -> None:
    """Stop it, after all that was told before."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT_S)
        connection.connect(str(directory / "told"))
        connection.sendall(END)
        connection.shutdown(socket.SHUT_WR)
        # It closes the connection when the counts are written.
        connection.recv(1)
    print((directory / "counts").read_text())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", place, name]:
            serve(Path(place), Path(name))
        case ["end", place]:
            end(Path(place))
        case _:
            sys.exit(2)
