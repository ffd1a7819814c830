"""Stand-ins for hardware this machine does not have."""
