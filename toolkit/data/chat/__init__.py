"""Conversations and preferences: formats, chat template, training rows."""
