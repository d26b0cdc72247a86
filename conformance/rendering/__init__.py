"""A report for those who read it: JUnit for CI, a page for a person, lines for a terminal. All pure."""
