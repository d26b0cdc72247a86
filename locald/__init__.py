"""locald: run OCI images as an ordinary user through a small setuid shim.

Imports nothing: every start of `locald` pays for what is imported here.
"""

__version__ = "0.1.0"
