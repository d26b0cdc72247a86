"""Attacks 11 to 17, 40 to 44, 50, 52 and 54: the bundle, its config.json, and the names around it."""

import fcntl
import json
import os
import signal
import stat
from pathlib import Path

from tests.shim.cases import forced, refusal
from tests.shim.cases.entry import traced
from tests.shim.harness import Bundle, Call, Run

MIB = 1 << 20
F_SETLEASE = 1024


def bundle_through_an_ordinary_link(run: Run) -> None:
    """A link of the caller's leads where it says, and so do dots."""
    bundle = run.bundle("true")
    bundle.write()
    link = run.workshop.directory(run.caller) / "link"
    link.symlink_to(bundle.path)
    for name in (str(link), f"{bundle.path}/rootfs/.."):
        result = run.shim.call(["bundle", "run", "--bundle", name, "--id", "plain"], run.caller)
        assert result.status == 0, result


@forced("11", twin=bundle_through_an_ordinary_link)
def bundle_through_a_magic_link(run: Run) -> None:
    """Links below /proc lead where no path leads: they are not followed."""
    bundle = run.bundle()
    held = os.open(bundle.path, os.O_RDONLY | os.O_DIRECTORY)
    bundle.write()

    def finish() -> None:
        os.chdir(bundle.path)

    try:
        for name in ("/proc/self/cwd", "/proc/thread-self/cwd"):
            arguments = ["bundle", "run", "--bundle", name, "--id", "magic"]
            result = run.shim.call(arguments, run.caller, Call(finish=finish))
            assert (result.status, result.code) == (125, "bundle.open"), result
    finally:
        os.close(held)


def fifo(_run: Run, bundle: Bundle) -> None:
    """Nobody writes to it: whoever opens it to read waits for ever."""
    os.mkfifo(bundle.path / "config.json")
    os.chown(bundle.path / "config.json", bundle.caller.uid, bundle.caller.gid)


refusal("12-type", "bundle.config", fifo, label="fifo")


def config_has_a_second_name(run: Run) -> None:
    """A hard link is the file itself."""
    bundle = run.bundle("true")
    bundle.write()
    os.link(bundle.path / "config.json", bundle.path / "second.json")
    result = run.shim.call(run.shim.arguments(bundle, Call()), run.caller)
    assert result.status == 0, result


@forced(
    "12-type",
    twin=config_has_a_second_name,
    unbreakable="O_NOFOLLOW is in every open of config.json",
    label="link",
)
def config_is_a_link(run: Run) -> None:
    """A link in the place of config.json is not followed, not even to a good one."""
    bundle = run.bundle()
    bundle.write()
    os.rename(bundle.path / "config.json", bundle.path / "real.json")
    (bundle.path / "config.json").symlink_to("real.json")
    result = run.shim.call(run.shim.arguments(bundle, Call()), run.caller)
    assert (result.status, result.code) == (125, "bundle.config"), result


def padded(bundle: Bundle, size: int) -> None:
    """Make config.json that long, by blanks."""
    bundle.raw = json.dumps(bundle.config).encode().ljust(size)


refusal(
    "12-size",
    "bundle.config",
    lambda _run, bundle: padded(bundle, MIB + 1),
    lambda _run, bundle: padded(bundle, MIB),
)


def with_annotation(bundle: Bundle, text: str) -> None:
    """Put raw JSON where every value but a string is a mistake, and every string means nothing."""
    bundle.config["annotations"] = {"x": "@"}
    bundle.raw = json.dumps(bundle.config).encode().replace(b'"@"', text.encode())


def nested(bundle: Bundle, depth: int) -> None:
    """Nest a member that asks for nothing: `linux.seccomp` is an object that may be empty."""
    bundle.raw = json.dumps({**bundle.config, "hooks": "@"}).encode()
    bundle.raw = bundle.raw.replace(b'"@"', b"[" * depth + b"]" * depth)


@forced("13-depth")
def nesting_is_bounded(run: Run) -> None:
    """The parser says so before anybody looks at what is nested."""
    bundle = run.bundle()
    nested(bundle, 40)
    run.refused(bundle, "json.depth")


refusal(
    "13-duplicate",
    "json.duplicate",
    lambda _run, bundle: with_annotation(bundle, '"1", "x": "2"'),
    lambda _run, bundle: with_annotation(bundle, '"1", "y": "2"'),
)
refusal(
    "13-unknown",
    "config.unknown",
    lambda _run, bundle: bundle.config.update({"x-new": {"a": 1}}),
    lambda _run, bundle: bundle.config.update({"annotations": {"x-new": "1"}}),
)


def opens(run: Run, name: str) -> int:
    """Count how often the shim opens `name` in one run."""
    trace = traced(run, "openat,openat2,open,open_tree", "true").stderr
    return trace.count(f'"{name}"'.encode())


def a_config_counts_from_when_it_is_written(run: Run) -> None:
    """One that is changed between two runs counts for the second."""
    bundle = run.bundle("echo", "first")
    told = run.shim.run(bundle).lines()
    bundle.process["args"] = ["echo", "second"]
    assert (told, run.shim.run(bundle).lines()) == (["first"], ["second"])


@forced("14", twin=a_config_counts_from_when_it_is_written)
def config_is_read_once(run: Run) -> None:
    """What was judged is what is used: config.json is opened a single time."""
    assert opens(run, "config.json") == 1


def another_rootfs_may_take_its_place(run: Run) -> None:
    """Between two runs the name may come to lead elsewhere."""
    bundle, other = run.bundle("cat", "/mark"), run.bundle()
    for each, mark in ((bundle, "first\n"), (other, "second\n")):
        (each.rootfs / "mark").write_text(mark)
    told = run.shim.run(bundle).lines()
    os.rename(bundle.rootfs, bundle.path / "aside")
    os.rename(other.rootfs, bundle.rootfs)
    assert (told, run.shim.run(bundle).lines()) == (["first"], ["second"])


@forced("15", twin=another_rootfs_may_take_its_place)
def rootfs_is_opened_once(run: Run) -> None:
    """From then on the descriptor counts, whatever the name leads to."""
    assert opens(run, "rootfs") == 1


def missing_targets_are_made(run: Run) -> None:
    """An image without /dev, /proc and /sys gets them, as the caller's."""
    bundle = run.bundle("true")
    for name in ("dev", "proc", "sys"):
        (bundle.rootfs / name).rmdir()
    assert run.shim.run(bundle).status == 0
    for name in ("dev", "proc", "sys"):
        assert (bundle.rootfs / name).lstat().st_uid == run.caller.uid


@forced("16", twin=missing_targets_are_made)
def targets_are_resolved_inside(run: Run) -> None:
    """rootfs/dev is a link to a directory outside: nothing appears there, and the run is refused."""
    bundle = run.bundle()
    outside = run.workshop.directory(run.caller)
    (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / "dev").symlink_to(outside)
    run.refused(bundle, "mount.target")
    assert list(outside.iterdir()) == []


def words_are_ids(run: Run) -> None:
    """The shortest, the longest, and each kind of character."""
    for name in ("a", "9", "0a.b_c-d", "a-", "x" * 64):
        result = run("true", call=Call(id=name))
        assert result.status == 0, (name, result)


@forced("17", twin=words_are_ids)
def ids_are_plain_words(run: Run) -> None:
    """An id is a file name of the state directory, and can be nothing else."""
    for name in ("../x", "", "-a", ".a", "a/b", "A", "x" * 65, "x" * 300, "a\n", "\udcff"):
        run.refused(run.bundle(), "id.invalid", Call(id=name))


def the_state_directory_is_roots_and_stays(run: Run) -> None:
    """Made at a first call, used again at the next."""
    own = Path(f"/run/locald-shim/{run.caller.uid}")
    for _ in range(2):
        assert run("true").status == 0
        status = own.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode), os.listdir(own)) == (0, 0o700, [])


@forced("40-state", twin=the_state_directory_is_roots_and_stays)
def a_state_directory_of_somebody_else_is_not_used(run: Run) -> None:
    """Where the caller got hold of the name first, the shim does not write there."""
    own = Path(f"/run/locald-shim/{run.caller.uid}")
    if own.is_dir():
        for entry in own.iterdir():
            entry.unlink()
        own.rmdir()
    own.mkdir(0o700)
    os.chown(own, run.caller.uid, run.caller.gid)
    try:
        run.refused(run.bundle(), "state.failed")
    finally:
        for entry in own.iterdir():
            entry.unlink()
        own.rmdir()


def a_lease_for_reading_is_no_matter(run: Run) -> None:
    """Its holder only wants to hear of a writer."""
    bundle = run.bundle("true")
    bundle.write()
    descriptor = os.open(bundle.path / "config.json", os.O_RDONLY)
    try:
        fcntl.fcntl(descriptor, F_SETLEASE, fcntl.F_RDLCK)
        result = run.shim.call(run.shim.arguments(bundle, Call()), run.caller, Call(limit_s=3))
        assert result.status == 0, result
    finally:
        os.close(descriptor)


@forced("50", twin=a_lease_for_reading_is_no_matter)
def a_lease_blocks_nobody(run: Run) -> None:
    """A write lease on config.json makes an opener wait for the holder; the shim does not wait."""
    bundle = run.bundle()
    bundle.write()
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    descriptor = os.open(bundle.path / "config.json", os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, F_SETLEASE, fcntl.F_WRLCK)
        result = run.shim.call(run.shim.arguments(bundle, Call()), run.caller, Call(limit_s=3))
        assert (result.status, result.code) == (125, "bundle.config"), result
    finally:
        os.close(descriptor)


refusal(
    "52",
    "json.nul",
    lambda _run, bundle: with_annotation(bundle, '"a\\u0000b"'),
    lambda _run, bundle: with_annotation(bundle, '"a\\u0001b"'),
)
refusal(
    "54-values",
    "json.too-many",
    lambda _run, bundle: bundle.config.update(annotations={str(n): "" for n in range(50_001)}),
    lambda _run, bundle: bundle.config.update(annotations={str(n): "" for n in range(1_000)}),
)


def arguments(bundle: Bundle, count: int) -> None:
    """Run `true` with many arguments."""
    bundle.process["args"] = ["true"] + ["x"] * count


refusal(
    "54-counts",
    "config.too-many",
    lambda _run, bundle: arguments(bundle, 4096),
    lambda _run, bundle: arguments(bundle, 4000),
)


@forced("54-memory")
def memory_is_bounded(run: Run) -> None:
    """The largest config that is read at all does not make the shim large."""
    bundle = run.bundle("sh", "-c", "echo ready; exec sleep 60")
    bundle.config["annotations"] = {"x" * 9 + str(number): "y" * 30 for number in range(15_000)}
    with run.shim.running(bundle) as running:
        assert int(running.status("VmHWM").split()[0]) < 32 * 1024
