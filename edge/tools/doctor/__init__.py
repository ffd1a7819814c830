"""Would the box work here? One row a check: the verdict, what was found, the fix.

Nothing is changed, and whatever a check meets becomes a row: this command is for the moment when things are broken.
Sound devices are opened in a process of their own (``edge.tools.probe_process``). While the box itself runs it has the
cards, so its own figures are shown instead.

``command`` runs the checks in their order and prints them. ``machine``, ``settings``, ``service``, ``cards`` and
``sound`` hold the checks, each a function of one ``context.Context``; ``running`` and ``verdicts`` judge figures of the
running box and of devices that were probed.
"""
