"""The networks: one definition, the mixing of their data, their training."""

import edge as edge  # first of all: it switches off what libraries would report
