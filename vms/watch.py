"""See what was changed while nobody looked: a watcher in the guest, from its boot to its end.

Facts are proven before the clauses and after them. A sysctl that is set and put back in between would be seen by
neither, and what was judged meanwhile was judged on another host.
"""

from collections.abc import Sequence
from pathlib import Path

from vms.deadline import Deadline
from vms.guest import Guest
from vms.profile import Fact

PROGRAM = Path(__file__).parent / "box_files/watcher.py"
PLACE = "/usr/local/sbin/vms-watcher.py"
LOG = "/run/vms-watch"
UNIT = "vms-watch"
START_LIMIT_S = 60.0

UNTOUCHED = Fact(
    id="untouched",
    says="nobody wrote or changed what the profile rests on since the machine is up",
    user="root",
    command=("/bin/sh", "-euc", f"systemctl is-active {UNIT}; cat {LOG}"),
    stdout=r"\Aactive\nwatching\Z",
)


def start(guest: Guest, watched: Sequence[str] | None = None) -> None:
    """Have files and mount points watched, by default the profile's; nothing is started if there are none.

    Raises:
        CommandFailed, NotInTime: The watcher did not start.
    """
    if watched is None:
        watched = guest.profile.watched
    if not watched:
        return
    guest.push(PROGRAM, PLACE)
    # What an earlier one wrote would look as if this one watched already.
    guest.succeed(["rm", "-f", LOG], user="root")
    # A service: it belongs to no login, and no login's restriction is on it.
    run = ["systemd-run", "--quiet", f"--unit={UNIT}", "/usr/bin/python3", "-I", PLACE, LOG, *watched]
    guest.succeed(run, user="root", deadline=Deadline.after(START_LIMIT_S))
    guest.wait_until(["grep", "-qx", "watching", LOG], user="root", deadline=Deadline.after(START_LIMIT_S))
