"""Errors, named random streams, atomic files, ranks and progress; every other package uses them."""
