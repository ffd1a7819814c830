"""Stand-ins for hardware this machine does not have: ``sound`` (ALSA in user space; ``demo`` and ``soak`` run on it),
``pi`` (a whole machine in User-Mode Linux), ``pi3`` (the card image in an emulated board), ``arm64`` (the processor),
``acoustics`` (rooms; ``swapped``: microphones in each other's place), ``circle`` (open headphones), ``officeday`` (what
there is to hear in a day).
"""
