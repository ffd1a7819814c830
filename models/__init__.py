"""The networks: one definition, the mixing of their data, their training."""
