"""A point in monotonic time by which something must be over.

Imports nothing of locald. A deadline is handed down whole, so that retries do not each get the full time.
"""

import time


class Deadline:
    """Made once with `after`, then asked how much is left."""

    def __init__(self, at_s: float) -> None:
        """Keep `at_s`, in seconds of the monotonic clock."""
        self.at_s = at_s

    @classmethod
    def after(cls, *, seconds: float) -> "Deadline":
        """Return the point that lies `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def left_s(self) -> float:
        """Return the seconds that are left, never less than 0."""
        return max(0.0, self.at_s - time.monotonic())
