"""`quietbox report`: the journal read back, placed in time, and drawn as one page."""
