"""Many boxes: what goes out to them and what comes back; ``hw/fleet.md`` tells how."""
