"""The export: a weights file in, an ONNX file out, both compared before anything is written."""

import argparse

from models.command import BadRequest
from models.train.checkpoint import read_weights
from models.window_training import holds_unet, load_unet
from quant.export.network import MOST_DIFFERENCE, PROOF_HOPS, build, difference, read_network
from quant.export.window import PROOF_WINDOWS, build_window, window_difference
from quant.graph import can_write, write_whole
from quant.history import KEY, recorded, step


def export(asked: argparse.Namespace) -> int:
    """Raises UserError; the options are those of ``quant.export``."""
    can_write(asked.out, asked.weights)
    if holds_unet(asked.weights):
        unet = load_unet(asked.weights)
        model = build_window(unet)
        apart, proof = window_difference(unet, model), f"{PROOF_WINDOWS} windows"
    else:
        network = read_network(asked.weights)
        model = build(network)
        if earlier := read_weights(asked.weights).get(KEY):
            model = recorded(model, str(earlier))
        apart, proof = difference(network, model), f"{PROOF_HOPS} hops"
    if not apart < MOST_DIFFERENCE:
        raise BadRequest(f"the graph differs from the network by {apart:.1e}; quant/export does not match the module")
    model = recorded(model, step("export", asked.weights))
    size = write_whole(asked.out, lambda content: content.write(model.SerializeToString()))
    nodes = len(model.graph.node)
    print(f"{asked.out}: {size} bytes, {nodes} nodes, largest difference {apart:.1e} over {proof}")
    return 0
