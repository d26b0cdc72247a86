"""A monotonic point in time that every wait of this package ends at.

The Python standard library only: everything else here imports it.
"""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock; pass the same one to every step of one piece of work."""

    end_s: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that are left; 0.0 once it has passed, never negative."""
        return max(0.0, self.end_s - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left_s <= 0.0

    def at_most(self, seconds: float) -> "Deadline":
        """Return this deadline, or the one `seconds` from now if that comes first."""
        return Deadline(min(self.end_s, time.monotonic() + seconds))
