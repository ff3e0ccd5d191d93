"""A recipe: its keys and types, how YAML and flags are read, what is said when they are wrong. No torch."""
