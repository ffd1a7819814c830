#!/usr/bin/env bash
# Quietbox in one command. Installs what is missing, then does the main job:
#   on a Raspberry Pi          installs the box as a service, after saying what it will do (`--dry-run` stops there)
#   on any other Debian        plays a noisy recording through the live box on ALSA and shows what it did
# `./install.sh --setup [EXTRAS]` makes .venv for work on the program (what tests/run does, EXTRAS of pyproject.toml).
# `./install.sh --board` installs the service on any Debian; `./install.sh --help` lists that install's options.
# `./install.sh --here` runs the live box on this machine's own microphone and output for two minutes, `--demo` plays the
# recording again.
# Run it as often as you like: what is there already is left alone, what a power cut left half done is finished.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")"

say() { printf '==> %s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

on_a_pi() { tr -d '\0' 2>/dev/null </proc/device-tree/model | grep -q 'Raspberry Pi'; }

# Runs what may print nothing for minutes, and says that it goes on: on a terminal each second in the same line, else every
# half minute.
waiting() {
    local text=$1 began=$SECONDS pid status=0 every=30 last=0
    shift
    "$@" &
    pid=$!
    trap 'kill '$pid' 2>/dev/null || true' EXIT  # a shell's background process hears no Ctrl-C
    [ -t 3 ] && every=1
    while kill -0 $pid 2>/dev/null; do
        sleep 0.2
        ((SECONDS - began >= last + every)) || continue
        last=$((SECONDS - began))
        if [ -t 3 ]; then printf '\r    %s: %d s, %sB on disk ' "$text" $last "$(du -sh .venv | cut -f1)" >&3
        else printf '    %s: %d s\n' "$text" $last >&3; fi
    done
    wait $pid || status=$?
    trap - EXIT
    if [ -t 3 ] && [ $last -gt 0 ]; then printf '\r\033[K' >&3; fi
    return $status
}
exec 3>&2  # where progress goes, whatever becomes of a command's own words

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "not root and no sudo; run as root: $*"
    fi
}

# Debian packages: pyalsaaudio is built here (Debian 12 carries 0.8.4), the rest are libraries and, off the Pi, the
# sound server that stands in for a sound card. More by name: what only the tests need.
system_packages() {
    local wanted=(python3 python3-venv python3-dev gcc libasound2-dev libsndfile1 alsa-utils) missing=() package size
    wanted+=("$@")
    on_a_pi || wanted+=(jackd2 libasound2-plugins)
    for package in "${wanted[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "this needs Debian packages (${missing[*]}) and there is no apt-get"
    as_root apt-get update -q
    size=$(apt-get install -q --assume-no --no-install-recommends "${missing[@]}" 2>/dev/null |
        sed -n 's/^Need to get \(.*\) of archives.*/\1/p') || true
    say "installing Debian packages (${size:-nothing} to load): ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# What systemd-python is built with: it comes as source.
systemd_python=(libsystemd-dev pkg-config)

# What the tests run beside that, 50 MB on the smallest Debian 12, less on others (shellcheck 19, systemd 10):
# device tree compiler, file systems without root, systemd's checkers and journal, jq, ssh-keygen, network namespaces.
tested_with=(
    device-tree-compiler e2fsprogs fdisk mtools cpio systemd jq openssh-client strace iproute2 shellcheck
)

find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null &&
            "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python from 3.11 on; Debian 12 and 13 have it as python3"
}

# pip installs what requirements.lock pins, each file by its hash: the lock's part for some extras, complete, so that pip
# resolves nothing. What comes as source is built with tools of the lock, too. First the arguments of hw.install.lockfile, then extras.
# Other bytes than the lock pins end the whole setup; any other failure is the caller's to judge.
from_lock() {
    local log=.venv/part.log refused
    .venv/bin/python -m hw.install.lockfile "$@" >.venv/part.lock || return 1  # set -e is off before a ||
    if ! waiting "$(grep -c '^[a-z0-9].*==' .venv/part.lock || true) packages" \
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        --no-build-isolation --use-pep517 -r .venv/part.lock 2>$log; then
        if grep -q 'DO NOT MATCH THE HASHES' $log; then
            refused=$(sed -n 's/^ *\([A-Za-z0-9._-]*==[^ ]*\) from .*:$/\1/p' $log | head -n 1)
            fail "refused: ${refused:-a package} is not the file that requirements.lock pins; nothing of it was installed"
        fi
        cat $log >&2
        return 1
    fi
    rm -f .venv/part.lock $log
}

# 32-bit ARM has wheels at piwheels.org only, whose hashes are not in the lock: there pip resolves pyproject.toml.
locked_here() { .venv/bin/python -c 'import sys; sys.exit(sys.maxsize < 2**32)'; }

# A virtual environment in .venv with this checkout installed in place. Redone only when what is to be installed changed.
python_packages() {
    local extras=$1 stamp wanted torch='' quiet=(--quiet --disable-pip-version-check)
    stamp=.venv/.installed-$extras
    wanted=$(sha256sum pyproject.toml requirements.lock)
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c 'import edge.cli'; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "making .venv"
        rm -rf .venv
        "$(find_python)" -m venv .venv
    fi
    say "installing Python packages into .venv (extras: $extras)"
    if ! locked_here; then
        say "32-bit system: versions by pyproject.toml, without hashes"
        .venv/bin/python -m pip install "${quiet[@]}" -e ".[$extras]"
    else
        if [[ ,$extras, == *,train,* ]]; then
            torch=$(.venv/bin/python -m hw.install.lockfile --torch)
            say "PyTorch loads ${torch#*: }"
        fi
        from_lock --build "$extras"
        case $torch in
            cpu*) from_lock --cpu "$extras" ;;
            cuda*) from_lock --cuda "$extras" ;;
            *) from_lock "$extras" ;;
        esac
        from_lock onnx || say "no ONNX Runtime for this board: NumPy runs the network"
        .venv/bin/python -m pip install "${quiet[@]}" --no-deps --no-build-isolation -e .
    fi
    printf '%s\n' "$wanted" >"$stamp"
}

# Plays the recording unless nothing has changed since it was played.
demo() {
    local done=out/.done changed=yes
    if [ "${1-}" != again ] && [ -s out/enhanced.wav ] && [ -e $done ]; then
        changed=$(find edge models hw tests/sounds -type f -not -path '*/__pycache__/*' -newer $done -print -quit)
    fi
    if [ -z "$changed" ]; then
        say "the demonstration of this version lies in out/; ./install.sh --demo plays it again"
    else
        say "no Raspberry Pi here: playing a noisy recording through the live box on user-space ALSA"
        .venv/bin/python -m hw.prove.demo --out out
        touch $done
    fi
    cat <<'NEXT'

Listen:     tests/sounds/noisy/rain_en_5dB.flac (the microphone), then out/enhanced.wav (the headphones)
Look:       out/spectrogram.png
Your sound: .venv/bin/quietbox enhance my.wav -o clean.wav
Live here:  ./install.sh --here (this machine's microphone and output, for two minutes)
Build one:  docs/build-a-box.md
NEXT
}

# The live box on this machine's own sound card.
here() {
    [ -n "$(ls -d /proc/asound/card[0-9]* 2>/dev/null)" ] ||
        fail "this machine has no sound card; ./install.sh without --here plays a recording instead"
    .venv/bin/quietbox doctor --seconds 2 || fail "the box would not work here; the table above names the fix"
    say "Mind your ears: hold the headphones in your hand first. Two minutes, or Ctrl-C; louder: .venv/bin/quietbox volume up"
    .venv/bin/quietbox run --seconds 120
}

# The service, by hw/install/command.py. It runs with the system's Python, because the service will: it may not look into
# anybody's home. Only what changes the system itself needs root.
board() {
    local python=/usr/bin/python3 argument change=as_root
    if [ ! -x $python ]; then
        say "installing the Debian package python3"
        as_root apt-get update -q
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3
    fi
    $python -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is older than 3.11; Debian 12 and 13 (and Raspberry Pi OS made of them) have a newer one"
    for argument in "$@"; do
        case $argument in --help | -h | --dry-run | --root* | --collect-wheels*) change= ;; esac
    done
    $change $python -B -m hw.install --called-from "$called_from" "$@"
}

case ${1-} in
    '') if on_a_pi; then board; else system_packages; python_packages pictures; demo; fi ;;
    --demo) system_packages; python_packages pictures; demo again ;;
    --here) system_packages; python_packages pictures; here ;;
    --setup)
        case ,${2-}, in
            *,dev,*) system_packages "${systemd_python[@]}" "${tested_with[@]}" ;;
            *,systemd,*) system_packages "${systemd_python[@]}" ;;
            *) system_packages ;;
        esac
        python_packages "${2:-pictures}"
        ;;
    --help | -h) sed -n '2,10s/^# \{0,1\}//p' "$0"; echo; board --help ;;
    *) board "$@" ;;
esac
