"""The variables of a launcher: whole, or refused with the name of the wrong one."""

import pytest

from toolkit.base import ranks
from toolkit.base.errors import ToolkitError
from toolkit.cli.main import main

ADDRESS = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def launched(monkeypatch):
    def launch(**variables):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *ADDRESS):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "abc", "WORLD_SIZE": "2"}, "RANK must be a non-negative integer, not 'abc'"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK must be a non-negative integer, not ''"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK must be a non-negative integer, not '-1'"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE must be a positive integer, not '0'"),
        ({"RANK": "0", "WORLD_SIZE": "1.5"}, "WORLD_SIZE must be a positive integer, not '1.5'"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is set without RANK: no launcher started this process"),
        ({"RANK": "0"}, "RANK is set without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set without RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "3"}, "LOCAL_RANK is 3"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, "WORLD_SIZE is set without MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "x"}, "MASTER_PORT must be a"),
    ],
)  # fmt: skip
def test_variables_that_no_launcher_sets_are_refused_by_name(launched, capsys, variables, message):
    launched(**variables)
    assert main(["runs"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: environment: {message}") and "\n  fix: " in error
    with pytest.raises(ToolkitError):
        ranks.require_launch()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        ADDRESS,  # of a cluster's shell
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **ADDRESS},
        {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **ADDRESS},
        {"RANK": "1", "WORLD_SIZE": "2", **ADDRESS},
    ],
)
def test_variables_of_a_launcher_are_accepted(launched, variables):
    launched(**variables)
    ranks.require_launch()
