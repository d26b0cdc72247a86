"""The tree of errors: every code once, and drawn as it is."""

import inspect
import re
from pathlib import Path

import pytest

from locald import errors
from locald.errors import LocaldError


def kinds(base: type[LocaldError] = LocaldError) -> list[type[LocaldError]]:
    """Return all errors that can be raised."""
    found = []
    for kind in base.__subclasses__():
        found += [kind] if "code" in vars(kind) else []
        found += kinds(kind)
    return found


def test_codes_are_unique_and_well_formed() -> None:
    """They are what tests, --json and the manual use."""
    codes = [kind.code for kind in kinds()]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"usage|[a-z]+(\.[a-z0-9-]+)", code) for code in codes)


def test_the_tree_in_the_module_is_the_tree() -> None:
    """Name and code of each, in the first docstring."""
    drawn = set(re.findall(r"[├└]── (\w+) +(\S+)$", inspect.getdoc(errors) or "", re.MULTILINE))
    assert drawn == {(kind.__name__, kind.code) for kind in kinds()}


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_each_error_says_what_it_is(kind: type[LocaldError]) -> None:
    """In a docstring, and with an exit status that is not the container's."""
    assert kind.__doc__
    assert kind.exit_code in {2, 125}


def test_codes_shared_with_the_shim_are_spelt_alike() -> None:
    """What `locald` and its shim both refuse has one code."""
    sources = Path(__file__).resolve().parents[2] / "shim/src"
    text = "".join(path.read_text("utf-8") for path in sources.rglob("*.rs"))
    for code in ("shim.policy", "shim.outdated", "shim.linked", "user.unmappable", "host.userns-limit"):
        assert f'"{code}"' in text
        assert code in {kind.code for kind in kinds()}
