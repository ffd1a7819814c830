"""What the start of the service must not wait for."""

import subprocess
import sys

SLOW = (
    "numpy.random",
    "importlib.metadata",
    "scipy",
    "rich",
    "soundfile",
    "matplotlib",
    "torch",
    "onnx",
    "zmq",
    "nacl",
)


def test_the_running_box_imports_nothing_slow() -> None:
    """SciPy alone takes a second here, an estimated ten on a Pi 3, and the wearer waits for it at power-on."""
    start = "import sys, edge.service, edge.suppress as s, edge.config as c, edge.box as b; b.Box(c.Config())"
    code = f"{start}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {*loaded} & {*SLOW}
