"""Units of the machines under test; nothing boots here."""
