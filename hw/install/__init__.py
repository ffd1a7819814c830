"""The installer: what it does on a board, the program's own folder, the ledger of what it made, the lock."""

NEEDS_CHECKOUT = True  # read by edge.console.run_main
