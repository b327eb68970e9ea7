"""Building, loading and scoring models."""
