"""The virtual Pi's proofs: boots a machine, installs the product, shows what it promises."""
