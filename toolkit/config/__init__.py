"""Recipes: YAML in, checked and frozen settings out. Nothing here imports torch."""
