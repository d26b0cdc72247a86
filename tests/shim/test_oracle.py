"""What watches the host sees what is left behind: each of these tests leaves something, and takes it away again.

Both watchers: that of these tests, and that of the kit, which stands in its guests (conformance/guard.py).
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shim import oracle
from tests.shim.harness import POLL_S, Caller

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
NAME = "locald-oracle.leaf"
# Whoever is at the other end of the pipe decides how long it stays; it has no environment, and is nobody's child.
STAYS = """
import os, sys
if os.fork() == 0:
    os.setsid()
    os.setresgid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
    os.setresuid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
    print(os.getpid(), flush=True)
    os.close(1)
    sys.stdin.read()
"""
GUARD = """
import json, os, subprocess, sys
from conformance.guard import Guard
stays, uid, groups = sys.argv[1], sys.argv[2], sys.argv[3:]
guard = Guard([{name!r}])
left = subprocess.Popen([sys.executable, "-c", stays, uid], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={{}})
pid = left.stdout.readline().strip().decode()
for group in groups:
    os.mkdir(group)
changes = guard.end()["changes"]
for group in groups:
    os.rmdir(group)
left.stdin.close()
json.dump([pid, changes], sys.stdout)
"""


@contextlib.contextmanager
def staying(uid: int) -> Iterator[int]:
    """Leave a process that runs under `uid`; its number."""
    with subprocess.Popen(
        [sys.executable, "-c", STAYS, str(uid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            yield pid
        finally:
            parent.stdin.close()
            end = time.monotonic() + LIMIT_S
            while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
                time.sleep(POLL_S)


def subordinate(caller: Caller) -> int:
    """Return an id in the middle of what /etc/subuid gives the caller."""
    spans = oracle.ids_of([caller], oracle.SUBORDINATE)
    return next(span[len(span) // 2] for span in spans if len(span) > 1)


def own_groups() -> list[Path]:
    """Return the directory of this process's group in each hierarchy that is mounted, without what lies below it."""
    mounts = oracle.MOUNTS.read_text()
    hierarchies = [line.split()[4] for line in mounts.splitlines() if " - cgroup" in line]
    lines = [line.split(":", 2) for line in oracle.OWN_GROUPS.read_text().splitlines()]
    paths = dict.fromkeys(Path(point + group) for point in hierarchies for _, _, group in lines)
    own = str(os.getpid())
    return [path for path in paths if path.is_dir() and own in (path / "cgroup.procs").read_text().split()]


@pytest.mark.parametrize("kind", ["own", "keeper", "subordinate"])
def test_a_process_is_seen_whichever_id_it_has(
    host: oracle.Host, callers: dict[str, Caller], kind: str
) -> None:
    """The caller's, that which pays for his namespaces, and one that only his containers have."""
    caller = callers["locald-a"]
    uid = {"own": caller.uid, "keeper": caller.uid | oracle.KEEPER}.get(kind) or subordinate(caller)
    before = host.snapshot()

    with staying(uid) as pid:
        (found,) = host.differences(before, host.snapshot())
        # That it is there, and what it is called.
        assert found.startswith(
            f"process {pid}: 'absent' -> Process(words='{Path(sys.executable).name[:5]}"
        ), found


def test_what_a_process_is_called_is_no_difference() -> None:
    """A call of the shim becomes the payload under the same number."""
    assert oracle.Process("locald-shim 7") == oracle.Process("sleep 7")


def test_a_process_that_ends_is_no_difference(host: oracle.Host, callers: dict[str, Caller]) -> None:
    """One that was on its way out when a case began: a whole run was red for it."""
    with staying(callers["locald-a"].uid) as pid:
        before = host.snapshot()
    assert f"process {pid}" in before
    assert host.differences(before, host.snapshot()) == []


def test_a_process_has_its_name_though_it_ends_at_once(
    callers: dict[str, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot reads it once."""
    uid = callers["locald-a"].uid
    read, describe, left = oracle.read_status, oracle.describe, contextlib.ExitStack()
    said: list[str] = []

    def read_last(pid: str) -> str:
        status = read(pid)
        if pid == str(staying_pid):
            left.close()
        return status

    def note(status: str) -> str:
        said.append(describe(status))
        return said[-1]

    with left:
        staying_pid = left.enter_context(staying(uid))
        monkeypatch.setattr(oracle, "read_status", read_last)
        monkeypatch.setattr(oracle, "describe", note)
        # Of something else that ended it looks again, and does not find it any more.
        oracle.processes_of([range(uid, uid + 1)])
    assert f"{Path(sys.executable).name[:15]} {staying_pid}" in " ".join(said), said


def test_a_child_is_seen_whose_parent_ended_after_both_were_looked_for(
    callers: dict[str, Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing of /proc is older than the child, and the child's parent is gone when its own turn comes."""
    uid = next(iter(callers.values())).uid
    ids = [range(uid, uid + 1)]
    read, left = oracle.read_status, contextlib.ExitStack()
    pids: list[int] = []

    def read_late(pid: str) -> str:
        if not pids:
            pids.append(left.enter_context(staying(uid)))
            return ""
        return read(pid)

    monkeypatch.setattr(oracle, "read_status", read_late)
    with left:
        assert list(oracle.processes_of(ids)) == pids


def test_a_group_is_seen_in_every_hierarchy(host: oracle.Host) -> None:
    """Those of version 1 too, where the machine has them."""
    before = host.snapshot()
    groups = own_groups()
    assert groups
    for group in groups:
        left = group / NAME
        left.mkdir()
        try:
            assert host.differences(before, host.snapshot()) == [f"cgroup {left}: 'absent' -> ''"]
        finally:
            left.rmdir()


def test_the_kits_guard_sees_both(callers: dict[str, Caller]) -> None:
    """In a process of its own, which takes in the orphans that this one shall not have."""
    uid = subordinate(callers["locald-a"])
    groups = [str(group / NAME) for group in own_groups()]
    program = [sys.executable, "-c", GUARD.format(name=NAME), STAYS, str(uid), *groups]
    done = subprocess.run(program, cwd=ROOT, stdout=subprocess.PIPE, timeout=LIMIT_S, check=True)
    pid, changes = json.loads(done.stdout)

    assert [line for line in changes if line.startswith(f"process {pid}: ")], changes
    assert {f"trace {group}: absent -> there" for group in groups} <= set(changes), changes
