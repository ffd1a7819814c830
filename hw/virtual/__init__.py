"""Stand-ins for hardware this machine does not have: ``sound`` (ALSA in user space), ``pi`` (a whole machine in
User-Mode Linux), ``arm64`` (the processor)."""

NEEDS_CHECKOUT = True  # read by edge.console.run_main
