"""Many boxes: what goes out to them and what comes back; ``docs/fleet.md`` tells how."""
