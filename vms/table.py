"""Take a TOML table apart, strictly: every key is asked for, or it is an error that names the place."""

from pathlib import Path

from vms.errors import ProfileError

_MISSING = object()


class Table:
    """A TOML table that is taken apart key by key; `end` refuses what nobody took."""

    def __init__(self, data: dict[str, object], path: Path, where: str) -> None:
        self._left = dict(data)
        self._path = path
        self.where = where

    def error(self, key: str, why: str) -> ProfileError:
        """Return the error that says where it is."""
        return ProfileError(self._path, f"{self.where}: {key}", why)

    def _take(self, key: str, default: object) -> object:
        if key in self._left:
            return self._left.pop(key)
        if default is _MISSING:
            raise self.error(key, "is missing")
        return default

    def has(self, key: str) -> bool:
        """Whether the key is there and not taken yet."""
        return key in self._left

    def text(self, key: str, default: object = _MISSING) -> str:
        """Take a string; a given one is never empty."""
        given = key in self._left
        value = self._take(key, default)
        if not isinstance(value, str) or (given and not value):
            raise self.error(key, f"must be a string with something in it, not {value!r}")
        return value

    def texts(self, key: str, default: object = _MISSING) -> tuple[str, ...]:
        """Take a list of strings."""
        value = self._take(key, default)
        if not isinstance(value, list | tuple) or not all(
            isinstance(entry, str) and entry for entry in value
        ):
            raise self.error(key, f"must be a list of strings, not {value!r}")
        return tuple(value)

    def number(self, key: str, *, least: int, default: object = _MISSING) -> int:
        """Take an integer that is at least `least`."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"must be a whole number, {least} or more, not {value!r}")
        return value

    def flag(self, key: str) -> bool:
        """Take a boolean; false if it is not there."""
        value = self._take(key, default=False)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def table(self, key: str) -> "Table":
        """Take a table."""
        value = self._take(key, _MISSING)
        if not isinstance(value, dict):
            raise self.error(key, "must be a table")
        return Table(value, self._path, key)

    def tables(self, key: str) -> list["Table"]:
        """Take a list of tables, at least one."""
        value = self._take(key, _MISSING)
        if not isinstance(value, list) or not value:
            raise self.error(key, "must be a list of tables with something in it")
        if not all(isinstance(entry, dict) for entry in value):
            raise self.error(key, "must be a list of tables")
        return [Table(entry, self._path, f"{key} {n + 1}") for n, entry in enumerate(value)]

    def end(self) -> None:
        """Refuse what is left."""
        if self._left:
            raise self.error(", ".join(sorted(self._left)), "unknown")
