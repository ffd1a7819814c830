"""Many boxes: what goes out to them and what comes back; see ``docs/fleet.md``."""
