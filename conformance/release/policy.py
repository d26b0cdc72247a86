"""What a release asks of a report: the file beside this module."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POLICY: Final = Path(__file__).with_name("policy.toml")
# Neither a report nor a signature says anything of a kernel of next year.
MAX_DAYS: Final = 366


class PolicyError(Exception):
    """The policy of releases is malformed."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a report must show."""

    profiles: tuple[str, ...]
    max_age_days: int


def read_policy(path: Path = POLICY) -> Policy:
    """Return the policy in a file.

    Raises:
        PolicyError: It cannot be read, or has not exactly the keys of `Policy` with their types.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: {error}") from error
    profiles, days = document.get("profiles"), document.get("max_age_days")
    if (
        set(document) != {"profiles", "max_age_days"}
        or not (isinstance(profiles, list) and profiles and all(isinstance(name, str) for name in profiles))
        or type(days) is not int
        or not 1 <= days <= MAX_DAYS
    ):
        raise PolicyError(f"{path}: needs profiles (names) and max_age_days (1 to {MAX_DAYS})")
    return Policy(tuple(profiles), days)
