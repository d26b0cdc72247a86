"""Unit tests: no root, no network, no guest."""
