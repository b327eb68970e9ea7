"""Recipes: from YAML to checked, frozen settings. Nothing here imports torch."""
