"""Plain text: documents, token shards, and the order of batches."""
