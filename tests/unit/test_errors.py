"""The tree of errors: every code once, and drawn as it is."""

import inspect
import re

import pytest

from locald import errors
from locald.errors import LocaldError
from tests.manual import ROOT, find_errors

KINDS = sorted(find_errors(), key=lambda kind: kind.code)


def test_codes_are_unique_and_well_formed() -> None:
    """They are what tests, --json and the manual use."""
    codes = [kind.code for kind in KINDS]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"usage|[a-z]+(\.[a-z0-9-]+)", code) for code in codes)


def test_the_tree_in_the_module_is_the_tree() -> None:
    """Name and code of each, in the first docstring."""
    drawn = set(re.findall(r"[├└]── (\w+) +(\S+)$", inspect.getdoc(errors) or "", re.MULTILINE))
    assert drawn == {(kind.__name__, kind.code) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_error_says_what_it_is(kind: type[LocaldError]) -> None:
    """In a docstring, and with an exit status that is not the container's."""
    assert kind.__doc__
    assert kind.exit_code in {2, 125}


def test_codes_shared_with_the_shim_are_spelt_alike() -> None:
    """What `locald` and its shim both refuse has one code."""
    text = "".join(path.read_text("utf-8") for path in (ROOT / "shim/src").rglob("*.rs"))
    for code in ("shim.policy", "shim.outdated", "shim.linked", "user.unmappable", "host.userns-limit"):
        assert f'"{code}"' in text
        assert code in {kind.code for kind in KINDS}
