"""What --memory, --cpus and their like ask for, as `linux.resources` of the runtime config. Pure.

Imports errors only, and is loaded by a run that limits something. Words mean what they mean to podman (podman-run(1),
podman 4 and 5). Where they go further than the shim, the shim refuses by name.
"""

import re
from typing import Any

from locald.errors import UsageError

UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
PERIOD_US = 100_000
# The kernel's least quota is 1 ms; of the period above that is a hundredth of a processor.
LEAST_CPUS = 0.01
MOST_CPUS = 8192
LEAST_SHARES, MOST_SHARES = 2, 262_144
MOST_PIDS = 4_194_304

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>[kmgtp]?)i?b?", re.IGNORECASE | re.ASCII)
_WEIGHT = re.compile(r"\d{1,9}", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}", re.ASCII)


def make_resources(asked: dict[str, str]) -> dict[str, Any]:
    """Return `linux.resources` for the options in `asked` (names of cli/options.py); empty if nothing is limited.

    Raises:
        UsageError: A value that is none, or values that do not go together (exit 2).
    """
    resources = {
        "memory": make_memory(asked.get("memory"), asked.get("memory_swap")),
        "pids": make_pids(asked.get("pids_limit")),
        "cpu": make_cpu(asked.get("cpus"), asked.get("cpu_shares")),
    }
    return {name: limits for name, limits in resources.items() if limits}


def make_memory(memory: str | None, swap: str | None) -> dict[str, int]:
    """Memory alone may swap as much again, as podman has it: `swap` is both together."""
    limit = 0 if memory is None else read_size("--memory", memory)
    if swap is None or swap == "-1":
        both = -1 if swap else 2 * limit
    else:
        both = read_size("--memory-swap", swap)
        if both and not limit:
            raise UsageError(
                "--memory-swap is memory and swap together, so it needs --memory.",
                hint="Give both, such as --memory 512m --memory-swap 1g.",
            )
        if both and both < limit:
            raise UsageError(
                f"--memory-swap {swap} is less than --memory {memory}.",
                hint="It is memory and swap together: give at least as much, or leave it out.",
            )
        # 0 is "not given", as podman has it.
        both = both or 2 * limit
    if not limit:
        return {}
    return {"limit": limit} if both == -1 else {"limit": limit, "swap": both}


def read_size(option: str, text: str) -> int:
    """Return the bytes of `512m`, `1.5g`, `100`; 0 is no limit.

    Raises:
        UsageError: It is no such number.
    """
    found = _SIZE.fullmatch(text)
    size = float(found["number"]) * (1 << UNITS[found["unit"].lower()]) if found else -1.0
    if not 0 <= size < 1 << 62:
        raise UsageError(
            f"{option} {text!r} is no amount of memory.",
            hint="Write a number with a unit (b, k, m, g): 512m, 1.5g.",
        )
    return int(size)


def make_pids(limit: str | None) -> dict[str, int]:
    """0 and -1 are no limit."""
    if limit is None:
        return {}
    try:
        number = int(limit) if limit.isascii() and "_" not in limit else -2
    except ValueError:
        number = -2
    if not -1 <= number <= MOST_PIDS:
        raise UsageError(
            f"--pids-limit {limit!r} is no number of processes.",
            hint=f"Write 1 to {MOST_PIDS}, or -1 for no limit.",
        )
    return {"limit": number} if number > 0 else {}


def make_cpu(cpus: str | None, shares: str | None) -> dict[str, int]:
    """--cpus is time in each tenth of a second, --cpu-shares a weight against others; 0 is none of either."""
    limits = {}
    if cpus is not None:
        number = float(cpus) if _NUMBER.fullmatch(cpus) else -1.0
        if number != 0 and not LEAST_CPUS <= number <= MOST_CPUS:
            raise UsageError(
                f"--cpus {cpus!r} is no number of processors.",
                hint=f"Write a number of {LEAST_CPUS} or more: 0.5, 2.",
            )
        if number:
            limits = {"quota": round(number * PERIOD_US), "period": PERIOD_US}
    if shares is not None:
        weight = int(shares) if _WEIGHT.fullmatch(shares) else -1
        if weight != 0 and not LEAST_SHARES <= weight <= MOST_SHARES:
            raise UsageError(
                f"--cpu-shares {shares!r} is no weight.",
                hint=f"Write {LEAST_SHARES} to {MOST_SHARES}; 1024 is what every container has without.",
            )
        if weight:
            limits["shares"] = weight
    return limits
