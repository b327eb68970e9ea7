"""`toolkit playground`: a local web page on which people see a language model think, and teach it."""

from toolkit.base.errors import UsageError

try:
    import fastapi as fastapi
    import uvicorn as uvicorn
except ImportError as error:
    raise UsageError(
        f"the playground needs {error.name}", fix="pip install -e '.[playground]' in the clone of the toolkit"
    ) from error
