"""Running one recipe or a folder of recipes, checking recipes, and their order."""
