"""What every other package uses: errors, named random streams, atomic files, ranks, progress."""
