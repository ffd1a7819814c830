"""Taking the box off a system: everything in the ledger, backwards."""

from functools import partial
from pathlib import Path

from hw.install import firmware, ledger, settings
from hw.install.places import MANIFEST, OPT, SERVICE
from hw.install.system import account_names
from hw.install.target import Step, Target, attempt, do_steps, list_steps, run, say


def uninstall(target: Target) -> int:
    """List the steps and do them; returns the exit status."""
    steps = removal(target)
    list_steps(steps)
    if target.options.dry_run:
        return 0
    target.check_root()
    with target.alone():
        do_steps(steps)
    say("Quietbox has been removed" if steps else "nothing of Quietbox is installed here")
    return 0


def removal(target: Target) -> list[Step]:
    """Everything in the ledger, backwards."""
    if not target.at(OPT).is_dir():
        return [*settings.removal(target)] if target.options.purge else []
    steps = []
    units = [path for path in map(Path, target.ledger.files) if path.suffix == ".service"]
    if target.systemd and units:
        names = [path.name for path in units]
        steps.append(Step(f"stop {' '.join(names)}", partial(attempt, ["systemctl", "stop", *names])))
    for name in [*target.ledger.links, *target.ledger.files]:
        path = target.at(name)
        if path.parent != target.at(OPT):
            steps.append(Step(f"remove {target.named(path)}", partial(target.ledger.drop, path)))
    if target.ledger.config_txt:
        path = target.at(target.ledger.config_txt)
        steps.append(Step(f"remove Quietbox's lines from {target.named(path)}", lambda: firmware.restore(target, path)))
    steps += [*settings.removal(target)]
    accounts = [*target.ledger.users, *target.ledger.groups]
    if accounts:
        steps.append(Step(f"remove the accounts {' '.join(dict.fromkeys(accounts))}", lambda: remove_accounts(target)))
    if target.systemd:
        steps.append(Step("reload systemd and udev", forget_units))
    if target.ledger.packages:
        say(f"these Debian packages were installed with it and are kept: {' '.join(target.ledger.packages)}")
    steps.append(Step(f"remove {target.named(target.at(OPT))}", lambda: remove_program(target)))
    return steps


def remove_accounts(target: Target) -> None:
    """Those that an install made."""
    where = [] if target.live else ["--prefix", str(target.root)]
    for user in target.ledger.users:
        if user in account_names(target.at("etc/passwd")):
            run(["userdel", *where, user])
    for group in target.ledger.groups:
        if group in account_names(target.at("etc/group")):
            run(["groupdel", *where, group])
    target.ledger.users, target.ledger.groups = [], []
    target.ledger.save()


def forget_units() -> None:
    """systemd and udev read their files again."""
    attempt(["systemctl", "daemon-reload"])
    attempt(["systemctl", "reset-failed", SERVICE])
    attempt(["udevadm", "control", "--reload"])


def remove_program(target: Target) -> None:
    """The ledger goes last, so that a run cut off here can be finished."""
    manifest = target.at(MANIFEST)
    for path in sorted(target.at(OPT).iterdir()):
        if path != manifest:
            ledger.remove_tree(path)
    target.ledger.remove_folders()
    target.ledger.forget()
    target.ledger.remove_folders()
