import pytest


@pytest.fixture(autouse=True)
def _without_git(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Cache the git commit, because four calls of git take 50 ms each time a run is opened."""
    if "test_provenance" not in str(request.node.path):
        monkeypatch.setattr("toolkit.runs.provenance.code", lambda: {"commit": "0" * 40, "diff": None})
