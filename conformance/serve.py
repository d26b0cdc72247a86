"""The kit's process in the guest: answer each line of requests with a line, from a process that is forked for it.

Runs in the guest as root, with the standard library of Python 3.9, and with `agent`, `guard`, `look` and `looks`, which
are pushed there with it. It lives as long as its worker: in an emulated guest a process costs 20 to 35 times the
host's, and an interpreter seconds. So a test sends all its jobs in one request, too.
"""

# Python 3.9 would evaluate the annotations.
from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import time
import traceback
from typing import Any

from conformance.agent import WORK, Job, Run
from conformance.guard import Guard
from conformance.looks import find_processes


def carry_out(request: dict[str, Any]) -> dict[str, Any]:
    """Carry one request out, in the process that is its own."""
    if os.getsid(0) != os.getpid():
        # A session without a terminal, whatever the way in here was.
        os.setsid()
    os.makedirs(WORK, mode=0o755, exist_ok=True)
    tokens = [job["token"] for job in request["jobs"]]
    guard = Guard(tokens) if request.get("guard") else None
    results = [Run(Job(**job), request["factor"]).carry_out() for job in request["jobs"]]
    return {"results": results, "guard": guard.end() if guard else None}


def answer(request: dict[str, Any]) -> bytes:
    """Return the answer to one request, in JSON, from a process that was forked for it and is gone by then.

    So no request sees what another one did to its process, and orphans are told from the next one's.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            # The pipe that requests come through is nobody else's.
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.close(null)
            write_all(writer, json.dumps(carry_out(request)).encode())
        except BaseException as error:  # noqa: BLE001  # it must not return into the parent's code
            message = str(error) if isinstance(error, SystemExit) else traceback.format_exc()
            write_all(writer, json.dumps({"error": message}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    content, end = bytearray(), time.monotonic() + request["limit_s"]
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while selector.select(max(0.0, end - time.monotonic())):
            piece = os.read(reader, 1 << 20)
            if not piece:
                break
            content += piece
        else:
            content = bytearray(json.dumps({"error": f"not done after {request['limit_s']:.0f} s"}).encode())
            kill_request(pid, request)
    os.close(reader)
    os.waitpid(pid, 0)
    return bytes(content) or b'{"error": "it died without a word"}'


def write_all(number: int, content: bytes) -> None:
    """Write everything; a pipe takes 64 KiB at a time."""
    while content:
        content = content[os.write(number, content) :]


def kill_request(pid: int, request: dict[str, Any]) -> None:
    """End a request that takes too long, with whatever its jobs left."""
    os.kill(pid, signal.SIGKILL)
    for job in request["jobs"]:
        for left in find_processes(job["token"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)


def main() -> None:
    """Answer each line of standard input with a line, until it ends."""
    with os.fdopen(os.dup(0), "rb") as questions:
        while line := questions.readline():
            write_all(1, answer(json.loads(line)) + b"\n")


if __name__ == "__main__":
    main()
