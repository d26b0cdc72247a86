"""Attacks 21 to 24, 36, 37, 47 and 53: what is mounted, from where, to where, and what must stay hidden."""

import os
from pathlib import Path

from tests.shim.cases import forced
from tests.shim.harness import Call, Run
from tests.shim.kernel import (
    CLONE_NEWNET,
    MS_BIND,
    MS_NOEXEC,
    MS_RDONLY,
    MS_REMOUNT,
    MS_UNBINDABLE,
    mount,
    private_mounts,
    rename_interface,
    unshare,
)


def what_the_caller_reaches_can_be_bound(run: Run) -> None:
    """A directory that only he may enter."""
    tree = run.workshop.directory(run.caller)
    (tree / "file").write_text("his\n")
    tree.chmod(0o700)
    bundle = run.bundle("cat", "/srv/file")
    bundle.bind(tree, "/srv")
    assert run.shim.run(bundle).lines() == ["his"]


@forced("21", twin=what_the_caller_reaches_can_be_bound)
def bind_sources_are_the_callers(run: Run) -> None:
    """What the caller cannot reach cannot be bound."""
    secret = run.workshop.root / f"secret-{os.getpid()}"
    secret.mkdir(mode=0o700, exist_ok=True)
    (secret / "inside").mkdir(exist_ok=True)
    bundle = run.bundle("true")
    bundle.bind(secret / "inside", "/srv")
    run.refused(bundle, "mount.source")


def make_covered(run: Run) -> Path:
    """Return a tree in which something will be mounted over a file."""
    tree = run.workshop.directory(run.caller)
    (tree / "covered").mkdir()
    (tree / "covered" / "hidden").write_text("x")
    return tree


def what_is_mounted_below_is_shown(run: Run) -> None:
    """What nothing hides is there, and so is what the mount that hides it holds."""
    tree = make_covered(run)

    def prepare() -> None:
        private_mounts()
        mount("tmpfs", tree / "covered", "tmpfs")
        (tree / "covered" / "shown").write_text("x")

    for call, names in ((Call(), ["hidden"]), (Call(prepare=prepare), ["shown"])):
        bundle = run.bundle("ls", "/srv/covered")
        bundle.bind(tree, "/srv")
        assert run.shim.run(bundle, call).lines() == names


@forced("22", twin=what_is_mounted_below_is_shown)
def what_a_mount_hides_stays_hidden(run: Run) -> None:
    """A bind shows the mounts below its source too."""
    tree = make_covered(run)

    def prepare() -> None:
        private_mounts()
        mount("tmpfs", tree / "covered", "tmpfs")

    bundle = run.bundle("ls", "/srv/covered")
    bundle.bind(tree, "/srv")
    assert run.shim.run(bundle, Call(prepare=prepare)).lines() == []


def mounting_unbindable(place: Path, *inside: str) -> Call:
    """Return a call from a mount namespace in which no bind can hold `place`, a mount with the directories `inside`."""

    def prepare() -> None:
        private_mounts()
        mount("tmpfs", place, "tmpfs")
        mount("none", place, "", MS_UNBINDABLE)
        for name in inside:
            (place / name).mkdir()

    return Call(prepare=prepare)


def an_unbindable_mount_beside_is_no_matter(run: Run) -> None:
    """Its name begins like that of what is bound, and it lies elsewhere."""
    tree = run.workshop.directory(run.caller)
    beside = tree.with_name(f"{tree.name}-beside")
    beside.mkdir()

    bundle = run.bundle()
    bundle.bind(tree, "/srv")
    assert run.shim.run(bundle, mounting_unbindable(beside)).status == 0


@forced("22", twin=an_unbindable_mount_beside_is_no_matter, label="unbindable")
def an_unbindable_mount_is_not_left_out(run: Run) -> None:
    """A recursive bind leaves it out, and would show what it hides: refused, by its code."""
    tree = run.workshop.directory(run.caller)
    hidden = tree / "below"
    hidden.mkdir()

    bundle = run.bundle()
    bundle.bind(tree, "/srv")
    run.refused(bundle, "mount.unbindable", mounting_unbindable(hidden))


def missing_destinations_are_made(run: Run) -> None:
    """Without a link on the way what is missing is made, as the caller's, and nothing else."""
    bundle = run.bundle("cat", "/srv/x/y/mark")
    (bundle.mkdir("source") / "mark").write_text("of the source\n")
    (bundle.rootfs / "link").symlink_to("/srv")
    bundle.bind(bundle.path / "source", "/srv/x/y")
    assert run.shim.run(bundle).lines() == ["of the source"]
    for name in ("x", "x/y"):
        assert (bundle.rootfs / "srv" / name).stat().st_uid == run.caller.uid


@forced("23-resolve", twin=missing_destinations_are_made)
def destinations_follow_no_link(run: Run) -> None:
    """A link on the way to a destination is refused, even one that stays inside."""
    bundle = run.bundle("true")
    (bundle.rootfs / "link").symlink_to("/srv")
    (bundle.rootfs / "srv" / "x").mkdir()
    bundle.bind(bundle.mkdir("source"), "/link/x")
    run.refused(bundle, "mount.target")


def other_file_systems_can_be_bound(run: Run) -> None:
    """A tmpfs of the host's with the caller's files in it, a single file too."""
    tree = run.workshop.directory(run.caller)

    def prepare() -> None:
        private_mounts()
        mount("tmpfs", tree, "tmpfs")
        (tree / "file").write_text("in memory\n")

    for source, destination in ((tree, "/srv"), (tree / "file", "/srv/file")):
        bundle = run.bundle("cat", "/srv/file")
        bundle.bind(source, destination)
        assert run.shim.run(bundle, Call(prepare=prepare)).lines() == ["in memory"]


@forced("24-fstype", twin=other_file_systems_can_be_bound)
def kernel_file_systems_cannot_be_bound(run: Run) -> None:
    """The host's proc, sysfs and cgroup would show and steer more than the container's."""
    for source in ("/proc", "/sys/kernel", "/sys/fs/cgroup/unified", "/dev/pts"):
        if Path(source).exists():
            bundle = run.bundle("true")
            bundle.bind(Path(source), "/srv")
            run.refused(bundle, "mount.source")


def what_is_bound_is_seen_inside(run: Run) -> None:
    """With the propagation that the spec's examples ask for, and none of it outside."""
    for propagation in ("private", "rprivate", "slave", "rslave"):
        bundle = run.bundle("cat", "/srv/mark")
        bundle.linux["rootfsPropagation"] = propagation
        source = bundle.mkdir("source")
        (source / "mark").write_text("here\n")
        bundle.bind(source, "/srv")
        assert run.shim.run(bundle).lines() == ["here"], propagation


@forced("36", twin=what_is_bound_is_seen_inside)
def propagation_is_private(run: Run) -> None:
    """Nothing mounted inside appears outside, whatever rootfsPropagation says."""
    bundle = run.bundle("cat", "/proc/self/mountinfo")
    bundle.linux["rootfsPropagation"] = "shared"
    bundle.bind(bundle.mkdir("source"), "/srv")
    text = run.shim.run(bundle).text
    assert text
    assert not {"shared:", "master:", "propagate_from:"} & {word.split(":")[0] + ":" for word in text.split()}


def what_programs_need_is_there(run: Run) -> None:
    """Its own process, the memory, a name of its own; /dev/null takes and gives what it should."""
    script = (
        "grep -c ^MemTotal: /proc/meminfo; cat /proc/$$/comm /proc/sys/kernel/hostname; echo x >/dev/null"
    )
    bundle = run.bundle("sh", "-c", f"{script}; wc -c </dev/null")
    bundle.config["hostname"] = "box"
    assert run.shim.run(bundle).lines() == ["1", "sh", "box", "0"]


@forced("37-masks", twin=what_programs_need_is_there)
def kernel_paths_are_masked(run: Run) -> None:
    """What tells or changes the kernel is masked or read-only, though the spec names none of it."""
    script = "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; echo 1 >/proc/sysrq-trigger"
    result = run("sh", "-c", f"{script} 2>/dev/null && echo written; true")
    assert result.lines() == ["0"]
    points = {line.split()[4]: line.split()[5] for line in run("cat", "/proc/self/mountinfo").lines()}
    assert points["/proc/sys"].split(",")[0] == "ro"
    assert "/proc/keys" in points


def what_the_host_shows_is_shown(run: Run) -> None:
    """Nothing lies over it there."""
    assert run("cat", "/proc/version").text == Path("/proc/version").read_text()
    assert run("ls", "/sys/kernel/mm").lines() != []


@forced("47", twin=what_the_host_shows_is_shown)
def over_mounts_are_reproduced(run: Run) -> None:
    """What the host hides below /proc or /sys is hidden inside too."""

    def prepare() -> None:
        private_mounts()
        mount("/dev/null", "/proc/version", "", MS_BIND)
        mount("tmpfs", "/sys/kernel/mm", "tmpfs")

    result = run("sh", "-c", "wc -c </proc/version; ls /sys/kernel/mm | wc -l", call=Call(prepare=prepare))
    assert result.lines() == ["0", "0"]


@forced("47", label="bytes")
def over_mounts_with_any_name_are_reproduced(run: Run) -> None:
    """A name that is not UTF-8 is one too: that of a network interface, below /proc/sys."""

    def prepare() -> None:
        unshare(CLONE_NEWNET)
        rename_interface(b"lo", b"\xffx")
        private_mounts()
        mount("/dev/null", os.fsdecode(b"/proc/sys/net/ipv4/conf/\xffx/forwarding"), "", MS_BIND)

    result = run(
        "sh", "-c", "cat /proc/sys/net/ipv4/conf/*x/forwarding; echo read", call=Call(prepare=prepare)
    )
    assert result.lines() == ["read"]


def options_can_take_away(run: Run) -> None:
    """A source that may be written to is written to, and with `ro` and `noexec` in the options is not."""
    script = "touch /srv/x 2>/dev/null && echo written; grep ' /srv ' /proc/self/mountinfo"
    for options, written, flags in (((), True, set()), (("ro", "noexec"), False, {"ro", "noexec"})):
        bundle = run.bundle("sh", "-c", script)
        bundle.bind(bundle.mkdir("source"), "/srv", *options)
        *told, line = run.shim.run(bundle).lines()
        assert (told == ["written"]) == written
        assert set(line.split()[5].split(",")) & {"ro", "noexec"} == flags, line


@forced("53", twin=options_can_take_away)
def flags_of_the_source_stay(run: Run) -> None:
    """`rw` in the options of a bind does not lift the host's read-only, nor its noexec."""
    tree = run.workshop.directory(run.caller)

    def prepare() -> None:
        private_mounts()
        mount(str(tree), tree, "", MS_BIND)
        mount("none", tree, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC)

    bundle = run.bundle(
        "sh", "-c", "touch /srv/x 2>/dev/null && echo written; grep ' /srv ' /proc/self/mountinfo"
    )
    bundle.bind(tree, "/srv", "rw")
    lines = run.shim.run(bundle, Call(prepare=prepare)).lines()
    assert len(lines) == 1, lines
    line = lines[0]
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(line.split()[5].split(","))
