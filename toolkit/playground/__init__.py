"""`toolkit playground`: a local web page on which people see a language model think, and teach it."""

from importlib.util import find_spec

from toolkit.base.errors import UsageError

for _name in ("fastapi", "uvicorn"):  # of the extra `playground`
    if find_spec(_name) is None:
        raise UsageError(
            f"the playground needs {_name}", fix="pip install -e '.[playground]' in the clone of the toolkit"
        )
