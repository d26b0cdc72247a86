"""Attacks 18 to 39: what a runtime config may not ask for, and what it gets whatever it asks."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.shim.cases import forced, refusal
from tests.shim.cases.entry import a_status_descriptor_tells, open_streams_arrive, traced
from tests.shim.harness import Bundle, Call, Run
from tests.shim.kernel import (
    bind_over,
)

EPERM = 1
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
TCGETS, TIOCGPGRP, TIOCGWINSZ = 0x5401, 0x540F, 0x5413
NET_BIND_SERVICE = 1 << 10
HOOK = {"prestart": [{"path": "/bin/true"}]}
DEVICE = {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}
RANGES = 400


def setting(*path: str, value: Any) -> Callable[[Run, Bundle], None]:
    """Return a change that sets one member, `path` leading to it."""

    def change(_run: Run, bundle: Bundle) -> None:
        place = bundle.config
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = value

    return change


def namespace(**members: str) -> Callable[[Run, Bundle], None]:
    """Return a change that adds a namespace."""
    return lambda _run, bundle: bundle.linux["namespaces"].append(members)


def without_namespace(kind: str) -> Callable[[Run, Bundle], None]:
    """Return a change that removes a namespace."""

    def change(_run: Run, bundle: Bundle) -> None:
        spaces = bundle.linux["namespaces"]
        spaces[:] = [space for space in spaces if space["type"] != kind]

    return change


def mounting(
    destination: str, kind: str, source: str, *options: str, **members: Any
) -> Callable[[Run, Bundle], None]:
    """Return a change that adds a mount."""
    entry = {"destination": destination, "type": kind, "source": source, "options": list(options), **members}
    return lambda _run, bundle: bundle.config["mounts"].append(entry)


refusal("18", "config.hooks", setting("hooks", value=HOOK), setting("hooks", value={}))
refusal("19-devices", "config.devices", setting("linux", "devices", value=[DEVICE]))
refusal(
    "19-resources",
    "config.devices",
    setting("linux", "resources", value={"devices": [{"allow": True, "access": "rwm"}]}),
    setting("linux", "resources", value={"devices": [{"allow": False, "access": "rwm"}]}),
)
refusal(
    "20",
    "mount.type",
    mounting("/srv", "overlay", "overlay", "lowerdir=/"),
    mounting("/srv", "tmpfs", "tmpfs"),
)
refusal(
    "25-size",
    "mount.size",
    mounting("/srv", "tmpfs", "t", "size=0"),
    mounting("/srv", "tmpfs", "t", "size=1m"),
)
refusal(
    "25-option",
    "mount.option",
    mounting("/srv", "tmpfs", "t", "suid"),
    mounting("/srv", "tmpfs", "t", "nosuid"),
)
refusal("24-pid", "namespace.missing", without_namespace("pid"))
refusal("27-mount", "namespace.missing", without_namespace("mount"))
refusal(
    "27-path", "namespace.path", namespace(type="network", path="/proc/1/ns/net"), namespace(type="network")
)
for _path, _value, _code in (
    (("linux", "sysctl"), {"kernel.x": "1"}, "config.sysctl"),
    (("linux", "intelRdt"), {"closID": "x"}, "config.intel-rdt"),
    (("linux", "personality"), {"domain": "LINUX32"}, "config.personality"),
    (("linux", "timeOffsets"), {"monotonic": {"secs": 1}}, "config.time-offsets"),
    (("linux", "netDevices"), {"eth0": {"name": "x"}}, "config.net-devices"),
    (("linux", "memoryPolicy"), {"mode": "MPOL_BIND"}, "config.memory-policy"),
    (("process", "scheduler"), {"policy": "SCHED_FIFO"}, "config.scheduler"),
    (("process", "ioPriority"), {"class": "IOPRIO_CLASS_RT"}, "config.io-priority"),
    (("process", "execCPUAffinity"), {"initial": "0"}, "config.cpu-affinity"),
    (("vm",), {"kernel": {"path": "/k"}}, "config.platform"),
    (("windows",), {"layerFolders": ["x"]}, "config.platform"),
    (("solaris",), {"milestone": "x"}, "config.platform"),
    (("zos",), {"devices": ["x"]}, "config.platform"),
):
    refusal("26", _code, setting(*_path, value=_value), label=_path[-1])
refusal(
    "30", "config.seccomp", setting("linux", "seccomp", value={"listenerPath": "/x", "defaultAction": "A"})
)
for _path in (("process", "apparmorProfile"), ("process", "selinuxLabel"), ("linux", "mountLabel")):
    refusal("31", "config.label", setting(*_path, value="unconfined"), label=_path[-1])
refusal("33-oom", "process.oom-score", setting("process", "oomScoreAdj", value=-1000))
refusal(
    "33-rlimit",
    "process.rlimit",
    setting("process", "rlimits", value=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2**63}]),
    setting("process", "rlimits", value=[{"type": "RLIMIT_NOFILE", "soft": 30, "hard": 30}]),
)
refusal("37-lists", "config.path-list", setting("linux", "maskedPaths", value=["/etc"]))
for _label, _cwd in (("descriptor", "/proc/self/fd/7"), ("relative", "tmp"), ("dots", "/srv/..")):
    refusal(
        "38-cwd", "process.cwd", setting("process", "cwd", value=_cwd), setting("process", "cwd", value="/srv"),
        label=_label,
    )  # fmt: skip
refusal(
    "35-mapped",
    "user.unmapped",
    setting("process", "user", value={"uid": 0, "gid": 4_000_000}),
    modes=("mapped",),
)
refusal(
    "35-direct", "user.unmappable", setting("process", "user", value={"uid": 0, "gid": 0}), modes=("direct",)
)
refusal(
    "35-groups", "user.groups", setting("process", "user", "additionalGids", value=[0]), modes=("direct",)
)
refusal(
    "28-map",
    "map.entry",
    setting("linux", "uidMappings", value=[{"containerID": 0, "hostID": 0, "size": 1}]),
    lambda run, bundle: bundle.linux.update(
        uidMappings=[{"containerID": 0, "hostID": run.caller.uid, "size": 1}]
    ),
    modes=("mapped",),
)
for _member in ("uidMappings", "gidMappings"):
    refusal(
        "28-map",
        "mount.id-map",
        mounting("/srv", "tmpfs", "tmpfs", **{_member: [{"containerID": 0, "hostID": 0, "size": 1}]}),
        mounting("/srv", "tmpfs", "tmpfs"),
        label=f"mount-{_member}",
    )
refusal("13-unknown", "config.domainname", setting("domainname", value="example"), label="domainname")
for _label, _destination in (
    ("proc", "/proc/x"),
    ("dots", "/srv/../etc"),
    ("root", "/"),
    ("dev", "/dev/null"),
):
    refusal(
        "23-destination",
        "mount.destination",
        mounting(_destination, "tmpfs", "t"),
        mounting("/srv", "tmpfs", "t"),
        label=_label,
    )


def table(run: Run, name: str, text: str) -> Call:
    """Return a call for which /etc/NAME is `text`."""
    return Call(prepare=bind_over(text, f"/etc/{name}", run.workshop.directory(run.caller) / name))


for _label, _range in (("root", "0:65536"), ("caller", "{own}:10"), ("end", "4294967200:200")):
    refusal(
        "28-range",
        "subids.range",
        lambda run, _bundle, text=_range: table(  # type: ignore[misc]
            run, "subuid", f"{run.caller.name}:{text.format(own=run.caller.uid)}\n"
        ),
        lambda run, _bundle: table(run, "subuid", f"{run.caller.name}:800000:65536\n"),
        modes=("mapped",),
        label=_label,
    )
refusal(
    "28-line",
    "subids.malformed",
    lambda run, _bundle: table(run, "subuid", f"{run.caller.name}:8x:9\n{run.caller.name}:800000:9\n"),
    lambda run, _bundle: table(run, "subuid", f"other:8x:9\n{run.caller.name}:800000:9\n"),
    modes=("mapped",),
)
refusal(
    "54-extents",
    "subids.too-many",
    lambda run, _bundle: table(
        run, "subuid", "".join(f"{run.caller.name}:{800_000 + 2 * n}:1\n" for n in range(RANGES))
    ),
    lambda run, _bundle: table(
        run, "subuid", "".join(f"{run.caller.name}:{800_000 + 2 * n}:1\n" for n in range(100))
    ),
    modes=("mapped",),
)


def a_name_of_letters_owns_its_ranges(run: Run) -> None:
    """Those of /etc/subuid, beside the caller himself."""
    lines = run(
        "cat", "/proc/self/uid_map", call=table(run, "subuid", f"{run.caller.name}:800000:100\n")
    ).lines()
    assert [line.split() for line in lines] == [["0", str(run.caller.uid), "1"], ["1", "800000", "100"]]


@forced("28-name", modes=("mapped",), twin=a_name_of_letters_owns_its_ranges)
def a_name_of_digits_owns_no_ranges(run: Run) -> None:
    """A login name that looks like somebody else's uid does not give his ranges."""
    passwd = Path("/etc/passwd").read_text().replace(f"{run.caller.name}:", "31337:")
    holder = run.workshop.directory(run.caller)
    name_step = bind_over(passwd, "/etc/passwd", holder / "passwd")
    range_step = bind_over("31337:800000:65536\n", "/etc/subuid", holder / "subuid")

    def prepare() -> None:
        name_step()
        range_step()

    policy = f"version = 1\nallow-user = {run.caller.uid}\n"
    policy_step = bind_over(policy, "/etc/locald/policy", holder / "policy")

    def all_steps() -> None:
        prepare()
        policy_step()

    lines = run("cat", "/proc/self/uid_map", call=Call(prepare=all_steps)).lines()
    assert [line.split() for line in lines] == [["0", str(run.caller.uid), "1"]]


@forced("32-number", twin=a_status_descriptor_tells)
def status_is_no_standard_stream(run: Run) -> None:
    """Nobody can let the shim write status lines into a stream that belongs to the payload."""
    for number in ("0", "2", "-1", "3x", "99999999999"):
        result = run("true", call=Call(extra=("--status-fd", number)))
        assert result.status in (2, 125), (number, result)


@forced("32-type", twin=a_status_descriptor_tells)
def status_is_a_pipe_or_socket(run: Run) -> None:
    """A file, which might be one of root's, is not written to."""
    path = run.workshop.directory(run.caller) / "status"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        call = Call(pass_fds=(descriptor,), extra=("--status-fd", str(descriptor)))
        result = run("true", call=call)
        assert (result.status, path.read_bytes()) == (125, b""), result
    finally:
        os.close(descriptor)


def other_requests_reach_the_terminal(run: Run) -> None:
    """Its modes, its size, its foreground group."""
    for request in (TCGETS, TIOCGWINSZ, TIOCGPGRP):
        bundle = run.bundle("probe", "ioctl", str(request))
        bundle.process["terminal"] = True
        assert run.shim.run(bundle).lines() == ["0"], request


@forced("32-ioctl", twin=other_requests_reach_the_terminal)
def terminals_cannot_be_typed_into(run: Run) -> None:
    """TIOCSTI and TIOCLINUX are denied before any terminal sees them (CVE-2017-5226, CVE-2023-1523)."""
    for request in (TIOCSTI, TIOCLINUX, TIOCSTI | 1 << 32):
        assert run("probe", "ioctl", str(request)).lines() == [str(EPERM)]


ALL_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "SYS_ADMIN",
        "NET_ADMIN",
        "SYS_PTRACE",
        "DAC_READ_SEARCH",
        "MKNOD",
        "CHOWN",
        "KILL",
        "SETUID",
    )
]
ALLOWED = {"mapped": 1 << 0 | 1 << 5 | 1 << 7, "direct": 0}


def capabilities_that_are_allowed_are_given(run: Run) -> None:
    """Those and no more in mapped mode; in direct mode there is none to give, and the payload runs."""
    bundle = run.bundle("grep", "^Cap[PEB]", "/proc/self/status")
    sets = ("bounding", "effective", "permitted")
    bundle.process["capabilities"] = {each: ["CAP_NET_BIND_SERVICE"] for each in sets}
    held = NET_BIND_SERVICE if run.mode == "mapped" else 0
    assert [int(line.split()[1], 16) for line in run.shim.run(bundle).lines()] == [held] * 3


@forced("34-capabilities", twin=capabilities_that_are_allowed_are_given)
def capabilities_are_a_subset(run: Run) -> None:
    """Of what is asked, only the allowed ones in mapped mode, none at all in direct mode."""
    bundle = run.bundle("grep", "^Cap", "/proc/self/status")
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    bundle.process["capabilities"] = dict.fromkeys(sets, ALL_CAPABILITIES)
    for line in run.shim.run(bundle).lines():
        assert int(line.split()[1], 16) == ALLOWED[run.mode], line


def a_setuid_program_runs_as_any_other(run: Run) -> None:
    """The bit is without effect, not the program."""
    bundle = run.bundle("/bin/busybox.own", "id", "-u")
    own = bundle.rootfs / "bin" / "busybox.own"
    own.write_bytes((bundle.rootfs / "bin" / "busybox").read_bytes())
    own.chmod(0o6755)
    assert run.shim.run(bundle).lines() == [str(bundle.process["user"]["uid"])]


@forced("34-nnp", twin=a_setuid_program_runs_as_any_other)
def no_new_privileges_always(run: Run) -> None:
    """Set even where the spec says false: a setuid file in a root that the caller made gains nothing."""
    bundle = run.bundle("grep", "^NoNewPrivs", "/proc/self/status")
    bundle.process["noNewPrivileges"] = False
    assert run.shim.run(bundle).lines() == ["NoNewPrivs:\t1"]


@forced("38-close", twin=open_streams_arrive)
def no_descriptor_of_the_host_inside(run: Run) -> None:
    """The payload has 0, 1, 2, and nothing that leads back (CVE-2024-21626)."""
    assert run("sh", "-c", "ls /proc/self/fd | tr '\\n' ' '").lines() == ["0 1 2 3 "]


def a_directory_and_a_program_inside_are_found(run: Run) -> None:
    """By the payload's own rights: the working directory, and a program by a path relative to it."""
    bundle = run.bundle("./busybox", "pwd")
    bundle.process["cwd"] = "/bin"
    assert run.shim.run(bundle).lines() == ["/bin"]


@forced("39", twin=a_directory_and_a_program_inside_are_found)
def nothing_is_looked_up_inside(run: Run) -> None:
    """Between the move into the container's root and its program, nothing is opened."""
    trace = traced(run, "openat,openat2,open,pivot_root,execve", "true").stderr
    inside = trace.split(b"pivot_root(", 1)[1].rsplit(b"execve(", 1)[0]
    # The supervisor, outside, opens the tables of the map meanwhile.
    opened = [line for line in inside.splitlines() if b"open" in line and b'"/proc/' not in line]
    assert opened == []
