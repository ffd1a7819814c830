"""The feedback path: engines that suppress the noise which the feedforward path left over.

``engine`` is the contract, ``open`` opens what the settings ask for (rows of ``edge.engines``). ``mask`` is the engine
of our own estimators: ``quietbox`` and ``rnn`` open our networks (``network`` on NumPy, ``onnx`` on ONNX Runtime),
``wiener`` needs no training. ``sleep`` lets a network skip hops while nobody speaks, ``shipped`` finds and checks its
files, ``probe`` finds out whether ONNX Runtime works here. ``foreign`` holds third-party engines, ``remote`` and
``link`` the engine on another machine.
"""

from edge.suppress.open import files_of, open_configured, open_core, open_engine, open_listener, open_named
from edge.suppress.shipped import BadModel

__all__ = ["BadModel", "files_of", "open_configured", "open_core", "open_engine", "open_listener", "open_named"]
