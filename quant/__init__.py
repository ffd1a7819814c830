"""Scripts that compare and shrink networks; each runs alone with --help."""

import edge as edge  # first of all: it switches off what libraries would report
