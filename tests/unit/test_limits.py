"""Limits are read as podman reads them."""

import pytest

from locald.errors import UsageError
from locald.limits import make_resources


@pytest.mark.parametrize(
    ("asked", "resources"),
    [
        ({}, {}),
        ({"memory": "512m"}, {"memory": {"limit": 512 << 20, "swap": 1 << 30}}),
        ({"memory": "1.5g", "memory_swap": "-1"}, {"memory": {"limit": 3 << 29}}),
        ({"memory": "64M", "memory_swap": "64mb"}, {"memory": {"limit": 64 << 20, "swap": 64 << 20}}),
        ({"memory": "1KiB", "memory_swap": "0"}, {"memory": {"limit": 1024, "swap": 2048}}),
        ({"memory": "4096"}, {"memory": {"limit": 4096, "swap": 8192}}),
        ({"memory": "0"}, {}),
        ({"memory_swap": "-1"}, {}),
        ({"pids_limit": "7"}, {"pids": {"limit": 7}}),
        ({"pids_limit": "-1"}, {}),
        ({"pids_limit": "0"}, {}),
        ({"cpus": "0.5"}, {"cpu": {"quota": 50_000, "period": 100_000}}),
        ({"cpus": "2", "cpu_shares": "512"}, {"cpu": {"quota": 200_000, "period": 100_000, "shares": 512}}),
        ({"cpus": "0.000", "cpu_shares": "0"}, {}),
        ({"cpus": ".5"}, {"cpu": {"quota": 50_000, "period": 100_000}}),
    ],
)
def test_limits_become_resources(asked: dict[str, str], resources: dict[str, object]) -> None:
    """Zero and -1 limit nothing."""
    assert make_resources(asked) == resources


@pytest.mark.parametrize(
    "asked",
    [
        {"memory": "much"},
        {"memory": "-1"},
        {"memory": "1e9"},
        {"memory": "9" * 30},
        {"memory": "5z"},
        {"memory_swap": "1g"},
        {"memory": "2g", "memory_swap": "1g"},
        {"pids_limit": "-2"},
        {"pids_limit": "1.5"},
        {"pids_limit": "4194305"},
        {"pids_limit": "1_0"},
        {"cpus": "0.001"},
        {"cpus": "-1"},
        {"cpus": "nan"},
        {"cpus": "all"},
        {"cpu_shares": "1"},
        {"cpu_shares": "262145"},
        {"cpu_shares": "-5"},
    ],
)
def test_what_is_no_limit_is_a_usage_error(asked: dict[str, str]) -> None:
    """With what would be one."""
    with pytest.raises(UsageError) as caught:
        make_resources(asked)
    assert caught.value.hint
