"""Check report pages in a browser: faults that axe-core finds, small text, parts that are off the screen.

    npm install --prefix build axe-core
    python -m tools.check_page runs/tiny/report.html --axe build/node_modules/axe-core/axe.min.js

Each page is shown in light and in dark colours, as wide as a desktop and as phones. It needs Chromium or
Chrome; with `--screenshots DIR` it also writes what they show. The exit status is 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = (1280, 390, 320)
SMALLEST_TEXT = 9.0
"""CSS pixels of the text of a plot."""
SECONDS = 120
DARK = "@media (prefers-color-scheme: dark)"
MEASURE = """
<script>
addEventListener("load", async () => {
  document.querySelectorAll("details").forEach(details => { details.open = %(open)s; });
  const found = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    const clips = element => element && element !== document.body &&
      (getComputedStyle(element).overflowX !== "visible" || clips(element.parentElement));
    for (const element of document.querySelectorAll("body *")) {
      if (element.getBoundingClientRect().right > width + 1 && !element.closest("svg") && !clips(element))
        found.push("off the screen: " + element.outerHTML.slice(0, 100));
    }
    found.push("the page is " + document.documentElement.scrollWidth + " pixels wide");
  }
  for (const text of document.querySelectorAll("svg text")) {
    const box = text.getBoundingClientRect(), plot = text.ownerSVGElement.getBoundingClientRect();
    if (box.width && (box.left < plot.left - 1 || box.right > plot.right + 1))
      found.push("cut off: " + text.textContent);
    const matrix = text.getScreenCTM();
    const size = matrix && parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b);
    if (size && size < %(smallest)s) found.push("text of " + size.toFixed(1) + " px: " + text.textContent);
  }
  if (window.axe) {
    const result = await axe.run(document, {resultTypes: ["violations"]});
    for (const fault of result.violations)
      for (const node of fault.nodes)
        found.push(fault.id + ": " + fault.help + ": " + node.html.slice(0, 160));
  }
  const output = parent.document.createElement("pre");
  output.id = "faults";
  output.textContent = JSON.stringify(found);
  parent.document.body.append(output);
});
</script>
"""


@dataclass(frozen=True)
class View:
    """How a page is shown: CSS pixels of width, dark or light colours."""

    width: int
    is_dark: bool

    @property
    def name(self) -> str:
        return f"{self.width}-{'dark' if self.is_dark else 'light'}"


VIEWS = tuple(View(width, is_dark) for width in WIDTHS for is_dark in (False, True))


def browser() -> str | None:
    """Return the path of Chromium or Chrome, None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def axe_core() -> Path | None:
    """Return axe.min.js: what AXE_CORE names, or where CONTRIBUTING.md installs it; None without it."""
    path = Path(os.environ.get("AXE_CORE") or "build/node_modules/axe-core/axe.min.js")
    return path if path.is_file() else None


def faults(page: str, view: View, *, axe: Path | None = None) -> list[str]:
    """Return what is wrong with a page in one view.

    Args:
        page: HTML.
        axe: axe.min.js; without it, only sizes are checked.

    Raises:
        RuntimeError: there is no browser, or it did not answer.
    """
    script = "" if axe is None else f"<script>{axe.read_text(encoding='utf-8')}</script>"
    measure = MEASURE % {"open": "true", "smallest": SMALLEST_TEXT}
    with tempfile.TemporaryDirectory() as folder:
        path = _frame(Path(folder), page.replace("</body>", f"{script}{measure}</body>"), view, height=2000)
        shown = _run(path, "--dump-dom", "--virtual-time-budget=20000")
    result = re.search(r'<pre id="faults">(.*?)</pre>', shown, re.DOTALL)
    if result is None:
        raise RuntimeError(f"the browser did not measure the page: {shown[-300:]}")
    return json.loads(html.unescape(result[1]))


def screenshot(page: str, view: View, output: Path, *, height: int, opened: bool = False) -> None:
    """Write a picture of the top `height` pixels of a page."""
    if opened:
        page = page.replace("<details>", "<details open>")
    with tempfile.TemporaryDirectory() as folder:
        path = _frame(Path(folder), page, view, height=height)
        _run(path, f"--screenshot={output.absolute()}", f"--window-size={max(view.width, 500)},{height}",
             "--hide-scrollbars")  # fmt: skip


def _frame(folder: Path, page: str, view: View, *, height: int) -> Path:
    """Write a page that shows `page` in a frame: a window cannot be as narrow as a phone."""
    page = page.replace(DARK, "@media all" if view.is_dark else "@media not all")
    path = folder / "frame.html"
    path.write_text(
        '<!doctype html><meta charset="utf-8"><body style="margin:0">'
        f'<iframe title="page" style="border:0;width:{view.width}px;height:{height}px" '
        f'srcdoc="{html.escape(page)}"></iframe></body>',
        encoding="utf-8",
    )
    return path


def _run(page: Path, *arguments: str) -> str:
    program = browser()
    if program is None:
        raise RuntimeError(f"found none of {', '.join(BROWSERS)}")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", *arguments, page.as_uri()]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the browser has several processes
        process.communicate()
        raise RuntimeError(f"{program} did not answer in {SECONDS} seconds") from None
    if process.returncode != 0:
        raise RuntimeError(f"{program} failed: {errors[-500:]}")
    return output


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the faults of pages, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_page", description="Check pages in a browser."
    )
    parser.add_argument("pages", nargs="+", type=Path, metavar="PAGE.html")
    parser.add_argument("--axe", type=Path, metavar="FILE", help="axe.min.js of the npm package axe-core")
    parser.add_argument("--screenshots", type=Path, metavar="DIR")
    parser.add_argument("--height", type=int, default=6000, metavar="PIXELS", help="of the screenshots")
    args = parser.parse_args(arguments)
    total = 0
    for path in args.pages:
        page = path.read_text(encoding="utf-8")
        for view in VIEWS:
            found = faults(page, view, axe=args.axe)
            total += len(found)
            print(f"{path} {view.name}: {len(found)} faults")
            for fault in found:
                print(f"  {fault}")
            if args.screenshots:
                args.screenshots.mkdir(parents=True, exist_ok=True)
                screenshot(page, view, args.screenshots / f"{path.stem}-{view.name}.png", height=args.height)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
