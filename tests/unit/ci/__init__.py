"""Tests of what makes a machine ready."""
