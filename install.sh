#!/usr/bin/env bash
# Quietbox in one command. Installs what is missing, then does the main job:
#   on a Raspberry Pi          installs the box as a service, after saying what it will do (`--dry-run` stops there)
#   on any other Debian        plays a noisy recording through the live box on ALSA and shows what it did
# `./install.sh --setup [EXTRAS]` makes .venv for work on the program (what tests/run does, EXTRAS of pyproject.toml).
# `./install.sh --board` installs the service on any Debian; `./install.sh --help` lists that install's options.
# Run it as often as you like: what is there already is left alone, what a power cut left half done is finished.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")"

say() { printf '==> %s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

on_a_pi() { tr -d '\0' 2>/dev/null </proc/device-tree/model | grep -q 'Raspberry Pi'; }

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
    local wanted=(python3 python3-venv python3-dev gcc libasound2-dev libsndfile1 alsa-utils) missing=() package
    wanted+=("$@")
    on_a_pi || wanted+=(jackd2 libasound2-plugins)
    for package in "${wanted[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || fail "this needs Debian packages (${missing[*]}) and there is no apt-get"
    say "installing Debian packages: ${missing[*]}"
    as_root apt-get update -q
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
    if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
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

demo() {
    say "no Raspberry Pi here: playing a noisy recording through the live box on user-space ALSA"
    .venv/bin/python -m hw.prove.demo --out out
    .venv/bin/python -m edge.tools.response --picture out/response.png
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
    --setup)
        case ,${2-}, in
            *,dev,*) system_packages "${systemd_python[@]}" "${tested_with[@]}" ;;
            *,systemd,*) system_packages "${systemd_python[@]}" ;;
            *) system_packages ;;
        esac
        python_packages "${2:-pictures}"
        ;;
    --help | -h) sed -n '2,8s/^# \{0,1\}//p' "$0"; echo; board --help ;;
    *) board "$@" ;;
esac
