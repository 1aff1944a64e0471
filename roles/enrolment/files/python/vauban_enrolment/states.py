# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The states of an enrolment, what leads from one to the next, and what may be asked for in each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """How far a machine has come."""

    QUARANTINED = "quarantined"  # unknown: listed, approvable, given nothing
    CHALLENGED = "challenged"  # matched to a host; has to prove what it is
    PROVEN = "proven"  # gets what is its host's
    KEEPING = "keeping"  # the same of another board or TPM, with the disk of its host, which keeps what is on it
    INSTALLING = "installing"
    ESCROWED = "escrowed"  # its recovery key is kept
    WRITTEN = "written"  # the installer has finished
    INSTALLED = "installed"  # booted from its disk and proved it
    REPAIRING = "repairing"  # is a host; has proven that, and is to repair its disk
    REPAIRED = "repaired"  # has done that; it is the host as before
    BACKING_UP = "backing_up"  # is a host; has proven that, and is to send its data, encrypted
    BACKED_UP = "backed_up"  # has done that; it is the host as before
    WIPING = "wiping"  # was a host; has proven that, and is to erase its disk
    WIPED = "wiped"  # has erased it, and is nobody
    REFUSED = "refused"  # by us, or by an admin
    FAILED = "failed"  # by itself, or by silence


class Event(StrEnum):
    """What changes a state."""

    APPROVE = "approve"
    APPROVE_WITHOUT_TPM = "approve_without_tpm"  # nothing can be proven, so the approval is all there is
    PROVE = "prove"
    PROVE_TO_KEEP = "prove_to_keep"  # the same proof, of a machine that has the disk of its host
    PROVE_TO_REPAIR = "prove_to_repair"  # the same proof, of a machine that is to repair its disk
    PROVE_TO_BACK_UP = "prove_to_back_up"  # the same proof, of a machine that is to send its data
    PROVE_TO_WIPE = "prove_to_wipe"  # the same proof, of a machine that is to erase its disk
    BEGIN = "begin"
    ESCROW = "escrow"
    WRITE = "write"
    ATTEST = "attest"
    REPAIR = "repair"
    BACK_UP = "back_up"
    WIPE = "wipe"
    REFUSE = "refuse"
    FAIL = "fail"


class Action(StrEnum):
    """What is asked for without changing a state."""

    READ_INSTALLATION = "read installation"
    READ_KEEPING = "read what is kept"
    UNLOCK = "have the disk opened"
    REQUEST_CERTIFICATE = "request a certificate"
    READ_CERTIFICATE = "read a certificate"
    REPORT = "report"
    READ_NONCE = "read a nonce"
    READ_REPAIR = "read the order to repair"
    READ_BACKUP = "read the order to back up"
    SEND_BACKUP = "send a backup"
    READ_WIPE = "read the order to wipe"


class WrongOrder(Exception):
    """The state does not allow it."""


# Refusing and failing are added to every state that is not an end.
_STEPS: Mapping[State, Mapping[Event, State]] = {
    State.QUARANTINED: {Event.APPROVE: State.CHALLENGED, Event.APPROVE_WITHOUT_TPM: State.PROVEN},
    State.CHALLENGED: {
        Event.PROVE: State.PROVEN,
        Event.PROVE_TO_KEEP: State.KEEPING,
        Event.PROVE_TO_REPAIR: State.REPAIRING,
        Event.PROVE_TO_BACK_UP: State.BACKING_UP,
        Event.PROVE_TO_WIPE: State.WIPING,
    },
    # An installer that knows nothing of it asks for an installation, and gets none: it would erase the disk.
    State.KEEPING: {Event.ESCROW: State.ESCROWED},
    State.PROVEN: {Event.BEGIN: State.INSTALLING},
    State.INSTALLING: {Event.ESCROW: State.ESCROWED},
    State.ESCROWED: {Event.WRITE: State.WRITTEN},
    State.WRITTEN: {Event.ATTEST: State.INSTALLED},
    State.REPAIRING: {Event.REPAIR: State.REPAIRED},
    State.BACKING_UP: {Event.BACK_UP: State.BACKED_UP},
    State.WIPING: {Event.WIPE: State.WIPED},
}
_ENDING: Mapping[Event, State] = {Event.REFUSE: State.REFUSED, Event.FAIL: State.FAILED}

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    state: {**_STEPS[state], **_ENDING} if state in _STEPS else {} for state in State
}
FIRST = (State.QUARANTINED, State.CHALLENGED, State.REFUSED)
ENDS = tuple(state for state in State if not TRANSITIONS[state])
UNPROVEN = (State.QUARANTINED, State.CHALLENGED)
UNFINISHED = tuple(state for state in State if TRANSITIONS[state])
# Those whose machine acts as the host: two of them would be two machines with one name.
ACTING = (State.PROVEN, State.KEEPING, State.INSTALLING, State.ESCROWED, State.WRITTEN)
# Those in which the installer has said its last. What comes now is the installed machine's, which proves itself by its
# TPM: its keys are for the programs that use them, and for nobody who asks us.
LEFT_BY_INSTALLER = (State.WRITTEN, State.INSTALLED, State.REFUSED, State.FAILED)
# Those whose machine is told what to do with its disk, and nothing else.
ORDERED = (State.REPAIRING, State.REPAIRED, State.BACKING_UP, State.BACKED_UP, State.WIPING, State.WIPED)

ALLOWED: Mapping[Action, tuple[State, ...]] = {
    Action.READ_INSTALLATION: (State.PROVEN, State.INSTALLING, State.ESCROWED),
    Action.READ_KEEPING: (State.KEEPING,),
    Action.UNLOCK: (State.KEEPING, State.REPAIRING, State.BACKING_UP),
    Action.REQUEST_CERTIFICATE: (State.PROVEN, State.KEEPING, State.INSTALLING, State.ESCROWED),
    Action.READ_CERTIFICATE: ACTING,
    Action.REPORT: (*ACTING, State.REPAIRING, State.BACKING_UP, State.WIPING),
    Action.READ_NONCE: (State.WRITTEN,),
    Action.READ_REPAIR: (State.REPAIRING,),
    Action.READ_BACKUP: (State.BACKING_UP,),
    Action.SEND_BACKUP: (State.BACKING_UP,),
    Action.READ_WIPE: (State.WIPING,),
}


def after(state: State, event: Event) -> State:
    """The state that an event leads to.

    :raises WrongOrder: it is not one of this state's events.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise WrongOrder(f"{event} in state {state}") from None


def check(state: State, action: Action) -> None:
    """Whether it may be asked for now.

    :raises WrongOrder: it may not.
    """
    if state not in ALLOWED[action]:
        raise WrongOrder(f"{action} in state {state}")
