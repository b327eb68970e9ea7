"""Reports of runs: a summary for programs and the terminal, and a self-contained HTML page."""
