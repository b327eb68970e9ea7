import pytest


@pytest.fixture(autouse=True)
def _without_git(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Four calls of git cost 50 ms each time a run is opened."""
    if "test_provenance" not in str(request.node.path):
        monkeypatch.setattr("toolkit.runs.provenance.code", lambda: {"commit": "0" * 40, "diff": None})
