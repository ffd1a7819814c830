"""The roll-out on a running box: in the virtual machine, with real systemd and no network, Ansible being there itself.

    sudo python -m hw.prove.fleet [--cache DIR] [--kernel FILE]

Settings and a model roll out and the service takes them; the same again changes nothing; settings after which the box
gives no answer are taken back; no variable at all changes nothing. Not proven by it: SSH, apt, the uploader, our card
image. Needs root, and pip with a network for ansible-core's wheels.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edge import UserError
from edge.console import run_main
from hw.prove import needs
from hw.virtual.pi import image, kernel, machine, product

PLAYBOOK = Path(__file__).parents[1] / "fleet"
"""The roll-out that is proven."""
LIMIT_S = 1500.0
INVENTORY = """boxes:
  hosts:
    here: {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3, quietbox_become: false}
"""
JOB = r"""
export LC_ALL=C.UTF-8 HOME=/root ANSIBLE_NOCOLOR=1
for _ in $(seq 60); do systemctl is-active --quiet quietbox.service && break; sleep 1; done
python3 -m venv /opt/ansible
/opt/ansible/bin/pip install --quiet --no-index --find-links wheels ansible-core || exit 1
cp -r fleet /root
play() {
    echo "=== $*"
    /opt/ansible/bin/ansible-playbook -i inventory.yml /root/fleet/rollout.yml "$@" >>ansible.log 2>&1
    echo "status $?, $(grep '^here  *:' ansible.log | tail -1 | tr -s ' '), $(grep limit /etc/quietbox/quietbox.toml)"
    quietbox status
}
play -e quietbox_settings=/share/12.toml -e '{"quietbox_models": ["/share/cafe"]}'
play -e quietbox_settings=/share/12.toml -e '{"quietbox_models": ["/share/cafe"]}'
mv /usr/local/bin/quietbox /usr/local/bin/aside
ln -s /bin/false /usr/local/bin/quietbox
play -e quietbox_settings=/share/18.toml
mv /usr/local/bin/aside /usr/local/bin/quietbox
play
journalctl -u quietbox -o cat | grep -c 'settings read again'
"""
WANTED = (
    r"status 0, here : ok=\d+ changed=[1-9].* failed=0 .*limit_db = 12$",
    r"status 0, here : ok=\d+ changed=0 .* failed=0 .*limit_db = 12$",
    r"status [1-9], here : .* failed=1 .* rescued=1 .*limit_db = 12$",
    r"status 0, here : ok=\d+ changed=0 .* failed=0 .*limit_db = 12$",
)


def prove(cache: Path, given: Path | None, share: Path) -> bool:
    """Whether the four runs went as they should; prints their output. Raises UserError."""
    program = given.resolve() if given else kernel.kernel(cache)
    disk = image.disk(cache)
    layer, _ = product.installed(cache, program, disk)
    machine.copy_layer(layer, share / "layer")
    shutil.copytree(PLAYBOOK, share / "fleet", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (share / "cafe").mkdir()
    shutil.copy(product.CHECKOUT / "models/rnn/rnn.npz", share / "cafe/cafe.npz")
    for limit_db in (12, 18):
        (share / f"{limit_db}.toml").write_text(f"{product.SETTINGS}[suppress]\nlimit_db = {limit_db}\n")
    (share / "inventory.yml").write_text(INVENTORY)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(share / "wheels"), "ansible-core"]
    if subprocess.run(command, capture_output=True).returncode:
        raise UserError("ansible-core cannot be fetched; is there a network?")
    machine.job(share, JOB)
    ended = machine.boot(program, disk, share / "layer", share, limit_s=LIMIT_S)
    output = (share / "stdout").read_text() if (share / "stdout").exists() else ""
    print(output, end="")
    found = [line for line in output.splitlines() if line.startswith("status ")]
    held = len(found) == len(WANTED) and all(map(re.match, WANTED, found))
    print(f"{'holds' if held else 'FAILED'}, {ended.seconds:.0f} s")
    return held


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hw.prove.fleet", description="The roll-out on a virtual box.")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quietbox"
    parser.add_argument("--cache", type=Path, default=default, metavar="DIR", help=f"as in hw.prove.pi ({default})")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="a kernel built elsewhere")
    options = parser.parse_args()
    try:
        cache = options.cache.resolve() / "virtual"
        needs.check(needs.fleet(cache, options.kernel))
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fleet-proof-", ignore_cleanup_errors=True) as name:
            return 0 if prove(cache, options.kernel, Path(name)) else 1
    except UserError as error:
        print(f"fleet proof: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    run_main(main, "fleet proof")
