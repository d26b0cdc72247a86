"""Runs in the guest as root: install wheels into the environment of the interpreter that runs it.

The library `installer` lies beside it there. pip does the same by way of a resolver, of which an emulated guest has
nothing but the wait.
"""

import sys
import sysconfig
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile


def main() -> None:
    """Install each wheel that is named, compiled, with its RECORD."""
    destination = SchemeDictionaryDestination(
        sysconfig.get_paths(),
        interpreter=sys.executable,
        script_kind="posix",
        bytecode_optimization_levels=[0],
    )
    for path in sys.argv[1:]:
        with WheelFile.open(Path(path)) as wheel:
            install(wheel, destination, additional_metadata={"INSTALLER": b"installer\n"})


if __name__ == "__main__":
    main()
