"""What `unpaired check` looks for: a file a question, each a small function."""
