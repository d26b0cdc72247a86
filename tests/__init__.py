"""Tests of every part; nothing else imports this package."""
