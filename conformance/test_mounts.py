"""MOUNT, NS: what the payload's root is made of, and which namespaces it lives in."""

from typing import Any, Final

import pytest

from conformance.observation import Facts, Mount
from conformance.runtimes import Config, Mode
from conformance.subject import Subject

FIXED: Final = {
    "/proc": "proc",
    "/sys": "sysfs",
    "/dev": "tmpfs",
    "/dev/pts": "devpts",
    "/dev/shm": "tmpfs",  # noqa: S108  # a place in the container
    "/dev/mqueue": "mqueue",
}
# Of those, what the kernel calls devices works in two alone.
WITH_DEVICES: Final = ("/dev", "/dev/pts")
NODES: Final = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
# Of the runtime spec's standard lists, the shim's own and those that `runc spec` writes.
READONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MASKED: Final = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats"),
    *("/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
# Where the observer is asked for files and not for its facts.
MOUNTINFO: Final = "/proc/self/mountinfo"
OWN_NAMESPACES: Final = ("mnt", "pid", "ipc", "uts", "cgroup")


def mounting(*mounts: dict[str, Any]) -> Any:
    """Return a change that asks for `mounts`, beside those that the runtime needs."""
    return lambda config: config["mounts"].extend(mounts)


@pytest.mark.clause("MOUNT-001")
def test_the_fixed_mounts(subject: Subject, mode: Mode) -> None:
    """proc, sysfs, a tmpfs for /dev, devpts, shm and mqueue are there without being asked for; shm is everybody's."""
    facts = subject.see(mode).facts
    modes = dict(line.split()[:2] for line in facts.lines("dev"))

    assert {target: facts.mount_at(target).kind for target in FIXED} == FIXED
    assert "ro" in facts.mount_at("/sys").options
    assert modes["shm"] == "41777", modes


@pytest.mark.clause("MOUNT-013")
def test_what_the_fixed_mounts_allow(subject: Subject, mode: Mode) -> None:
    """On none, nor on a mask, a setuid bit counts or a program runs; devices are in /dev alone; each tmpfs ends."""
    mounts = {mount.target: mount for mount in subject.see(mode).facts.mounts}

    for target in (*FIXED, *(place for place in MASKED if place in mounts)):
        wanted = {"nosuid", "noexec"}
        # Over a masked file lies the container's /dev/null.
        if target not in WITH_DEVICES and mounts[target].root != "/null":
            wanted.add("nodev")
        assert wanted <= mounts[target].options, mounts[target]
    for target in ("/dev", "/dev/shm"):  # noqa: S108  # in the container
        sizes = [option for option in mounts[target].super_options if option.startswith("size=")]
        assert len(sizes) == 1, mounts[target]
        # What tmpfs(5) has for no end.
        assert not {"size=0k", "nr_inodes=0"} & mounts[target].super_options, mounts[target]


@pytest.mark.clause("MOUNT-002")
def test_six_devices(subject: Subject, mode: Mode) -> None:
    """/dev holds six device nodes, open to everybody, and no other, beside links and the mounts below it."""
    nodes, modes = {}, set()
    for line in subject.see(mode).facts.lines("dev"):
        name, kind, _, _, device = line.split()
        if int(kind, 8) & 0o170000 in (0o020000, 0o060000):
            nodes[name] = device
            modes.add(kind)

    assert nodes == NODES
    assert modes == {"20666"}


@pytest.mark.clause("MOUNT-011")
def test_the_links_of_dev(subject: Subject, mode: Mode) -> None:
    """/dev/fd, stdin, stdout and stderr lead to the descriptors of whoever looks."""
    assert subject.see(mode).facts.table("dev-links") == LINKS


@pytest.mark.clause("MOUNT-003")
def test_masked_paths(subject: Subject, mode: Mode) -> None:
    """What the standard masks below /proc and /sys shows nothing, though the config masks nothing."""
    lines = subject.see(mode).facts.lines("masked")

    assert len(lines) > 5  # the observer did look
    assert [line for line in lines if line.endswith("OPEN")] == []


@pytest.mark.clause("MOUNT-004")
def test_no_mount_of_the_host_is_seen(subject: Subject, mode: Mode) -> None:
    """Mounts are private, and none is there but the root, the fixed ones and their masks.

    What the host hides itself below /proc and /sys has a mask too; what else it has there, a cgroup say, has no place.
    """
    bind = {"destination": "/srv", "type": "bind", "source": "{bundle}/shared", "options": ["rbind"]}

    def share(config: Config) -> None:
        config["linux"]["rootfsPropagation"] = "shared"
        config["mounts"].append(bind)

    shared = subject.run(mode=mode, change=share, files={"shared/mark": {}})
    facts = subject.see(mode).facts

    assert [mount for mount in facts.mounts if mount.tags] == []
    # Refused or forced to private, both keep the rule.
    assert shared.exit_code == 125 or [mount for mount in shared.facts.mounts if mount.tags] == [], shared
    hosts = subject.root("cut -d ' ' -f 5 /proc/self/mountinfo").stdout.split()
    hidden = {*MASKED, *(target for target in hosts if target.startswith(("/proc/", "/sys/")))}
    assert [mount for mount in facts.mounts if not is_own(mount, hidden)] == []


def is_own(mount: Mount, hidden: set[str]) -> bool:
    """Say whether it is the container's root, one of the fixed mounts or a mask over one of `hidden`."""
    if mount.target in FIXED:
        return (mount.kind, mount.root) == (FIXED[mount.target], "/")
    if mount.target in READONLY:
        return (mount.kind, mount.root) == ("proc", mount.target.removeprefix("/proc"))
    # A runtime that may make no node binds the host's.
    if mount.target.removeprefix("/dev/") in NODES:
        return mount.kind in {"tmpfs", "devtmpfs"} and mount.root == mount.target.removeprefix("/dev")
    return mount.target == "/" or (mount.target in hidden and mount.kind in {"tmpfs", "devtmpfs"})


@pytest.mark.clause("MOUNT-005")
def test_a_read_only_root(subject: Subject, mode: Mode) -> None:
    """root.readonly makes the root read-only; without it the caller's root is writable by the payload's root."""
    readonly = subject.run(mode=mode, change=lambda config: config["root"].update(readonly=True))

    assert readonly.facts.attempts["make-root"] == 30, readonly.facts.attempts  # EROFS
    assert "ro" in readonly.facts.mount_at("/").options
    assert subject.see(mode).facts.attempts["make-root"] == 0


@pytest.mark.clause("MOUNT-006")
def test_binds(subject: Subject, mode: Mode) -> None:
    """A bind is there, writable or read-only as asked, and always nosuid and nodev; so is a mount that lies in it."""
    result = subject.run(
        mode=mode,
        change=mounting(
            {
                "destination": "/srv/rw",
                "type": "bind",
                "source": "{bundle}/shared",
                "options": ["rbind", "rw"],
            },
            {
                "destination": "/srv/ro",
                "type": "bind",
                "source": "{bundle}/shared",
                "options": ["rbind", "ro"],
            },
        ),
        files={"shared/over/mark": {"content": "here"}},
        before='mount -t tmpfs none "$BUNDLE/shared/over"',
        after='umount "$BUNDLE/shared/over"',
    )

    for below in ("", "/over"):
        writable, readonly = (result.facts.mount_at(f"/srv/{kind}{below}") for kind in ("rw", "ro"))
        assert {"rw", "nosuid", "nodev"} <= writable.options, result
        assert {"ro", "nosuid", "nodev"} <= readonly.options, result


@pytest.mark.clause("MOUNT-012")
def test_mounts_are_made_in_their_order(subject: Subject, mode: Mode) -> None:
    """A later mount lies over an earlier one at the same place, and may lie below one; what is missing is made."""
    sources = {"first": "/srv/new/place", "second": "/srv/new/place", "third": "/srv/new/place/inner"}
    binds = (
        {"destination": place, "type": "bind", "source": f"{{bundle}}/{name}", "options": ["rbind", "rw"]}
        for name, place in sources.items()
    )
    shown = ("/srv/new/place/first", "/srv/new/place/second", "/srv/new/place/inner/third", "/srv/new")
    result = subject.run(
        *("/observe", "stat", *shown),
        mode=mode,
        change=mounting(*binds),
        files={"first/first": {}, "second/second": {}, "second/inner/mark": {}, "third/third": {}},
    )

    lines = [line.split() for line in result.stdout.splitlines()]
    assert [words[0] for words in lines] == list(shown), result
    # Hidden by the second; everybody may enter what was made on the way.
    assert lines[0][1:] == ["errno", "2"], result
    assert [words[-1][-3:] for words in lines[1:]] == ["644", "644", "755"], result


@pytest.mark.clause("MOUNT-007")
def test_a_bind_is_recursive(subject: Subject, mode: Mode) -> None:
    """A bind takes along what is mounted below its source: what that hides stays hidden, and it gives nothing."""
    result = subject.run(
        *("/observe", "show", "/srv/over/hidden", "/srv/over/shown", MOUNTINFO),
        mode=mode,
        change=mounting(
            {"destination": "/srv", "type": "bind", "source": "{bundle}/shared", "options": ["bind"]}
        ),
        files={"shared/over/hidden": {}},
        before='mount -t tmpfs -o mode=755 none "$BUNDLE/shared/over"; '
        'echo shown > "$BUNDLE/shared/over/shown"; chmod 644 "$BUNDLE/shared/over/shown"',
        after='umount "$BUNDLE/shared/over"',
    )

    assert result.facts.text("/srv/over/hidden") == "errno 2", result
    assert result.facts.text("/srv/over/shown") == "shown", result
    shown = Facts({"mountinfo": result.facts.lines(MOUNTINFO)})
    assert {"nosuid", "nodev"} <= shown.mount_at("/srv/over").options, result


@pytest.mark.clause("MOUNT-008")
def test_a_bind_keeps_what_its_source_forbids(subject: Subject, mode: Mode) -> None:
    """A bind of a read-only, noexec mount that asks for rw and exec stays as its source is, and so what lies in it."""
    result = subject.run(
        mode=mode,
        change=mounting(
            {"destination": "/srv", "type": "bind", "source": "{bundle}/shared", "options": ["rbind", "rw"]}
        ),
        files={"shared/over/mark": {}},
        before='mount --bind "$BUNDLE/shared" "$BUNDLE/shared"; '
        'mount -t tmpfs -o ro,noexec none "$BUNDLE/shared/over"; '
        'mount -o remount,bind,ro,noexec,nosuid,nodev "$BUNDLE/shared"',
        after='umount -R "$BUNDLE/shared"',
    )

    for place in ("/srv", "/srv/over"):
        assert {"ro", "noexec"} <= result.facts.mount_at(place).options, result


@pytest.mark.clause("MOUNT-009")
def test_a_tmpfs_is_capped(subject: Subject, mode: Mode) -> None:
    """A tmpfs has the size asked for, and one even if none is asked for; nosuid and nodev always."""
    result = subject.run(
        mode=mode,
        change=mounting(
            {"destination": "/srv", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},  # noqa: S108  # in the container
        ),
    )

    endless = subject.call(
        *(
            subject.container(
                mode=mode,
                change=mounting(
                    {"destination": "/srv", "type": "tmpfs", "source": "tmpfs", "options": [size]}
                ),
            )
            for size in ("size=0", "size=1000g")
        )
    )

    assert [over.outcome for over in endless] == [(125, "mount.size")] * 2, endless
    asked, silent = result.facts.mount_at("/srv"), result.facts.mount_at("/tmp")  # noqa: S108
    assert "size=1024k" in asked.super_options, asked
    assert [option for option in silent.super_options if option.startswith("size=")] == ["size=65536k"], (
        silent
    )
    assert {"nosuid", "nodev"} <= asked.options & silent.options


@pytest.mark.clause("MOUNT-010")
def test_a_link_in_the_root_does_not_lead_a_mount_out(subject: Subject, mode: Mode) -> None:
    """A mount destination, /dev or /proc that the caller made a symbolic link lands nowhere outside."""
    jobs = [
        subject.container(
            mode=mode,
            change=mounting({"destination": "/srv", "type": "tmpfs", "source": "tmpfs"}),
            files={"outside/mark": {"content": "untouched"}},
            before=f'rmdir "$BUNDLE/rootfs/{name}"; ln -s "$BUNDLE/outside" "$BUNDLE/rootfs/{name}"',
            after='ls -A "$BUNDLE/outside"',
        )
        for name in ("srv", "dev", "proc")
    ]
    for result in subject.call(*jobs):
        assert result.exit_code == 125, result
        # Refused for the link, by the shim or by the library in its twin, and not for something else.
        assert result.code in {"mount.target", "twin.libcontainer"}, result
        assert result.after.split() == ["mark"]
        assert result.new_mounts == []


@pytest.mark.clause("NS-001")
def test_new_namespaces(subject: Subject, mode: Mode) -> None:
    """mnt, pid, ipc, uts and cgroup are new ones; user is new in mapped mode and the host's in direct mode."""
    seen = subject.see(mode).facts.table("namespaces")
    host = dict(
        line.split()
        for line in subject.root(
            'for n in user mnt pid ipc uts net cgroup; do echo "$n $(readlink /proc/self/ns/$n)"; done'
        ).stdout.splitlines()
    )

    assert {name: seen[name] for name in OWN_NAMESPACES if seen[name] == host[name]} == {}
    assert (seen["user"] != host["user"]) == (mode == "mapped"), (seen, host)


def isolated(config: Config) -> None:
    """Ask for a network of the container's own."""
    config["linux"]["namespaces"].append({"type": "network"})


@pytest.mark.clause("NS-005")
def test_a_new_network_has_a_way_to_itself(subject: Subject, mode: Mode) -> None:
    """Nobody in the container could bring lo up: a new one is."""
    result = subject.run("/observe", "loopback", mode=mode, change=isolated)

    assert (result.exit_code, result.stdout) == (0, "loopback 0\n"), result


@pytest.mark.clause("NS-006")
def test_in_a_new_network_everybody_may_ping(subject: Subject, mode: Mode) -> None:
    """No capability over a new network is to be had, so its settings allow what ping(8) needs."""
    result = subject.run("/observe", "ping", mode=mode, change=isolated)

    assert (result.exit_code, result.stdout) == (0, "ping 0\n"), result


@pytest.mark.clause("NS-002")
def test_the_network_is_the_hosts_or_a_new_one(subject: Subject, mode: Mode) -> None:
    """Without a network namespace in the config it is the host's; with one it holds loopback alone."""
    own = subject.run(mode=mode, change=isolated)
    host = subject.root("readlink /proc/self/ns/net").stdout.strip()

    assert subject.see(mode).facts.table("namespaces")["net"] == host
    assert own.facts.table("namespaces")["net"] != host, own
    assert [line.split(":")[0].strip() for line in own.facts.lines("net")[2:]] == ["lo"]
    assert own.facts.text("port-start") == "0"


@pytest.mark.clause("NS-003")
def test_no_fall_back_between_modes(subject: Subject) -> None:
    """A config with a user namespace gets one or is refused; one without never gets one."""
    caller = subject.caller()

    def add_map(config: Config) -> None:
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": caller.uid, "size": 1}]

    mapped, direct, mixed = subject.call(
        subject.container(mode="mapped"),
        subject.container(mode="direct"),
        subject.container(mode="direct", change=add_map),
    )

    assert mapped.facts.id_map("uid_map") != [(0, 0, 4294967295)], mapped
    assert direct.facts.id_map("uid_map") == [(0, 0, 4294967295)], direct
    assert mixed.outcome == (125, "map.mode"), mixed


@pytest.mark.clause("NS-004")
def test_a_new_session_keyring(subject: Subject, mode: Mode) -> None:
    """The payload can neither read nor search the caller's keys."""
    attempts = subject.see(mode).facts.attempts

    assert 0 not in (attempts["keyctl"], attempts["request_key"], attempts["add_key"]), attempts
