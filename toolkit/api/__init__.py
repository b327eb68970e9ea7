"""The Python interface behind `import toolkit`: running recipes, finished runs, loaded models."""
