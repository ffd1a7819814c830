"""Checkpoint -> float ONNX of one hop, and proof that both say the same.

    python -m quant.export --weights models/quietbox/weights.pt --out network.onnx

Nodes cost more than arithmetic at this size (0.7 us each on one x86 core, ten times that on a Pi 3), so the graph is
built by hand, in the order of ``Network.logits``. What keeps it short: a group is a row of a Gemm; every gate is a
Gemm of its own whose activation ONNX Runtime fuses into it (9 nodes a memory where one Gemm and a Split take 11);
a residual sum is the third input of a Gemm, and the bias that would stand there is added once, in ``place``; the
clamp of a gate is a Max after its sigmoid.

The file: inputs ``features`` float32 [1, 64] and ``state`` float32 [1, S], outputs ``gains`` [1, 64], ``speech``
[1, 1] and ``state_out`` [1, S], the state laid out as in models/network.py; metadata as in ``metadata``. Tensors are
named as in the checkpoint; ``NAME.gates`` lies in three, ``.z``, ``.c`` and ``.o``.

Weights of models/unet.py become the graph of one window: ``magnitudes`` [1, 1, bins, frames] in, ``mask`` of the same
shape out, the geometry in the metadata.
"""
