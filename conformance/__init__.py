"""The conformance kit: a black box around an installed wheel.

It drives `locald` and the shim through their commands and never imports `locald`; it may import `vms`.
"""
