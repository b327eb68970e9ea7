"""Proximal policy optimization against a reward model, in a loop of our own."""
