"""Tests that need root and change the machine they run on, or bring one up."""
