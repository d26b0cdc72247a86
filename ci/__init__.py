"""What people and CI call: no product code."""
