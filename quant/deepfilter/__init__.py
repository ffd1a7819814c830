"""DeepFilterNet3's published graphs -> graphs that take one frame at a time, for ``engine = "deepfilternet3"``.

    ./install.sh --setup quantize,peers
    python -m quant.deepfilter --out /var/lib/quietbox/deepfilternet3
    python -m quant.deepfilter --compare --pairs tests/sounds

The published graphs (encoder, gain decoder, filter decoder) take whole recordings: every GRU begins with zeros that a
ConstantOfShape makes, every convolution over time with padding. Here the sequence becomes one frame long; each GRU's
initial state becomes an input and its last state an output; each padding in time becomes an input with the frames
before, and an output with the ones to be kept. What only worked out shapes is folded away, and the grouped linear
layers, written as Einsum, become products of matrices: ``quant.quantize`` knows their weights then, too.

Before anything is written, the new graphs walk a drawn sequence frame by frame and must give what the published ones
give for the whole. The model is a folder: three graphs and a card with their sha256, DeepFilterNet3's licence is MIT or
Apache 2.0.

``--int8`` makes the five GRUs products of int8 weights by inputs of eight bits (ONNX Runtime's dynamic quantisation,
which knows no GRU: each is first written out as products), and gives all other weights int8 storage
(``quant.quantize.weights_only``): a quarter of the size, and less time wherever 7 MB of weights do not fit the cache.

``--compare`` walks pairs of clean and noisy speech through the owners' runtime (libdf), through these graphs with all
frames computed, as the box runs them (the decoders rest in silence), the same in int8, and through the published
graphs called frame by frame as they are: no memory, no history, and at last no look-ahead either. All hear the same
second of sound in turn; times are medians of a frame with and without the decoders.
"""
