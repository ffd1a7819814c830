"""The probe on the card's copy: one more service that looks at the running system and writes to the serial line."""

import re
from pathlib import Path

from hw.prove.emulated import Card

MARK = "quietbox-probe"
PATIENCE = """[Service]
TimeoutStartSec=1800
WatchdogSec=300
"""
"""Laid over the service's unit on the copy: emulated, on a busy host, it needs minutes for what takes a Pi seconds."""
PROBE_UNIT = f"""[Unit]
Description=Test probe of hw.prove.pi3
After=quietbox.service multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/sbin/{MARK}
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
TimeoutStartSec=infinity
"""
PROBE = rf"""#!/bin/sh
say() {{ printf '{MARK} %s=%s\n' "$1" "$(printf %s "$2" | tr '\n\r' '  ' | cut -c1-1500)"; }}
for second in $(seq 120); do systemctl is-active -q quietbox.service && break; sleep 1; done
say unit "$(systemctl show quietbox.service -p ActiveState -p SubState -p NRestarts -p StatusText)"
say failed "$(systemctl list-units --failed --plain --no-legend | cut -d' ' -f1)"
touch /probe 2>/dev/null && say root writable || say root "read-only, $(grep ' / ' /proc/mounts | cut -c1-60)"
say name "$(hostname) $(cat /etc/machine-id)"
say data "$(df -m /data | tail -1 | tr -s ' ')"
say mounts "$(grep -E '^[^ ]+ (/data|/boot/firmware) ' /proc/mounts)"
say secrets "$(setpriv --reuid=quietbox --regid=quietbox --clear-groups ls /boot/firmware 2>&1)"
say open "$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -c ' 0A ')"
say wires "$(cd /sys/class/net && for wire in *; do echo $wire $(cat $wire/operstate); done)"
say password "$(cut -d: -f2 /etc/shadow | sort -u)"
say version "$(quietbox-versions show)"
say use "$(readlink /run/quietbox-version)"
say settings "$(journalctl -b -u quietbox-boot -o cat --no-pager)"
say boots "$(journalctl --list-boots --no-pager | grep -cE '^ *-?[0-9]+ ')"
say field "$(journalctl -b -u quietbox -o json --no-pager | grep QUIETBOX_STATE | tail -1 | cut -c1-1400)"
say journal "$(journalctl -b -u quietbox -o cat --no-pager -n 12)"
say quick yes
[ -e /etc/quietbox-probe-short ] && exit 0
output=$(quietbox doctor --no-sound 2>&1)
exit=$?
say doctor "$(echo "$output" | grep -v '[┃│┡├└┏━─]' | tail -n 2) exit $exit"
for engine in network rnn dsp; do
    began=$(cut -d. -f1 /proc/uptime)
    output=$(quietbox enhance /usr/share/quietbox-probe.wav -o /tmp/$engine.wav --engine $engine 2>&1)
    exit=$? took=$(($(cut -d. -f1 /proc/uptime) - began))
    say enhance-$engine "exit $exit, $(stat -c %s /tmp/$engine.wav) bytes, $took s: $output"
done
say done yes
"""


def add_probe(card: Card, work: Path, short: bool) -> None:
    import numpy as np
    import soundfile

    rate_hz = 16_000
    noise = np.random.default_rng(1).normal(0, 0.05, rate_hz // 2)
    sound = work / "probe.wav"
    soundfile.write(sound, noise, rate_hz, subtype="PCM_16")
    units = "/etc/systemd/system"
    files = {f"/usr/sbin/{MARK}": PROBE.encode(), f"{units}/{MARK}.service": PROBE_UNIT.encode()}
    files["/usr/share/quietbox-probe.wav"] = sound.read_bytes()
    files[f"{units}/quietbox.service.d/patience.conf"] = PATIENCE.encode()
    if short:
        files["/etc/quietbox-probe-short"] = b""
    links = {f"{units}/multi-user.target.wants/{MARK}.service": f"{units}/{MARK}.service"}
    card.into_root(files, links, work)


def answers(console: str) -> dict[str, str]:
    """What the probe reported, by name."""
    return {key: text.strip() for key, text in re.findall(rf"{MARK} ([\w-]+)=([^\r\n]*)", console)}
