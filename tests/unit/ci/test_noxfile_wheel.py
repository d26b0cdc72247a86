"""The wheel that a session hands to the kit is its own: the next run of the tree builds in the same place."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.unit.ci.test_noxfile import noxfile  # noqa: F401  # a fixture


def test_the_kit_gets_a_copy_of_the_wheel(noxfile: Any, tmp_path: Path) -> None:  # noqa: F811
    """Gone at the end; what is not there is left for the kit to name."""
    wheel = tmp_path / "locald.whl"
    wheel.write_bytes(b"of this run")
    session = SimpleNamespace(posargs=[f"--wheel={wheel}"])

    with noxfile.own_wheel(session) as own:
        wheel.write_bytes(b"of another run")
        assert (own.name, own.read_bytes()) == ("locald.whl", b"of this run")
    assert not own.exists()

    wheel.unlink()
    with noxfile.own_wheel(session) as own:
        assert own == wheel


def test_it_is_named_last(noxfile: Any, tmp_path: Path, monkeypatch: Any) -> None:  # noqa: F811
    """The last one counts, and the person may have named one."""
    wheel = tmp_path / "locald.whl"
    wheel.touch()
    named: list[str] = []
    for step in ("require_root", "require_programs", "install_groups"):
        monkeypatch.setattr(noxfile, step, lambda *_: None)
    monkeypatch.setattr(noxfile, "kit", lambda *arguments: named.append(arguments[-1]))
    session = SimpleNamespace(posargs=["--wheel", str(wheel), "--profile=local"])

    noxfile.conformance(session)
    noxfile.controls(session)

    assert len(named) == 2
    assert not [word for word in named if not word.endswith("/locald.whl") or word == f"--wheel={wheel}"]
