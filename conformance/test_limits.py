"""LIMIT: what a container may use, and whose cgroup keeps it."""

import signal
from collections.abc import Iterable
from typing import Any, Final

import pytest

from conformance.runtimes import Config, Mode
from conformance.subject import HOME, Job, Result, Subject

KILL: Final = int(signal.SIGKILL)
KILLED: Final = 128 + KILL
EAGAIN: Final = 11
CONTROLLERS: Final = "memory pids cpu"
LIMIT_MIB: Final = 32
PIDS: Final = 12
LIMITS: Final[dict[str, Any]] = {
    "memory": {"limit": LIMIT_MIB << 20, "swap": LIMIT_MIB << 20},
    "pids": {"limit": PIDS},
    "cpu": {"quota": 50_000, "period": 200_000, "shares": 2048},
}
READ_BACK: Final = {
    "memory.max": str(LIMIT_MIB << 20),
    "memory.swap.max": "0",
    "pids.max": str(PIDS),
    "cpu.max": "50000 200000",
    "cpu.weight": "174",
}
# What `--memory 32m --memory-swap 32m --pids-limit 64 --cpus 0.9` come to.
TOLD: Final = {
    "memory.max": str(LIMIT_MIB << 20),
    "memory.swap.max": "0",
    "pids.max": "64",
    "cpu.max": "90000 100000",
}
# Where a host has no cgroup v2, a place in a hierarchy of version 1: there nothing can be delegated safely.
FIND: Final = "findmnt --noheadings --first-only --output TARGET --types"
# (findmnt's exit status does not say whether it found one.)
ROOT: Final = f'ROOT=$({FIND} cgroup2) || true; [ -n "$ROOT" ] || ROOT=$({FIND} cgroup --options pids)'


def limited(config: Config) -> None:
    """Ask for every kind of limit."""
    config["linux"]["resources"] = LIMITS


class Delegation:
    """A cgroup that is a user's, as systemd or an administrator gives it; his processes are in `own` below it."""

    def __init__(self, subject: Subject, *, user: str = "plain") -> None:
        """Make it, with every controller that the host's cgroup v2 has; `root` for one that everybody may write to."""
        self._subject = subject
        name = subject.make_token()
        script = f"""
            {ROOT}; TOP=$ROOT/{name}; mkdir -p $TOP/own
            for controller in {CONTROLLERS}; do
                grep -qsw $controller $ROOT/cgroup.controllers || continue
                echo +$controller > $ROOT/cgroup.subtree_control
                echo +$controller > $TOP/cgroup.subtree_control
            done
            for dir in $TOP $TOP/own; do
                for each in $dir $dir/cgroup.procs $dir/cgroup.subtree_control $dir/cgroup.threads; do
                    [ -e $each ] || continue
                    if [ {user} = root ]; then chmod a+rwX $each; else chown {user}: $each; fi
                done
            done
            echo $TOP; cat $ROOT/cgroup.controllers || echo none
        """
        told = subject.root(script).stdout.splitlines()
        self.top = told[0]
        profile = subject.guest.profile
        promised = "cgroup2" in profile.traits
        self.unified = promised or told[1:] != ["none"]
        # The profile chooses what is judged, and not a look: a host that promises the controllers and does not have
        # them is red. Of `local` no profile can say what it is; there the host says it, which is not the product.
        there = set(CONTROLLERS.split()) <= set(told[1].split() if told[1:] else ())
        self.works = promised or (profile.kind == "local" and there)

    def refuses(self, result: Result) -> bool:
        """Say whether a limit was refused for want of its controller, or of cgroup v2, and nothing ran."""
        code = "resources.controller" if self.unified else "resources.hierarchy"
        return (result.exit_code, result.code, result.stdout) == (125, code, "")

    @property
    def own(self) -> str:
        """Where the shim starts."""
        return f"{self.top}/own"

    @property
    def leaves(self) -> str:
        """A script that names the cgroups made below it."""
        return f"find {self.top} -mindepth 1 -maxdepth 1 -type d ! -name own -printf '%f %u\\n'"

    def job(self, *args: str, mode: Mode, **more: Any) -> Job:
        """Return the job that runs `args`, limited, from inside."""
        return self._subject.container(*args, mode=mode, change=limited, cgroup=self.own, **more)

    def remove(self) -> None:
        """Take it away; whatever is still in it is a failure of the subject's."""
        self._subject.root(f"rmdir {self.own} && rmdir {self.top}")


@pytest.fixture
def delegation(subject: Subject) -> Any:
    """A cgroup of `plain`'s."""
    made = Delegation(subject)
    yield made
    made.remove()


@pytest.mark.clause("LIMIT-001")
def test_memory_is_limited(subject: Subject, mode: Mode, delegation: Delegation) -> None:
    """Half of the limit can be used; twice the limit ends with KILL."""
    below, above = subject.call(
        delegation.job("/observe", "memory", str(LIMIT_MIB // 2), mode=mode),
        delegation.job("/observe", "memory", str(LIMIT_MIB * 2), mode=mode, init=True),
    )

    if not delegation.works:
        assert delegation.refuses(below), below
        assert delegation.refuses(above), above
        return
    assert (below.exit_code, below.stdout) == (0, "used\n"), below
    assert (above.exit_code, above.stdout) == (KILLED, ""), above


@pytest.mark.clause("LIMIT-002")
def test_processes_are_limited(subject: Subject, mode: Mode, delegation: Delegation) -> None:
    """The payload counts as one; the forks that fail, fail with EAGAIN."""
    (result,) = subject.call(delegation.job("/observe", "forks", str(3 * PIDS), mode=mode))

    if delegation.works:
        assert (result.exit_code, result.stdout) == (0, f"forks {PIDS - 1} {EAGAIN}\n"), result
        assert result.leftover == []
    else:
        assert delegation.refuses(result), result


@pytest.mark.clause("LIMIT-003")
def test_limits_are_in_force(subject: Subject, mode: Mode, delegation: Delegation) -> None:
    """As the host reads them while the container runs."""
    steps = [
        {"expect": "ready"},
        {"script": read_leaf(delegation, READ_BACK)},
        {"signal": KILL, "to": "payload"},
    ]
    job = delegation.job("/observe", "wait", mode=mode, steps=steps, status=True)
    (result,) = subject.call(job)

    if not delegation.works:
        assert delegation.refuses(result), result
        return
    assert parse_leaf(result) == READ_BACK, result
    assert result.exit_code == KILLED, result


def read_leaf(delegation: Delegation, files: Iterable[str]) -> str:
    """Return the script that tells what these files of the container's leaf say."""
    return f"cd {delegation.top}/*.leaf; for file in {' '.join(files)}; do echo $file=$(cat $file); done"


def parse_leaf(result: Result) -> dict[str, str]:
    """Return what that script told."""
    return dict(line.split("=", 1) for line in result.stderr.splitlines() if "=" in line)


@pytest.mark.clause("LIMIT-004")
def test_without_delegation_a_limit_is_refused(subject: Subject, mode: Mode) -> None:
    """Neither where nothing is the caller's, nor where everybody may write."""
    open_to_all = Delegation(subject, user="root")
    results = subject.call(
        subject.container(mode=mode, change=limited),
        open_to_all.job(mode=mode, after=open_to_all.leaves),
    )
    open_to_all.remove()

    code = "resources.delegation" if open_to_all.unified else "resources.hierarchy"
    for result in results:
        assert result.outcome == (125, code), result
        assert result.stdout == ""
    assert results[1].after == ""


@pytest.mark.clause("LIMIT-005")
def test_the_leaf_is_the_callers_and_goes(subject: Subject, mode: Mode, delegation: Delegation) -> None:
    """Made as him, left by all, removed."""
    list_programs = (
        f"for pid in $(cat {delegation.top}/*.leaf/cgroup.procs); do readlink /proc/$pid/exe; done"
    )
    members = f"{delegation.leaves}; {list_programs}"
    steps = [{"expect": "ready"}, {"script": members}, {"signal": KILL, "to": "payload"}]
    running, inside = subject.call(
        delegation.job("/observe", "wait", mode=mode, status=True, steps=steps, after=delegation.leaves),
        delegation.job("/observe", "cgroup", mode=mode, after=delegation.leaves),
    )

    assert (running.after, inside.after) == ("", "")
    if not delegation.works:
        assert delegation.refuses(running), running
        assert delegation.refuses(inside), inside
        return
    leaf, *programs = running.stderr.splitlines()
    assert leaf.startswith("locald-"), running
    assert leaf.endswith(".leaf plain"), running
    assert programs == ["/observe"], running
    assert inside.stdout == "0::/\n", inside


# Any call of the same user sweeps it, a neighbour's too.
@pytest.mark.alone
@pytest.mark.clause("LIMIT-006")
def test_a_leaf_left_behind_is_swept(subject: Subject, mode: Mode, delegation: Delegation) -> None:
    """SIGKILL leaves at most an empty leaf; the next call, even in another cgroup, takes it away."""
    steps = [{"expect": "ready"}, {"signal": KILL, "to": "subject"}]
    killed, swept = subject.call(
        delegation.job("/observe", "wait", mode=mode, steps=steps, after=delegation.leaves),
        subject.shim("cleanup", after=delegation.leaves),
    )

    assert (swept.exit_code, swept.after) == (0, ""), swept
    if not delegation.works:
        assert delegation.refuses(killed), killed
        return
    assert (killed.exit_code, killed.leftover) == (-KILL, []), killed
    # Else nothing was there to be swept.
    assert killed.after.endswith(".leaf plain\n"), killed


@pytest.mark.clause("LIMIT-007")
def test_nothing_but_the_leaf_changes(subject: Subject, mode: Mode, delegation: Delegation) -> None:
    """Owners, modes and settings of the delegated cgroup, of its other children and of the root."""
    look = f"""
        {ROOT}; cd {delegation.top}
        for dir in . own; do
            stat -c '%n %u:%g %a' $dir $dir/cgroup.*
            for file in $dir/*.max $dir/*.high $dir/*.low $dir/*.weight $dir/cgroup.subtree_control; do
                [ ! -e $file ] || echo $file=$(cat $file)
            done
        done
        [ ! -e $ROOT/cgroup.subtree_control ] || cat $ROOT/cgroup.subtree_control
        find $ROOT -name 'locald-*.leaf' ! -path '{delegation.top}/*' ! -path '*/kit-*'
    """
    steps = [{"expect": "ready"}, {"script": look}, {"signal": KILL, "to": "payload"}]
    job = delegation.job("/observe", "wait", mode=mode, status=True, steps=steps, before=look, after=look)
    (result,) = subject.call(job)

    assert result.before != ""
    assert result.after == result.before
    if delegation.works:
        assert result.stderr == result.before
    else:
        assert delegation.refuses(result), result


@pytest.mark.clause("LIMIT-008")
def test_locald_limits(subject: Subject, delegation: Delegation) -> None:
    """What podman's options say is kept; where it cannot be, no image is looked for."""
    options = [
        "--memory",
        f"{LIMIT_MIB}m",
        "--memory-swap",
        f"{LIMIT_MIB}m",
        "--pids-limit",
        "64",
        "--cpus",
        "0.9",
    ]
    if not delegation.works:
        (refused,) = subject.call(subject.locald("run", *options, "oci:/absent", cgroup=delegation.own))
        assert refused.outcome == (125, "run.limits"), refused
        return
    options += [f"oci:{HOME}/images/small", "--", "/bin/observe"]
    place: dict[str, Any] = {"cgroup": delegation.own, "after": delegation.leaves}
    steps = [
        {"expect": "ready"},
        {"script": read_leaf(delegation, TOLD)},
        {"signal": int(signal.SIGTERM), "to": "user"},
    ]
    below, above, told = subject.call(
        subject.locald("run", *options, "memory", str(LIMIT_MIB // 2), **place),
        subject.locald("run", *options, "memory", str(LIMIT_MIB * 2), **place),
        subject.locald("run", *options, "wait", steps=steps, **place),
    )
    assert (below.exit_code, below.stdout, below.after) == (0, "used\n", ""), below
    assert (above.exit_code, above.stdout, above.after) == (KILLED, "", ""), above
    assert parse_leaf(told) == TOLD, told
    assert (told.problem, told.after) == ("", ""), told
