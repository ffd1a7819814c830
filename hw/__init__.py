"""What touches the board: ``panel`` (LED, button), ``boards``, ``install``, ``gadget``; ``virtual`` stands in."""
