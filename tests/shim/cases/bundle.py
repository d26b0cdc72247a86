"""Attacks 11 to 17, 40 to 44, 50, 52 and 54: the bundle, its config.json, and the names around it."""

import fcntl
import json
import os
import signal
from pathlib import Path

from tests.shim.cases import forced, refusal
from tests.shim.cases.entry import traced
from tests.shim.harness import Bundle, Call, Run

MIB = 1 << 20
F_SETLEASE = 1024


@forced("11")
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


@forced("12-type", unbreakable="O_NOFOLLOW is in every open of config.json", label="link")
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


@forced("14")
def config_is_read_once(run: Run) -> None:
    """What was judged is what is used: config.json is opened a single time."""
    assert opens(run, "config.json") == 1


@forced("15")
def rootfs_is_opened_once(run: Run) -> None:
    """From then on the descriptor counts, whatever the name leads to."""
    assert opens(run, "rootfs") == 1


@forced("16")
def targets_are_resolved_inside(run: Run) -> None:
    """rootfs/dev is a link to a directory outside: nothing appears there, and the run is refused."""
    bundle = run.bundle()
    outside = run.workshop.directory(run.caller)
    (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / "dev").symlink_to(outside)
    run.refused(bundle, "mount.target")
    assert list(outside.iterdir()) == []


@forced("17")
def ids_are_plain_words(run: Run) -> None:
    """An id is a file name of the state directory, and can be nothing else."""
    for name in ("../x", "", "-a", ".a", "a/b", "A", "x" * 65, "x" * 300, "a\n", "\udcff"):
        run.refused(run.bundle(), "id.invalid", Call(id=name))


@forced("40-state")
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


@forced("50")
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
