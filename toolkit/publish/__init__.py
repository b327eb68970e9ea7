"""Publishing a finished run as a model repository."""
