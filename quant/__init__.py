"""Scripts that judge and shrink networks; each runs alone with --help."""
