"""The card image: Debian, the product, and what keeps both alive when the power is pulled.

``build`` runs ``card``: ``debian`` (the root), ``boot`` (the first partition) and ``product`` (``libraries`` sees that
it finds all it links to) -> ``disk`` (``table``).
On the board: ``versions`` picks what runs, ``settings`` what it reads (``blink`` shows a refusal); once ``first``
fills the card and looks what is there (``found``). ``update`` and ``bundle`` bring the next version, signed with the
owner's key (``owner``) and checked by the box (``signature``). ``customise``
(``stock``, ``first-boot``) puts the product into Raspberry Pi OS instead. ``hw.prove.image`` and ``hw.prove.stock`` try
them in a machine.
"""
