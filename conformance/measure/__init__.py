"""Which lines of locald and of its shim the clauses reach: a measured build in a guest, and one report of it.

`python -m conformance.measure`; docs/decisions/0047-coverage.md says how it works and why so. Nothing of it is in the
product, and nothing that it runs gives a verdict on one.
"""
