"""A smaller network out of a trained one: whole channels, units and rounds are left out, the rest goes on learning.

    python -m quant.prune --weights models/quietbox/weights.pt --shape '{"channels": 24, "hidden": 48}' --out smaller.pt
    python -m models.train --init smaller.pt --data DIR --out RUN       # what was lost comes back in training

Real sounds stream through the network. A unit's worth is how much it fluctuates times how strongly it is listened to:
its variance times the squared norm of its outgoing weights, summed over all layers that read it, each layer counting
the same. (The fluctuation criterion of FLAP, An et al. 2023, arXiv 2312.11983: a constant unit is worth nothing,
whatever it weighs, for its mean can move into the biases behind it.) What the remaining units say of the ones that go
moves into their weights: every layer behind is refitted by least squares to the inputs it keeps (He, Zhang & Sun 2017,
arXiv 1707.06168).

The path from ``patch`` to ``join`` has one set of channels that all layers share. Everything else is chosen layer by
layer, in the number that the shape states: what a group recurrence and ``join`` hold inside (``channels``), what a
full-band layer takes from a group and gives back to it (``squeeze``), its state (``hidden``). Of ``rounds`` the one
goes first without which the output changes least; the last one stays, for it gives the speech probability.
"""
