"""ATK 18 to 39 and 53: what a runtime config may not ask for, and what it gets whatever it asks."""

from typing import Any, Final

import pytest

from conformance.hostile import USERS, Corner, Hostile, all_of, mounting, setting, without_namespace
from conformance.observation import Facts
from conformance.runtimes import NAMESPACES, Change, Config
from conformance.subject import PYTHON, Job
from conformance.test_identity import OVERFLOW
from conformance.test_mounts import MOUNTINFO

EPERM: Final = 1
RENAMED: Final = "31337"
# In mounts of its own: the caller's login name is a number, and that number has a range. Root's file has his uid.
RENAME: Final = f"""
cd {{bundle}}
sed "s/^$1:/{RENAMED}:/" /etc/passwd > passwd
echo {RENAMED}:800000:65536 > subids
printf 'version = 1\\nallow-user = %s\\n' "$2" > policy
mount --bind passwd /etc/passwd
mount --bind subids /etc/subuid
mount --bind subids /etc/subgid
mount --bind policy /etc/locald/policy
cd /
shift 2
exec "$@"
"""
# In a UTS namespace of its own: stderr is a setting of root's, which the kernel lets nobody else write, open or not.
SETTING: Final = """
import os, subprocess, sys
with open("/proc/sys/kernel/hostname", "w") as name:
    name.write("untouched")
sink = os.open("/proc/sys/kernel/hostname", os.O_WRONLY)
uid, gid = int(sys.argv[1]), int(sys.argv[2])
done = subprocess.run(sys.argv[3:], stderr=sink, user=uid, group=gid, extra_groups=[], timeout=60)
print(os.uname().nodename)
sys.exit(done.returncode)
"""
# CHOWN, DAC_OVERRIDE, KILL, SETGID and SETUID: what was asked for and is allowed.
MAPPED_CAPABILITIES: Final = 1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7
# In places of the caller's: hosts have them in different places, or as magic links. A cgroup that is there is not
# mounted anew: that would give the whole hierarchy other options.
SHOW_KERNEL: Final = """
mkdir "$BUNDLE/cgroup"
find_first() { findmnt --noheadings --first-only --output TARGET --types "$1"; }
if place=$(find_first cgroup2 || find_first cgroup); then
    mount --bind "$place" "$BUNDLE/cgroup"
else
    mount -t cgroup2 none "$BUNDLE/cgroup"
fi
touch "$BUNDLE/net"
mount --bind /proc/self/ns/net "$BUNDLE/net"
"""
ID_TABLES: Final = ("uidMappings", "gidMappings")
NODES: Final = {"null", "zero", "full", "random", "urandom", "tty"}


@pytest.mark.clause("ATK-018")
def test_hooks(hostile: Hostile) -> None:
    """A hook is a program that root would run: refused, whichever it is; no hooks at all are fine."""
    names = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
    hostile.refused(
        "config.hooks", *(setting("hooks", value={name: [{"path": "/bin/true"}]}) for name in names)
    )
    hostile.twins()


@pytest.mark.clause("ATK-019")
def test_devices(hostile: Hostile) -> None:
    """No device node and no right to one is given; the six fixed ones are there."""
    node = {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}
    allow = {"devices": [{"allow": True, "access": "rwm"}]}
    hostile.refused(
        "config.devices",
        setting("linux", "devices", value=[node]),
        setting("linux", "resources", value=allow),
    )
    for facts in hostile.twins().values():
        kinds = {line.split()[0]: int(line.split()[1], 8) for line in facts.lines("dev")}
        assert {name for name, mode in kinds.items() if mode & 0o170000 == 0o020000} == NODES, kinds
        assert not [name for name, mode in kinds.items() if mode & 0o170000 == 0o060000]


@pytest.mark.clause("ATK-020")
def test_file_system_types(hostile: Hostile) -> None:
    """Block devices, overlays, FUSE, cgroups, and proc or sysfs at a place of the caller's: refused; a tmpfs is not."""
    kinds = (
        "ext4",
        "overlay",
        "fuse",
        "cgroup",
        "cgroup2",
        "debugfs",
        "proc",
        "sysfs",
        "devpts",
        "mqueue",
        "nfs",
    )
    hostile.refused("mount.type", *(mounting("/srv", kind, kind) for kind in kinds))
    for facts in hostile.twins().values():
        assert facts.mount_at("/srv").kind == "tmpfs"


@pytest.mark.clause("ATK-021")
def test_bind_sources(hostile: Hostile) -> None:
    """What the caller cannot reach cannot be bound; what is his can."""
    hide = 'mkdir -p "$BUNDLE/private/inside"; chmod 700 "$BUNDLE/private"'
    sources = ("{bundle}/private/inside", "/root/.ssh", "/etc/shadow/x")
    hostile.refused(
        "mount.source", *(mounting("/srv", "bind", source, "rbind") for source in sources), before=hide
    )
    for facts in hostile.twins().values():
        assert facts.mount_at("/tmp").kind != "tmpfs"  # noqa: S108  # in the container


@pytest.mark.clause("ATK-022")
def test_hidden_under_a_mount(hostile: Hostile) -> None:
    """A bind that is not asked to be recursive takes the mounts below its source along all the same.

    As harmless as the bind itself: nosuid and nodev, which the mount outside is not.
    """
    hidden = "/srv/over/hidden"

    def job(corner: Corner, before: str, after: str) -> Job:
        change = mounting("/srv", "bind", "{bundle}/shared", "bind")
        files = {"shared/over/hidden": {"content": "seen"}}
        words = ("/observe", "show", hidden, MOUNTINFO)
        return hostile.job(corner, *words, change=change, files=files, before=before, after=after)

    cover, uncover = 'mount -t tmpfs none "$BUNDLE/shared/over"', 'umount "$BUNDLE/shared/over"'
    for result in hostile.call(*(job(corner, cover, uncover) for corner in hostile.corners())):
        assert result.facts.text(hidden) == "errno 2", result
        shown = Facts({"mountinfo": result.facts.lines(MOUNTINFO)})
        assert {"nosuid", "nodev"} <= shown.mount_at("/srv/over").options, result
    for result in hostile.call(*(job(corner, "", "") for corner in hostile.corners())):
        assert result.facts.text(hidden) == "seen", result


@pytest.mark.clause("ATK-023")
def test_mount_destinations(hostile: Hostile) -> None:
    """Nothing goes over the root, /proc, /sys or /dev, up by dots, or through a link."""
    places = ("/", "/proc/x", "/sys/kernel", "/dev/null", "/srv/../etc", "/..")
    hostile.refused("mount.destination", *(mounting(place, "tmpfs", "t") for place in places))
    hostile.refused(
        "mount.target",
        mounting("/link/x", "bind", "{bundle}/own", "rbind"),
        files={"own/mark": {}, "rootfs/srv/x/mark": {}},
        before='ln -s srv "$BUNDLE/rootfs/link"',
    )
    hostile.twins()


@pytest.mark.clause("ATK-024")
def test_the_hosts_proc(hostile: Hostile) -> None:
    """No proc without a new pid namespace, and no bind of a proc, a sysfs, a cgroup or a namespace's file."""
    hostile.refused("namespace.missing", without_namespace("pid"))
    sources = ("/proc", "/sys/kernel", "{bundle}/cgroup", "{bundle}/net")
    hostile.refused(
        "mount.source",
        *(mounting("/srv", "bind", source, "rbind") for source in sources),
        before=SHOW_KERNEL,
        after='umount "$BUNDLE/cgroup" "$BUNDLE/net"',
    )
    for facts in hostile.twins().values():
        assert facts.process["pid"] == "1"
        assert facts.mount_at("/proc").root == "/"


@pytest.mark.clause("ATK-025")
def test_mount_options(hostile: Hostile) -> None:
    """A tmpfs without an end and an option that gives something or is not known are refused."""
    hostile.refused(
        "mount.size", *(mounting("/srv", "tmpfs", "t", size) for size in ("size=0", "size=1000g"))
    )
    options = ("suid", "dev", "exec=", "uid=0", "mpol=bind", "x-new")
    hostile.refused("mount.option", *(mounting("/srv", "tmpfs", "t", option) for option in options))
    for facts in hostile.twins().values():
        assert "size=1024k" in facts.mount_at("/srv").super_options
        assert {"nosuid", "nodev"} <= facts.mount_at("/srv").options


FOREIGN: Final[tuple[tuple[tuple[str, ...], Any, str], ...]] = (
    (("linux", "sysctl"), {"kernel.core_pattern": "|/x"}, "config.sysctl"),
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
)


@pytest.mark.clause("ATK-026")
def test_foreign_features(hostile: Hostile) -> None:
    """Kernel settings, resource classes, schedulers and other systems' members are refused by name."""
    cases = hostile.turns(*FOREIGN)
    jobs = [
        hostile.job(corner, status=True, change=setting(*path, value=value))
        for corner, (path, value, _) in cases
    ]
    for (_, (_, _, code)), result in zip(cases, hostile.call(*jobs), strict=True):
        hostile.judge_refused(code, [result])
    hostile.twins()


@pytest.mark.clause("ATK-027")
def test_namespaces(hostile: Hostile) -> None:
    """No namespace of another process is joined, and the mount namespace is always a new one."""

    def joining(kind: str) -> Change:
        entry = {"type": kind, "path": f"/proc/1/ns/{NAMESPACES[kind]}"}

        def add(config: Config) -> None:
            config["linux"]["namespaces"].append(entry)

        # In the place of the new one that the config may ask for.
        return all_of((without_namespace(kind), add))

    hostile.refused("namespace.path", *map(joining, NAMESPACES))
    hostile.refused("namespace.missing", without_namespace("mount"))
    for facts in hostile.twins().values():
        # A new network is what the twin asks for.
        assert [line.split(":")[0].strip() for line in facts.lines("net")[2:]] == ["lo"]


@pytest.mark.clause("ATK-028")
def test_id_maps(hostile: Hostile) -> None:
    """No map to root, to another user, of too many ids or twice: the only ones, of uids and gids, are the caller's."""
    corners = hostile.corners("mapped")
    callers = {corner: hostile.subject.caller(corner.user) for corner in corners}
    hostile.refused(
        "map.entry",
        *(
            mapped_to(table, *entries)
            for table in ID_TABLES
            for entries in (((0, 1),), ((1, 65536),), ((4294967294, 1),), ((1, 1), (1, 1)))
        ),
        modes=("mapped",),
    )
    others = [
        hostile.job(corner, status=True, change=mapped_to(table, (number, 1)))
        for corner, other in zip(corners, reversed(callers.values()), strict=True)
        for table, number in zip(ID_TABLES, (other.uid, other.gid), strict=True)
    ]
    hostile.judge_refused("map.entry", hostile.call(*others))

    def renamed(corner: Corner) -> Job:
        caller = callers[corner]
        become = ["setpriv", f"--reuid={caller.uid}", f"--regid={caller.gid}", "--init-groups"]
        job = hostile.job(corner)
        words = ["unshare", "--mount", "/bin/sh", "-euc", RENAME, "sh", corner.user, str(caller.uid)]
        return job | {"argv": ["/usr/bin/env", *words, *become, *job["argv"]], "user": "root"}

    for corner, result in zip(corners, hostile.call(*map(renamed, corners)), strict=True):
        assert result.exit_code == 0, result
        # A name of digits would be taken for somebody's uid, and somebody's uid for a name.
        assert own_maps(result.facts) == [[(0, callers[corner].uid, 1)], [(0, callers[corner].gid, 1)]], (
            result
        )
    twins = hostile.twins()
    for corner in corners:
        maps = own_maps(twins[corner])
        assert [rows[0] for rows in maps] == [(0, callers[corner].uid, 1), (0, callers[corner].gid, 1)], maps
        assert {len(rows) > 1 for rows in maps} == {corner.user == "plain"}, maps
        assert all(outside > 0 for rows in maps for _, outside, _ in rows), maps


def mapped_to(table: str, *entries: tuple[int, int]) -> Change:
    """Return a change that maps container ids from 0 on to host ids, each by the first and how many."""
    value = [
        {"containerID": number, "hostID": host, "size": size} for number, (host, size) in enumerate(entries)
    ]
    return setting("linux", table, value=value)


def own_maps(facts: Facts) -> list[list[tuple[int, int, int]]]:
    """Return the maps of uids and of gids."""
    return [facts.id_map("uid_map"), facts.id_map("gid_map")]


@pytest.mark.clause("ATK-128")
def test_no_map_without_a_user_namespace(hostile: Hostile) -> None:
    """A map of uids or of gids is refused where there is nothing to map, and without one all ids are the host's."""
    hostile.refused("map.mode", *(mapped_to(table, (0, 1)) for table in ID_TABLES), modes=("direct",))
    twins = hostile.twins()
    for corner in hostile.corners("direct"):
        assert own_maps(twins[corner]) == [[(0, 0, 4294967295)]] * 2, twins[corner].sections


@pytest.mark.clause("ATK-029")
def test_cgroups(hostile: Hostile) -> None:
    """No cgroup of the config's choice, no key of its own, and no limit without a cgroup that is the caller's."""
    paths = ("/../../x", "/system.slice/x", "user.slice:x:y")
    hostile.refused("cgroup.path", *(setting("linux", "cgroupsPath", value=path) for path in paths))
    keys = (
        {"unified": {"memory.max": "1"}},
        {"unified": {"/../memory.max": "1"}},
        {"blockIO": {"weight": 10}},
    )
    hostile.refused("resources.unsupported", *(setting("linux", "resources", value=key) for key in keys))
    for facts in hostile.twins().values():
        assert [line for line in facts.lines("cgroup") if line.startswith("0::") and line != "0::/"] == [], (
            facts.lines("cgroup")
        )


@pytest.mark.clause("ATK-030")
def test_seccomp_of_the_config(hostile: Hostile) -> None:
    """A filter of the config's, with a listener or without, is refused: the shim's own is in force."""
    hostile.refused(
        "config.seccomp",
        setting("linux", "seccomp", value={"listenerPath": "/x", "defaultAction": "SCMP_ACT_NOTIFY"}),
        setting("linux", "seccomp", value={"defaultAction": "SCMP_ACT_ALLOW"}),
    )
    for facts in hostile.twins().values():
        assert facts.status["Seccomp"] == "2"


@pytest.mark.clause("ATK-031")
def test_labels(hostile: Hostile) -> None:
    """No label of an LSM is chosen: the payload keeps its caller's."""
    places = (("process", "apparmorProfile"), ("process", "selinuxLabel"), ("linux", "mountLabel"))
    hostile.refused("config.label", *(setting(*place, value="unconfined") for place in places))
    shell = ["/bin/sh", "-c", "cat /proc/self/attr/current 2>/dev/null || true"]
    own = hostile.call(*({"argv": shell, "user": user, "env": {}} for user in USERS))
    labels = {user: result.stdout.strip("\0\n") for user, result in zip(USERS, own, strict=True)}
    for corner, facts in hostile.twins().items():
        # Both are started by the agent. Where no LSM is in force there is no label to read, inside or outside.
        inside = facts.text("attr").strip("\0")
        assert ("" if inside.startswith("errno") else inside) == labels[corner.user], (corner, inside, labels)


@pytest.mark.clause("ATK-032")
def test_streams_and_terminals(hostile: Hostile) -> None:
    """Status goes to no standard stream or file, an error to no setting; nothing is typed into a terminal."""

    def numbered(corner: Corner, number: str) -> Job:
        job = hostile.job(corner)
        return job | {"argv": [*job["argv"], "--status-fd", number]}

    wrong = [numbered(corner, number) for corner, number in hostile.turns("0", "2", "-1", "3x", "9999")]
    for result in hostile.call(*wrong):
        assert result.exit_code in (2, 125), result
        assert result.stdout == ""
    files = [
        hostile.job(corner, status=True, status_kind="file", after='cat "$BUNDLE/status"')
        for corner in hostile.corners()
    ]
    for result in hostile.call(*files):
        assert (result.outcome, result.after) == ((125, "status-fd.type"), ""), result

    def told_to_a_setting(corner: Corner) -> Job:
        caller = hostile.subject.caller(corner.user)
        job = hostile.job(corner, change=setting("hooks", value={"prestart": [{"path": "/bin/true"}]}))
        words = ["unshare", "--uts", PYTHON, "-I", "-c", SETTING, str(caller.uid), str(caller.gid)]
        return job | {"argv": ["/usr/bin/env", *words, *job["argv"]], "user": "root"}

    for result in hostile.call(*map(told_to_a_setting, hostile.corners())):
        assert (result.exit_code, result.stdout, result.stderr) == (125, "untouched\n", ""), result
    for facts in hostile.greedy().values():
        assert (facts.attempts["tiocsti"], facts.attempts["tioclinux"]) == (EPERM, EPERM)


@pytest.mark.clause("ATK-033")
def test_scores_and_limits(hostile: Hostile) -> None:
    """Neither a lower OOM score nor a hard limit above the caller's; a lower limit is set."""
    hostile.refused("process.oom-score", setting("process", "oomScoreAdj", value=-1000))
    above = [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 << 40}]
    hostile.refused("process.rlimit", setting("process", "rlimits", value=above))
    for facts in hostile.twins().values():
        assert facts.limit("Max open files") == ("30", "30")


@pytest.mark.clause("ATK-034")
def test_capabilities_and_privileges(hostile: Hostile) -> None:
    """Of all capabilities asked for, the allowed ones in mapped mode and none in direct mode; no_new_privs always."""
    for corner, facts in hostile.greedy().items():
        allowed = MAPPED_CAPABILITIES if corner.mode == "mapped" else 0
        for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
            assert facts.capabilities(name) == allowed, (corner, facts.status)
        assert facts.process["no_new_privs"] == "1"
    for facts in hostile.twins().values():
        # Asking for none gives none.
        assert [facts.capabilities(name) for name in ("Prm", "Eff", "Bnd")] == [0, 0, 0], facts.status


@pytest.mark.clause("ATK-035")
def test_users_and_groups(hostile: Hostile) -> None:
    """In direct mode another user, and another group, are refused; a group that closes a file to him is not dropped."""
    hostile.refused(
        "user.unmappable", setting("process", "user", value={"uid": 0, "gid": 0}), modes=("direct",)
    )
    for groups in ([0], [4_000_000]):
        asked = setting("process", "user", "additionalGids", value=groups)
        hostile.refused("user.groups", asked, modes=("direct",))
    twins = hostile.twins()
    for corner in hostile.corners("direct"):
        facts, caller = twins[corner], hostile.subject.caller(corner.user)
        assert {facts.process[name] for name in ("uid", "euid")} == {str(caller.uid)}, facts.process
        assert {facts.process[name] for name in ("gid", "egid")} == {str(caller.gid)}, facts.process
        assert facts.status["Groups"].split() == hostile.subject.groups_of(corner.user), facts.status


@pytest.mark.clause("ATK-135")
def test_users_and_groups_of_a_map(hostile: Hostile) -> None:
    """An id that is not mapped is refused; without a grant of gids no group is had and none is dropped."""
    strangers = (
        setting("process", "user", value={"uid": 0, "gid": 4_000_000}),
        setting("process", "user", value={"uid": 4_000_000, "gid": 0}),
    )
    hostile.refused("user.unmapped", *strangers, modes=("mapped",))
    asked = setting("process", "user", "additionalGids", value=[4_000_000])
    corners, codes = hostile.corners("mapped"), {"plain": "user.unmapped", "bare": "user.groups"}
    results = hostile.call(*(hostile.job(corner, status=True, change=asked) for corner in corners))
    for corner, result in zip(corners, results, strict=True):
        hostile.judge_refused(codes[corner.user], [result])
    twins = hostile.twins()
    for corner in corners:
        facts, own = twins[corner], str(hostile.subject.caller(corner.user).gid)
        assert {facts.process[name] for name in ("uid", "euid", "gid", "egid")} == {"0"}, facts.process
        kept = ["0" if group == own else OVERFLOW for group in hostile.subject.groups_of(corner.user)]
        # Who was granted gids has the groups of the config, which are none.
        assert facts.status["Groups"].split() == ([] if corner.user == "plain" else kept), facts.status


@pytest.mark.clause("ATK-036")
def test_propagation(hostile: Hostile) -> None:
    """Whatever rootfsPropagation says, no mount is shared with the host's."""
    for facts in hostile.greedy().values():
        assert facts.mount_at("/srv").tags == ()
        assert [mount for mount in facts.mounts if mount.tags] == []


@pytest.mark.clause("ATK-037")
def test_masks(hostile: Hostile) -> None:
    """The config does not choose what is masked, and the constant masks are in place."""
    hostile.refused(
        "config.path-list",
        setting("linux", "maskedPaths", value=["/etc"]),
        setting("linux", "readonlyPaths", value=["/srv"]),
    )
    for facts in hostile.greedy().values():
        assert [line for line in facts.lines("masked") if line.endswith("OPEN")] == []
        assert "ro" in facts.mount_at("/proc/sys").options


@pytest.mark.clause("ATK-038")
def test_working_directory(hostile: Hostile) -> None:
    """No working directory through a descriptor, below /proc, or relative; and no descriptor that leads out."""
    places = ("/proc/self/fd/7", "/proc/1/root", "tmp", "/srv/..", "")
    hostile.refused("process.cwd", *(setting("process", "cwd", value=place) for place in places))
    for facts in hostile.twins().values():
        assert facts.process["cwd"] == "/srv"
        assert set(facts.table("fds")) == {"0", "1", "2"}


@pytest.mark.clause("ATK-039")
def test_nothing_is_looked_up_inside(hostile: Hostile) -> None:
    """Between the move into the container's root and its program, nothing is opened there."""
    for lines in (*hostile.traced().values(), *hostile.traced(init=True).values()):
        calls = [line.split(None, 1) for line in lines]
        (moved,) = (number for number, (_, call) in enumerate(calls) if call.startswith("pivot_root("))
        started = next(n for n, (_, call) in enumerate(calls) if call.startswith('execve("/observe"'))
        mover, payload = calls[moved][0], calls[started][0]
        # With an init stage that stays behind as PID 1, and opens what the shim itself put into /dev, for its streams.
        inside = [
            call for pid, call in calls[moved:] if pid == mover != payload and '"/dev/null"' not in call
        ]
        inside += [call for pid, call in calls[moved:started] if pid == payload]
        # Not the end of one, which strace tells by itself where another process had its turn between.
        assert [call for call in inside if call.startswith("open")] == []


@pytest.mark.clause("ATK-053")
def test_flags_of_a_source(hostile: Hostile) -> None:
    """A bind that asks for rw keeps ro and noexec of its source and of what lies in it; a plain one is writable."""
    lock = (
        'mount --bind "$BUNDLE/own" "$BUNDLE/own"; mount -t tmpfs -o ro,noexec none "$BUNDLE/own/over"; '
        'mount -o remount,bind,ro,noexec "$BUNDLE/own"'
    )
    jobs = [
        hostile.job(
            corner,
            change=mounting("/srv", "bind", "{bundle}/own", "rbind", "rw"),
            files={"own/over/mark": {}},
            before=lock,
            after='umount -R "$BUNDLE/own"',
        )
        for corner in hostile.corners()
    ]
    for result in hostile.call(*jobs):
        assert result.exit_code == 0, result
        for place in ("/srv", "/srv/over"):
            assert {"ro", "noexec", "nosuid", "nodev"} <= result.facts.mount_at(place).options, place
    for facts in hostile.twins().values():
        assert {"rw", "nosuid", "nodev"} <= facts.mount_at("/tmp").options  # noqa: S108  # in the container
