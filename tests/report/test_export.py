"""Plots as SVG and PDF, tables as CSV."""

from __future__ import annotations

import csv
import io
from xml.etree import ElementTree

import pytest

from toolkit.cli import main
from toolkit.report import figures
from toolkit.report.blocks import Cell, PageTable, TableRow
from toolkit.report.export import csv_text


def test_every_plot_and_table_is_a_file(seeds, capsys):
    runs = [str(seeds / "s1" / name) for name in ("sft", "evaluate")]
    arguments = [*runs, "--export", str(seeds / "files"), "--output", str(seeds / "page.html")]
    assert main.main(["report", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{seeds / 'page.html'}\n" and "plots and tables" in captured.err
    files = {path.name: path.read_bytes() for path in (seeds / "files").iterdir()}
    plots = {name.removesuffix(".svg") for name in files if name.endswith(".svg")}
    assert plots == {name.removesuffix(".pdf") for name in files if name.endswith(".pdf")}
    assert {"sft-loss", "sft-held_out_loss", "win-rates", "seconds"} <= plots
    assert {"models.csv", "win-rates.csv"} <= files.keys()
    for name in plots:
        assert ElementTree.fromstring(files[f"{name}.svg"].decode()).tag.endswith("svg")
        assert files[f"{name}.pdf"].startswith(b"%PDF")
    rows = list(csv.reader(io.StringIO(files["win-rates.csv"].decode())))
    assert rows[0][:4] == ["model", "win rate", "win rate (low)", "win rate (high)"]
    assert {row[0] for row in rows[1:]} == {"pretrain", "sft", "dpo"}


def panel(title: str) -> figures.Panel:
    line = figures.Line([1, 2], [1.0, 2.0])
    return figures.Panel("a", title, "", lambda axes: figures.draw_lines(axes, [line], axis=figures.Axis()))


def test_files_have_no_date_and_embed_their_fonts():
    svg, pdf = panel("Loss").file("svg"), panel("Loss").file("pdf")
    assert (svg, pdf) == (panel("Loss").file("svg"), panel("Loss").file("pdf"))
    assert b"Loss" in svg and b"<dc:date>" not in svg and b"var(--" not in svg
    assert b"/FontFile2" in pdf and b"CreationDate" not in pdf


def test_a_table_has_all_digits_and_the_ends_of_intervals():
    rows = [
        TableRow("dpo", [Cell("0.667 [0.5, 0.8]", 2 / 3, 0.5, 0.8), Cell("3", 3)]),
        TableRow("sft", [Cell("baseline"), Cell("-")]),
    ]
    text = csv_text(PageTable("wins", "Wins", "model", ["win rate", "n, all"], rows))
    assert text == (
        'model,win rate,win rate (low),win rate (high),"n, all"\n'
        "dpo,0.6666666666666666,0.5,0.8,3\n"
        "sft,baseline,,,\n"
    )


def test_a_folder_that_cannot_be_written_is_an_error(seeds, capsys):
    (seeds / "file").write_text("")
    arguments = [
        str(seeds / "s1" / "sft"),
        "--export",
        str(seeds / "file"),
        "--output",
        str(seeds / "p.html"),
    ]
    assert main.main(["report", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert str(seeds / "file") in error and "cannot write there" in error
    assert not (seeds / "p.html").exists()


def test_japanese_plots_need_a_japanese_font(seeds, capsys, monkeypatch):
    monkeypatch.setattr(figures, "JAPANESE_FONTS", ("No Such Font",))
    arguments = [str(seeds / "s1" / "sft"), "--language", "ja", "--output", str(seeds / "p.html")]
    assert main.main(["report", *arguments]) == 0  # a page has the fonts of the browser
    assert main.main(["report", *arguments, "--export", str(seeds / "files")]) == 2
    assert "No Such Font" in capsys.readouterr().err


@pytest.mark.skipif(figures.japanese_font() is None, reason="no Japanese font is installed")
def test_a_japanese_plot_embeds_its_font():
    assert "損失" in panel("損失").file("svg").decode()
    assert b"/Type3" in panel("損失").file("pdf")
