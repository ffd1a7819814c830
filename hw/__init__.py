"""The board and what is made for it: ``board`` (models, pins, LED, button), ``install``, ``image`` (card images and
updates), ``fleet`` (many boxes); ``virtual`` stands in for hardware, ``rooms`` simulates acoustics, ``prove`` holds the
long tests."""

import edge as edge  # first of all: it switches off what libraries would report
