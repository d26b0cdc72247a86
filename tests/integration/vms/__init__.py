"""Machines that are really brought up."""
