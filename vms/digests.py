"""The sha256 by which boxes, packages and kept machines are recorded, and told from what has changed since.

Imports nothing of this package.
"""

import hashlib
from pathlib import Path


def read_digest(path: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal: 0.1 to 0.2 s for 100 MB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
