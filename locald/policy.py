"""The text of /etc/locald/policy: read as strictly as the shim reads it, and edited so that an administrator's stays.

Pure, and imports nothing of locald. docs/manual/reference/policy.md says what the file may hold; its examples are
tests of this module and of the shim's own parser, which alone decides.
"""

import ipaddress
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 64 * 1024
MAX_LIST = 64
HEADER = (
    "# Who may run containers and bind ports through locald-shim: docs/manual/reference/policy.md has every key.\n"
    "# `locald admin setup` adds users and groups and raises min-shim; it changes nothing else in this file.\n"
    "version = 1\n"
)
# What both parsers take for blank around a word.
BLANK = " \t\r\f"
NO_ID = 2**32 - 1

MinShim = Literal["raise", "keep", "lower"]
Version = tuple[int, int, int]


class PolicyFault(Exception):
    """What is wrong with a policy, in the shim's words."""


class TooNew(Exception):
    """The policy asks for a newer shim than the one that is there."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class Line(NamedTuple):
    """One `key = value`."""

    number: int  # from 0
    key: str
    value: str


class Account(NamedTuple):
    """A user or a group of this host."""

    id: int
    name: str


def parse(text: str) -> list[Line]:
    """Return the lines of a policy that is understood whole; nothing at all is one too, of nobody.

    Raises:
        PolicyFault: With the number of the line.
    """
    if len(encode(text)) > MAX_BYTES:
        raise PolicyFault(f"it has more than {MAX_BYTES} bytes")
    lines: list[Line] = []
    for index, raw in enumerate(text.split("\n")):
        content = raw.partition("#")[0].strip(BLANK)
        if not content:
            continue
        key, equals, value = (part.strip(BLANK) for part in content.partition("="))
        fault = _judge(key, value) if equals else "it is not `key = value`"
        if not fault and key not in REPEATABLE and any(line.key == key for line in lines):
            fault = "the key is given twice"
        if fault:
            raise PolicyFault(f"line {index + 1}: {fault}")
        lines.append(Line(index, key, value))
    if text and not any(line.key == "version" for line in lines):
        raise PolicyFault("`version = 1` is missing")
    return lines


def add_accounts(text: str, users: list[Account], groups: list[Account]) -> str:
    """Return the policy with a line for each that it does not name yet, by number or by name.

    Raises:
        PolicyFault: See `parse`.
    """
    lines = parse(text)
    wanted = [("allow-user", user) for user in users] + [("allow-group", group) for group in groups]
    new: list[str] = []
    for key, account in wanted:
        known = {line.value for line in lines if line.key == key}
        # A comment is the one place where a name of any kind may stand.
        line = f"{key} = {account.id}  # {account.name}\n"
        if not known & {str(account.id), account.name} and line not in new:
            new.append(line)
    return _append(text, new)


def demand_shim(text: str, version: str, how: MinShim) -> str:
    """Return the policy with `min-shim` as high as the shim's `version`.

    Args:
        text: The policy.
        version: `x.y.z` of the shim that is installed.
        how: "raise" it where it is lower or absent, "lower" it too, or "keep" it as it is.

    Raises:
        TooNew: The policy asks for a newer one, and it is not to be lowered.
        PolicyFault: See `parse`; or `version` is no version.
    """
    own = parse_version(version)
    if own is None:
        raise PolicyFault(f"{version!r} is no version of a shim")
    line = next((line for line in parse(text) if line.key == "min-shim"), None)
    if line is not None and _version(line.value) > own and how != "lower":
        raise TooNew(line.value)
    if how == "keep" or (line is not None and _version(line.value) == own):
        return text
    if line is None:
        return _append(text, [f"min-shim = {version}\n"])
    lines = text.split("\n")
    # The value alone: blanks and the comment behind it are the administrator's.
    lines[line.number] = re.sub(r"(=\s*)[0-9.]+", rf"\g<1>{version}", lines[line.number], count=1)
    return "\n".join(lines)


def decode(content: bytes) -> str:
    """Return the text of a file; what is no UTF-8, in a comment, comes back from `encode` as it was."""
    return content.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Return the bytes of a text."""
    return text.encode("utf-8", "surrogateescape")


def parse_version(text: str) -> Version | None:
    """Return `x.y.z` as numbers."""
    parts = [parse_id(part) for part in text.split(".")]
    if len(parts) != 3 or None in parts:  # noqa: PLR2004  # x.y.z
        return None
    return _version(text)


def parse_id(text: str) -> int | None:
    """Return a plain decimal below 2³² - 1, which means "none" to the kernel."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= NO_ID:
        return None
    return int(text)


def is_name(text: str) -> bool:
    """Say whether this can be the name of an account; all digits would be taken for a number."""
    plain = re.fullmatch(r"[!-~]+", text) is not None and not set(text) & set(":,#/")
    return plain and text[0] not in "+-" and not text.isdecimal()


def parse_port(text: str) -> int | None:
    """Return a TCP port, 1 to 65535."""
    port = parse_id(text)
    return port if port is not None and 0 < port < 2**16 else None


def parse_address(text: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    """Return an address that a socket of its own family can listen on, without an interface's name."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if "%" in text or address.is_multicast or str(address) == "255.255.255.255":
        return None
    if isinstance(address, ipaddress.IPv6Address) and (address.is_link_local or address.ipv4_mapped):
        return None
    return address


def _parse_mode(text: str) -> str | None:
    return text if text in {"mapped", "direct"} else None


def _is_list(value: str, parse_word: "Callable[[str], object]") -> bool:
    if value == "none":
        return True
    items = [parse_word(word) for word in re.split(f"[{BLANK}]+", value)]
    return None not in items and len(items) == len(set(items)) <= MAX_LIST


def _is_account(value: str) -> bool:
    return parse_id(value) is not None or is_name(value)


REPEATABLE = frozenset({"allow-user", "allow-group"})
# What a value has to be, and the shim's words where it is not.
KEYS: "dict[str, tuple[Callable[[str], bool], str]]" = {
    "version": (lambda value: value == "1", "the version is not 1"),
    "allow-user": (_is_account, "that is neither a name nor an id"),
    "allow-group": (_is_account, "that is neither a name nor an id"),
    "min-shim": (lambda value: parse_version(value) is not None, "min-shim is not x.y.z"),
    "modes": (
        lambda value: _is_list(value, _parse_mode),
        "modes is no list of `mapped` and `direct`",
    ),
    "bind-ports": (lambda value: _is_list(value, parse_port), "bind-ports is no list of port numbers"),
    "bind-addresses": (
        lambda value: _is_list(value, parse_address),
        "bind-addresses is no list of addresses that can be listened on",
    ),
    "max-containers": (lambda value: parse_id(value) is not None, "max-containers is not a number"),
}


def _judge(key: str, value: str) -> str:
    """Return what is wrong with a line; empty if nothing is."""
    if key not in KEYS:
        return f'the key "{key}" is not known'
    holds, fault = KEYS[key]
    return "" if holds(value) else fault


def _append(text: str, lines: list[str]) -> str:
    if not lines and text:
        return text
    text = text or HEADER
    return text + ("" if text.endswith("\n") else "\n") + "".join(lines)


def _version(text: str) -> Version:
    major, minor, patch = (int(part) for part in text.split("."))
    return major, minor, patch
