"""The security manual lists every rule with its case, as they are today."""

from tests.shim.manual import PAGE, make_table, write_page


def test_the_table_is_todays() -> None:
    """Else: `python -m tests.shim.manual`."""
    page = PAGE.read_text("utf-8")
    assert page == write_page(page)


def test_every_rule_has_a_case() -> None:
    """A rule that nothing attacks is a claim without evidence."""
    assert "| none |" not in make_table()
