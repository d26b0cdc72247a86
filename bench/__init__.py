"""Measures the shim beside its peers on one machine, interleaved: `nox -s bench -- runtime`. Needs root.

Absolute times say nothing across machines; ratios of one run do. Imports nothing of the tree: it sees programs.
"""
