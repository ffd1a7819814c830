"""The conversion and the comparison."""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from edge.files import atomic
from edge.suppress.foreign.deepfilter import STAGES
from models.command import BadRequest, need
from quant.deepfilter.archive import SHA256, names_in, read_archive, write
from quant.deepfilter.compare import compare, table_of, variants
from quant.deepfilter.integers import int8
from quant.deepfilter.streaming import CHECKED_FRAMES, check, streaming
from quant.evaluate.sounds import read_pairs
from quant.peers import dfn3_files


def run(asked: argparse.Namespace) -> int:
    """Raises UserError; the options are those of ``quant.deepfilter``."""
    if not (asked.out or asked.compare):
        raise BadRequest("nothing to do; give --out DIR, --compare or both")
    if asked.compare and not asked.pairs:
        raise BadRequest("--compare needs --pairs DIR, a folder that holds clean/ and noisy/")
    if asked.every < 1 or not 0 <= asked.pause_s <= 600:
        raise BadRequest("--every needs 1 or more, --pause-s 0 to 600")
    if asked.compare:
        need("quantize,peers", "pesq", "pystoi")
    archive = asked.archive or dfn3_files()[0]
    for target in names_in(asked.out) if asked.out else []:
        atomic.refuse_overwriting(target, [archive], "--out")
    sha256 = (asked.sha256 or SHA256).lower()
    published = read_archive(archive, sha256)
    stages = {stage: streaming(stage, published[stage]) for stage in STAGES}
    worst = check(published, stages)
    small = {stage: int8(model) for stage, model in stages.items()} if asked.int8 or asked.compare else {}
    console = Console()
    console.print(f"{CHECKED_FRAMES} frames one by one differ from the published graphs' by {worst:.1g} at most.")
    if asked.out:
        write(asked.out, small if asked.int8 else stages, sha256, "int8" if asked.int8 else "float32")
        console.print(f'{asked.out}: DeepFilterNet3 for engine = "deepfilternet3"', soft_wrap=True)
    if asked.compare:
        sounds = read_pairs(asked.pairs)[:: asked.every]
        with tempfile.TemporaryDirectory() as folder:
            folders = Path(folder, "float32"), Path(folder, "int8")
            for place, graphs in zip(folders, (stages, small), strict=True):
                write(place, graphs, sha256, place.name)
            found = variants(*folders)
            compare(found, sounds, asked.pause_s)
        console.print(table_of(found, len(sounds), asked.pause_s))
    return 0
