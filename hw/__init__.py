"""What touches the board: ``panel`` (LED, button), ``boards``, ``install``, ``gadget``; ``image``
makes cards, ``fleet`` keeps many, ``virtual`` stands in for the board."""

import edge as edge  # first of all: it switches off what libraries would report
