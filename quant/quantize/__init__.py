"""Float ONNX -> INT8, two variants, both measured against the float file; the one that passes the gate is written.

    python -m quant.quantize --model network.onnx --out models/quietbox/network.onnx --pairs DIR
    python -m quant.quantize --model somebody-elses.onnx --out smaller.onnx

**weights**: int8 matrices, one scale a row (an output), and ``float(int8) x scale`` as a Cast and a Mul before each
use. ONNX Runtime works both out once, at load: the file is small, one hop takes as long as before, and activations
stay float. A DequantizeLinear would say the same, but is folded only where ``session.disable_quant_qdq`` is set, and
knows scales a row from opset 13 on. For our own files also: matrices of one width lie under each other, so that they
share the two nodes; vectors, scales and place are float16; index tables take one byte; names are a letter or two.
**static**: activations too, uint8 by int8 weights (U8S8 QDQ), ranges from streams (``quant.calibrate``), percentile
99.99; the outputs of every product, hence states, level, logarithm and mask, stay float.

Beside our own .onnx lies an .npz with the same numbers for ``edge.suppress.network``: for every layer NAME of
models/network.py ``NAME.weight`` int8 [out, in], ``NAME.scale`` float16 [out] (weight x scale is the matrix) and
``NAME.bias`` float16 [out]; ``place`` float16 [groups, channels]; ``silence`` float16 [S], the initial state; ``meta``,
a text of no dimension, the metadata but ``silence`` as JSON. Biases of ``back`` and ``widen`` in front of a residual
sum are zero: ``quant.export`` has moved them into ``place`` and the biases behind.

The gate: at most 0.05 PESQ lost, output at least 25 dB above its difference from the float file's, at most 1.1 times
its time, both files at most --most-kb. Other projects' models get the first variant, with float32 scales, and limits of
their own: ``quant.quantize.others``.
"""
