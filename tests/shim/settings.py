"""The ways to run a container that faults and exchanges are tried in, and what its payload says of itself."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.shim.harness import MODES, Bundle, Caller, Mode, Workshop

INIT = {"dev.locald.init": "true"}
_ids = itertools.count()
# What differs between two runs of the same, or tells how busy the machine was.
RESTLESS = re.compile(
    r"/proc/(self|1)/status: (State|TracerPid|Vm\w+|Rss\w+|SigQ|SigPnd|ShdPnd|HugetlbPages|FDSize|Ns\w+|NS\w+|"
    r"Tgid|Pid|PPid|\w*voluntary_ctxt_switches):"
)
NUMBER_OF_A_MOUNT = re.compile(r"(mountinfo: )\d+ \d+ \d+:\d+ ")
NUMBER_OF_A_SPACE = re.compile(r"(-> \w+:\[)\d+\]")
NUMBER_OF_A_PIPE = re.compile(r"((pipe|socket):\[)\d+\]")


@dataclass(frozen=True)
class Setting:
    """One way to run a container."""

    mode: Mode
    user: str = "locald-a"
    init: bool = False
    terminal: bool = False
    network: bool = False  # a network namespace of its own
    readonly: bool = False

    def __str__(self) -> str:
        """As a test's name has it."""
        flags = [name for name in ("init", "terminal", "network", "readonly") if getattr(self, name)]
        return "-".join([self.mode, self.user, *flags])

    def bundle(self, workshop: Workshop, caller: Caller, *args: str) -> Bundle:
        """Return a bundle of this kind with a bind and a tmpfs, its config written."""
        bundle = workshop.bundle(self.mode, caller, args)
        bundle.process["terminal"] = self.terminal
        bundle.config["root"]["readonly"] = self.readonly
        if self.init:
            bundle.config["annotations"] = INIT
        if self.network:
            bundle.linux["namespaces"].append({"type": "network"})
        bundle.config["hostname"] = "box"
        source = bundle.mkdir("source")
        (source / "mark").write_text("of the source\n")
        os.chown(source / "mark", caller.uid, caller.gid)
        bundle.bind(source, "/srv/made")
        bundle.config["mounts"].append({"destination": "/run", "type": "tmpfs", "source": "tmpfs"})
        bundle.write()
        return bundle

    def arguments(self, bundle: Bundle) -> list[str]:
        """Return a command line with an id that was not used before; the target of the bind is missing again."""
        for name in ("srv/made", "srv"):
            with contextlib.suppress(FileNotFoundError):
                (bundle.rootfs / name).rmdir()
        return ["bundle", "run", "--bundle", str(bundle.path), "--id", f"{self.mode}-{next(_ids)}"]


FEW = tuple(
    Setting(mode, init=rich, terminal=rich, network=rich, readonly=rich)
    for mode in MODES
    for rich in (False, True)
)
ALL = tuple(
    Setting(mode, user, **flags)
    for mode in MODES
    for user in ("locald-a", "locald-b")
    for flags in (
        {},
        {"init": True},
        {"terminal": True},
        {"network": True},
        {"readonly": True},
        {"init": True, "terminal": True, "network": True, "readonly": True},
    )
)


def report_lines(text: str) -> Iterator[str]:
    """Give what `probe report` printed without what differs from run to run.

    The terminal ends its lines with CR LF.
    """
    for line in text.replace("\r\n", "\n").splitlines():
        if RESTLESS.match(line) or ("net/dev:" in line and "lo:" not in line):
            continue
        shown = NUMBER_OF_A_MOUNT.sub(r"\1", line)
        if "net/dev:" in line:
            shown = line.split("lo:")[0] + "lo"
        yield NUMBER_OF_A_PIPE.sub(r"\1N]", NUMBER_OF_A_SPACE.sub(r"\1N]", shown))
