"""Unit tests of the kit: catalogue, waivers, verdicts, report, observations."""
