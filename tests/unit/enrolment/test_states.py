# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of states, against the way that it is drawn in the issue."""

from __future__ import annotations

import itertools

import pytest

from vauban_enrolment import states
from vauban_enrolment.states import Action, Event, State, WrongOrder

GOOD = {
    (State.QUARANTINED, Event.APPROVE): State.CHALLENGED,
    (State.QUARANTINED, Event.APPROVE_WITHOUT_TPM): State.PROVEN,
    (State.CHALLENGED, Event.PROVE): State.PROVEN,
    (State.PROVEN, Event.BEGIN): State.INSTALLING,
    (State.INSTALLING, Event.ESCROW): State.ESCROWED,
    (State.ESCROWED, Event.WRITE): State.WRITTEN,
    (State.WRITTEN, Event.ATTEST): State.INSTALLED,
    (State.CHALLENGED, Event.PROVE_TO_WIPE): State.WIPING,
    (State.CHALLENGED, Event.PROVE_TO_KEEP): State.KEEPING,
    (State.KEEPING, Event.ESCROW): State.ESCROWED,
    (State.WIPING, Event.WIPE): State.WIPED,
    (State.CHALLENGED, Event.PROVE_TO_REPAIR): State.REPAIRING,
    (State.REPAIRING, Event.REPAIR): State.REPAIRED,
    (State.CHALLENGED, Event.PROVE_TO_BACK_UP): State.BACKING_UP,
    (State.BACKING_UP, Event.BACK_UP): State.BACKED_UP,
    **{(state, Event.REFUSE): State.REFUSED for state in State},
    **{(state, Event.FAIL): State.FAILED for state in State},
}
ENDS = {State.INSTALLED, State.REPAIRED, State.BACKED_UP, State.WIPED, State.REFUSED, State.FAILED}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_in_every_state(state: State, event: Event) -> None:
    if state not in ENDS and (state, event) in GOOD:
        assert states.after(state, event) is GOOD[state, event]
    else:
        with pytest.raises(WrongOrder):
            states.after(state, event)


def test_ends_are_ends() -> None:
    assert set(states.ENDS) == ENDS


def test_nothing_that_a_host_owns_is_for_who_has_not_proven_it() -> None:
    for action in Action:
        assert not {State.QUARANTINED, State.CHALLENGED, *ENDS} & set(states.ALLOWED[action])


def test_installed_is_reached_by_every_step_and_no_other_way() -> None:
    reached = {State.CHALLENGED}
    for last in (State.PROVEN, State.INSTALLING, State.ESCROWED, State.WRITTEN, State.INSTALLED):
        before = {state for state, events in states.TRANSITIONS.items() if last in events.values()} - {
            State.QUARANTINED,
            State.KEEPING,
        }
        assert before <= reached
        reached = {last}


def test_who_is_to_erase_its_disk_gets_nothing_of_a_host_and_becomes_none() -> None:
    allowed = {action for action in Action if State.WIPING in states.ALLOWED[action]}
    assert allowed == {Action.READ_WIPE, Action.REPORT}
    assert set(states.TRANSITIONS[State.WIPING].values()) == {State.WIPED, State.REFUSED, State.FAILED}


def test_who_keeps_its_disk_is_never_told_to_install() -> None:
    """An installer of an earlier release would erase the disk."""
    assert State.KEEPING not in states.ALLOWED[Action.READ_INSTALLATION]
    assert [state for state, events in states.TRANSITIONS.items() if State.KEEPING in events.values()] == [
        State.CHALLENGED
    ]
    assert set(states.TRANSITIONS[State.KEEPING].values()) == {State.ESCROWED, State.REFUSED, State.FAILED}


def test_who_repairs_its_disk_gets_its_key_and_nothing_else() -> None:
    allowed = {action for action in Action if State.REPAIRING in states.ALLOWED[action]}
    assert allowed == {Action.READ_REPAIR, Action.UNLOCK, Action.REPORT}
    assert set(states.TRANSITIONS[State.REPAIRING].values()) == {State.REPAIRED, State.REFUSED, State.FAILED}


def test_who_sends_its_data_gets_its_key_and_nothing_else() -> None:
    allowed = {action for action in Action if State.BACKING_UP in states.ALLOWED[action]}
    assert allowed == {Action.READ_BACKUP, Action.SEND_BACKUP, Action.UNLOCK, Action.REPORT}
    assert set(states.TRANSITIONS[State.BACKING_UP].values()) == {State.BACKED_UP, State.REFUSED, State.FAILED}
