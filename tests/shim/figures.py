"""What the closing summary of a run counts. Whoever does one of these things adds to it."""

from collections import Counter

COUNT: Counter[str] = Counter()
