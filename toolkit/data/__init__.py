"""Text, conversations and preferences: from sources to token shards and training examples."""
