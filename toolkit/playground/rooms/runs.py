"""`/api/runs`: runs, their curves as they grow, and what they were made from."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import asdict
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from toolkit.base.errors import UsageError
from toolkit.playground import run_details
from toolkit.playground.catalog import Catalog
from toolkit.playground.run_details import Problems
from toolkit.runs import layout, seal
from toolkit.runs.index import RunEntry

router = APIRouter()
Reference = Annotated[str, Query(max_length=400)]
Language = Literal["en", "ja"]
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
"""The report has its styles in the page. It has no script, and this policy lets none run."""
NOTHING: dict[str, Any] = {}
REPORTS_KEPT = 4
_report_lock = threading.Lock()  # matplotlib is not thread-safe


def catalog(request: Request) -> Catalog:
    """Return the runs of the server."""
    found: Catalog = request.app.state.catalog
    return found


def _listed(entry: RunEntry) -> dict[str, Any]:
    """Return an entry as the browser reads it; the path stays here."""
    running = entry.state == "unfinished" and run_details.is_running(entry.path)
    return {**{key: value for key, value in entry.to_json().items() if key != "path"}, "running": running}


@router.get("/runs")
def list_runs(request: Request) -> dict[str, Any]:
    """Return the runs below the runs directory, and those whose manifest is damaged."""
    entries, damaged = catalog(request).listing()
    return {"runs": [_listed(entry) for entry in entries], "damaged": [asdict(one) for one in damaged]}


@router.get("/runs/one")
def one_run(request: Request, run: Reference) -> dict[str, Any]:
    """Return the settings, the numbers, the samples and the family of a run."""
    runs = catalog(request)
    entry, problems = runs.find(run), Problems()
    numbers = problems.tried(partial(run_details.evaluation, entry.path), NOTHING)
    no_samples: list[dict[str, Any]] = []
    samples = problems.tried(partial(run_details.samples, entry.path, numbers), no_samples)
    settings = problems.tried(partial(run_details.settings, entry.path), NOTHING)
    family = runs.family().of(run)
    states = {listed.reference: listed.state for listed in runs.listing()[0]}
    return {
        "run": _listed(entry),
        "settings": run_details.setting_rows(settings),
        "numbers": run_details.number_rows(numbers),
        "samples": samples,
        "lineage": {
            "nodes": [{**asdict(node), "state": states.get(node.id)} for node in family.nodes],
            "edges": [asdict(edge) for edge in family.edges],
        },
        "report": entry.state == "sealed",
        "problems": problems,
    }


@router.get("/runs/curves")
def run_curves(
    request: Request,
    run: Reference,
    version: Annotated[str, Query(max_length=100)] = "",
    language: Language = "en",
    everything: bool = False,
) -> dict[str, Any]:
    """Return the progress and the curves of a run; only its progress if `version` is still the newest."""
    runs = catalog(request)
    entry, problems = runs.find(run), Problems()
    settings = problems.tried(partial(run_details.settings, entry.path), NOTHING)
    with runs.metrics(entry.path) as follower:
        newest = f"{entry.state}-{follower.position}-{follower.rows}-{follower.version}"
        answer = {"version": newest, "progress": run_details.progress(entry, follower, settings)}
        if version == newest:
            return {**answer, "unchanged": True}
        numbers = problems.tried(partial(run_details.evaluation, entry.path), NOTHING)
        if follower.damaged:
            problems.append(
                f"{layout.METRICS}: {follower.damaged} damaged lines, "
                f"the first is line {follower.first_damaged}"
            )
        step, samples = follower.samples or (None, None)
        return {
            **answer,
            "unchanged": False,
            "curves": run_details.curves(
                entry.stage, follower, numbers, language=language, everything=everything
            ),
            "samples": {"step": step, "rows": run_details.sample_rows(samples)},
            "problems": problems,
        }


@router.get("/runs/report")
def run_report(request: Request, run: Reference, language: Language = "en") -> Response:
    """Return the report of the finished runs beside a run, those of the same folder, as a page."""
    runs = catalog(request)
    folder = PurePosixPath(runs.find(run).reference).parent
    entries = [
        entry
        for entry in runs.listing()[0]
        if entry.state == "sealed" and PurePosixPath(entry.reference).parent == folder
    ]
    if not entries:
        raise UsageError("no run of this folder is finished", where=run, fix="wait until one is")
    from toolkit.report import page  # imports matplotlib, which takes a second

    paths = [entry.path for entry in entries]
    key = (language, *(seal.digest(path) for path in paths))
    reports: OrderedDict[tuple[str, ...], str] = request.app.state.reports
    with _report_lock:
        if key not in reports:
            reports[key] = page.render(paths, *page.read_runs(paths, language=language))
            while len(reports) > REPORTS_KEPT:
                reports.popitem(last=False)
        return Response(
            reports[key], media_type="text/html", headers={"content-security-policy": REPORT_POLICY}
        )
