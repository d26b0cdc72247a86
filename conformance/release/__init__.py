"""From a report to a release: a signed statement about it, and the gate that reads both beside the wheel."""
