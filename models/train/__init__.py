"""From recordings to a checkpoint in one command: ``python -m models.train --data DIR --out DIR --minutes 120``.

Stops and resumes at any moment (``--resume``), on processor cores, on one GPU, and unchanged under ``torchrun`` on
several. docs/training.md tells how to adapt the shipped weights to a place of one's own.

``options`` -> ``start`` -> ``loop``, which lets a ``trainer`` minimise ``loss``; ``checkpoint`` reads what it saves,
``development`` measures it, ``log`` writes it down.
"""
