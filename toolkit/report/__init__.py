"""What a folder of runs gave: a summary for the terminal and a self-contained page."""
