"""`quietbox serve`: the noise suppressor for another program (bridge) and for other boxes (box_server)."""
