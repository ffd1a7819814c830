"""Every proof that takes longer than a test: each is a command, listed in docs/verification.md."""

NEEDS_CHECKOUT = True  # read by edge.console.run_main
