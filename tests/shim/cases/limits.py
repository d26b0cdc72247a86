"""Attack 29: out of the cgroups that are the caller's, and limits that are not kept."""

import os
import signal
import subprocess
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from tests.shim.cases import forced, refusal
from tests.shim.cases.spec import setting
from tests.shim.delegation import Place, able, delegated, hierarchy, limited
from tests.shim.harness import READY, Call, Result, Run, wait_until
from tests.shim.kernel import detach, private_mounts

Check = Callable[[Run, Place], None]
# How long the shim is held before it clones, so that it can be moved meanwhile.
HOLD_US = 400_000


def resources(**members: Any) -> Callable[[Run, Any], None]:
    """Return a change that sets linux.resources."""
    return setting("linux", "resources", value=members)


for _label, _path in (("dots", "/../../x"), ("absolute", "/system.slice/x"), ("unit", "user.slice:x:y")):
    refusal("29-path", "cgroup.path", setting("linux", "cgroupsPath", value=_path), label=_label)
for _name, _value in (
    ("unified", {"memory.max": "1"}),
    ("unified", {"/../memory.max": "1"}),
    ("blockIO", {"weight": 10}),
    ("hugepageLimits", [{"pageSize": "2MB", "limit": 1}]),
    ("rdma", {"mlx5_1": {"hcaHandles": 3}}),
    ("network", {"classID": 1}),
):
    refusal(
        "29-resources",
        "resources.unsupported",
        resources(**{_name: _value}),
        label=_name if "/../memory.max" not in _value else "absolute-key",
    )
for _kind, _member, _number in (
    ("memory", "reservation", 1 << 30),
    ("memory", "swappiness", 10),
    ("cpu", "realtimeRuntime", 1000),
    ("cpu", "cpus", "0"),
):
    refusal(
        "29-resources",
        "resources.unsupported",
        resources(**{_kind: {_member: _number}}),
        label=f"{_kind}-{_member}",
    )
for _label, _members in (
    ("memory", {"memory": {"limit": 0}}),
    ("swap", {"memory": {"limit": -1, "swap": 1 << 30}}),
    ("pids", {"pids": {"limit": -2}}),
    ("quota", {"cpu": {"quota": 10}}),
    ("period", {"cpu": {"period": 10}}),
    ("shares", {"cpu": {"shares": 1}}),
):
    refusal(
        "29-values",
        "resources.range",
        resources(**_members),
        resources(memory={"limit": -1, "swap": -1}, pids={"limit": -1}, cpu={"quota": -1}),
        label=_label,
    )


def members(cgroup: Path) -> set[int]:
    """Return the processes that are in a cgroup itself."""
    return {int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()}


def is_empty(cgroup: Path) -> bool:
    """Say whether no process is in a cgroup."""
    return "populated 0" in (cgroup / "cgroup.events").read_text()


def in_own_subtree(check: Check) -> Callable[[Run], None]:
    """Give a check a delegated cgroup; where nothing can be limited, what it asks must be refused instead."""

    @wraps(check)
    def step(run: Run) -> None:
        with delegated(run) as place:
            working = able(run)
            if working is None:
                run.refused(limited(run, "true"), "resources.controller", place.call())
                assert place.leaves() == []
            else:
                check(working, place)

    return step


@in_own_subtree
def a_delegated_cgroup_will_do(run: Run, place: Place) -> None:
    """Where it is the caller's and has the controller, he has his limits, and nothing is left of them."""
    assert run.shim.run(limited(run, "true"), place.call()).status == 0
    assert place.leaves() == []


@forced("29-owner", twin=a_delegated_cgroup_will_do)
def a_leaf_needs_an_ancestor_of_the_callers(run: Run) -> None:
    """That everybody may write to a cgroup does not make it the caller's."""
    with delegated(run, to_caller=False) as place:
        run.refused(limited(run, "true"), "resources.delegation", place.call())
        assert place.leaves() == []


@forced("29-owner", label="root", unbreakable="the root cgroup has none above it")
def in_the_root_there_is_no_place(run: Run) -> None:
    """A caller whom nobody gave a cgroup gets no leaf, and no container without its limits."""

    def prepare() -> None:
        (hierarchy() / "cgroup.procs").write_text("0")

    run.refused(limited(run, "true"), "resources.delegation", Call(prepare=prepare))


@forced("29-controller", twin=a_delegated_cgroup_will_do)
def a_limit_without_its_controller_is_refused(run: Run) -> None:
    """Nothing runs without the limit that was asked for."""
    with delegated(run, controllers=False) as place:
        run.refused(limited(run, "true"), "resources.controller", place.call())
        assert place.leaves() == []


@forced("29-caller")
@in_own_subtree
def the_leaf_is_the_callers(run: Run, place: Place) -> None:
    """Made with his ids, below the cgroup that is his; the payload is in it, the shim is not."""
    with run.shim.running(limited(run, *READY), place.call(container="leafy")) as running:
        assert place.leaves() == ["locald-leafy.leaf"]
        leaf = place.top / "locald-leafy.leaf"
        assert leaf.stat().st_uid == run.caller.uid
        assert (leaf / "cgroup.procs").stat().st_uid == run.caller.uid
        assert members(leaf) == set(running.descendants())


@forced("29-caller", twin=a_delegated_cgroup_will_do, label="partly")
@in_own_subtree
def who_may_not_move_processes_gets_no_leaf(run: Run, place: Place) -> None:
    """A directory of the caller's whose cgroup.procs is root's was not delegated to him."""
    os.chown(place.top / "cgroup.procs", 0, 0)
    run.refused(limited(run, "true"), "resources.delegation", place.call())
    assert place.leaves() == []


@forced("29-caller", label="moved")
@in_own_subtree
def from_outside_no_process_comes_in(run: Run, place: Place) -> None:
    """Moved out of the subtree before it clones, the shim may not put its child back: the caller could not."""
    hold = f"inject=clone3:delay_enter={HOLD_US}:when=1"
    wrapper = (
        "/usr/bin/strace",
        "-qq",
        "-u",
        run.caller.name,
        "-o",
        "/dev/null",
        "-e",
        "trace=clone3",
        "-e",
        hold,
    )
    bundle = limited(run, "true")
    bundle.write()
    call = place.call(wrapper=wrapper)
    process = run.shim.start(run.shim.arguments(bundle, call), run.caller, call)
    # The leaf is there, so the clone is next.
    wait_until(lambda: place.leaves() != [], "the leaf is made")
    for pid in members(place.own):
        (hierarchy() / "cgroup.procs").write_text(str(pid))
    out, err = process.communicate(timeout=20)
    assert b"resources.leaf" in err, (process.returncode, out, err)
    assert (process.returncode, place.leaves()) == (125, [])


@forced("29-namespace")
@in_own_subtree
def the_leaf_is_the_root_inside(run: Run, place: Place) -> None:
    """The payload sees no cgroup but its own."""
    lines = run.shim.run(limited(run, "cat", "/proc/self/cgroup"), place.call()).lines()
    assert "0::/" in lines, lines


@forced("29-gone")
@in_own_subtree
def the_leaf_ends_with_its_container(run: Run, place: Place) -> None:
    """Also where the payload left children to be reaped."""
    script = "sleep 60 & sleep 60 & exit 3"
    assert run.shim.run(limited(run, "sh", "-c", script), place.call()).status == 3
    assert place.leaves() == []


@forced("29-gone", label="killed")
@in_own_subtree
def a_killed_shims_leaf_goes_at_the_next_call(run: Run, place: Place) -> None:
    """Whatever that call is: another container, or `cleanup`."""
    others: tuple[Callable[[], Result], ...] = (
        lambda: run.shim.run(run.bundle("true")),
        lambda: run.shim.call(["cleanup"], run.caller),
        lambda: run.shim.call(["cleanup", "--id", "killed"], run.caller),
        lambda: run.shim.run(limited(run, "true"), place.call(container="killed")),
    )
    for call_again in others:
        with run.shim.running(limited(run, *READY), place.call(container="killed")) as running:
            running.process.send_signal(signal.SIGKILL)
            wait_until(lambda: is_empty(place.top / "locald-killed.leaf"), "the container ends")
        result = call_again()
        assert result.status == 0, result
        assert place.leaves() == []


@forced("29-gone", label="busy", unbreakable="shows that an occupied leaf is kept, which no rule forbids")
@in_own_subtree
def a_leaf_in_use_stays(run: Run, place: Place) -> None:
    """The caller may put another process into his leaf; it is removed when that has left."""
    # Not this process: what is in the subtree when the case ends is killed.
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        try:
            with run.shim.running(limited(run, *READY), place.call(container="busy")) as running:
                leaf = place.top / "locald-busy.leaf"
                (leaf / "cgroup.procs").write_text(str(other.pid))
                running.process.kill()
                wait_until(lambda: members(leaf) == {other.pid}, "it ends")
            result = run.shim.run(limited(run, "true"), place.call(container="busy"))
            assert (result.code, place.leaves()) == ("id.in-use", ["locald-busy.leaf"])
            (hierarchy() / "cgroup.procs").write_text(str(other.pid))
            assert run.shim.run(limited(run, "true"), place.call(container="busy")).status == 0
            assert place.leaves() == []
        finally:
            other.kill()


@forced("29-caller", label="unlimited", unbreakable="shows that without a limit nothing is made")
def without_limits_there_is_no_leaf(run: Run) -> None:
    """The payload counts where its caller counts."""
    with delegated(run) as place, run.shim.running(run.bundle(*READY), place.call()) as running:
        assert place.leaves() == []
        own = Path(f"/proc/{running.pid}/cgroup").read_text()
        assert all(Path(f"/proc/{pid}/cgroup").read_text() == own for pid in running.descendants())


@forced(
    "29-controller", label="hierarchy", unbreakable="without the hierarchy there is nothing to make a leaf in"
)
def without_a_hierarchy_a_limit_is_refused(run: Run) -> None:
    """On a host that mounts no cgroup v2."""

    def prepare() -> None:
        private_mounts()
        detach(hierarchy())

    run.refused(limited(run, "true"), "resources.hierarchy", Call(prepare=prepare))
