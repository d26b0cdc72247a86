"""The installed setuid shim, called as two ordinary users. Needs root: see conftest.py."""
