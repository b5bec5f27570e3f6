"""The record that outlives a pager: what is written is read again by another mapping of it."""

import struct

import pytest

from zeropod.kernel.userfault import FORK, MESSAGE, PAGEFAULT, REMAP, REMOVE, Message
from zeropod.runtime.pager.journal import BUSY, FULL, NUMBER, READ, READER, READING, Event, Journal, Kind, Phase
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES


def test_another_mapping_reads_the_events_in_their_order() -> None:
    journal = Journal.create()
    happened = [Event(Kind.ADOPT, 0, 1), Event(Kind.FORK, 0), Event(Kind.REMAP, 1, 4096, 8192, 4096)]
    assert all(map(journal.record, happened))
    assert list(Journal(journal.descriptor).events()) == happened


def test_the_shim_s_word_and_the_pager_s_state_are_seen_by_the_other_side() -> None:
    journal = Journal.create()
    other = Journal(journal.descriptor)
    assert (journal.draining, journal.doubt(), journal.phase) == (False, "", Phase.HANDOVER)
    other.drain()
    other.memory[BUSY] = FULL
    other.phase = Phase.DONE
    assert (journal.draining, journal.phase) == (True, Phase.DONE)
    assert "no room" in journal.doubt()


MESSAGES = (
    Message(PAGEFAULT, 0, 4096, 0),
    Message(REMAP, 4096, 8192, 4096),
    Message(REMOVE, 4096, 8192, 0),
    Message(PAGEFAULT, 0, 8192, 0),
    Message(REMOVE, 12288, 16384, 0),
)
EVENTS = [
    Event(Kind.REMAP, 3, 4096, 8192, 4096),
    Event(Kind.REMOVE, 3, 4096, 8192),
    Event(Kind.REMOVE, 3, 12288, 16384),
]


def read(journal: Journal, *read: Message) -> None:
    """As a pager that dies then."""
    journal.record(Event(Kind.ADOPT, 3, 1))
    NUMBER.pack_into(journal.memory, READER, 3)
    journal.memory[BUSY] = READING
    data = b"".join(
        struct.pack("=BxxxxxxxQQQ", message.event, message.first, message.second, message.third) for message in read
    )
    journal.inbox()[: len(data)] = data


@pytest.mark.parametrize("recorded", range(4))
def test_what_was_read_is_known_until_it_is_recorded(recorded: int) -> None:
    journal = Journal.create()
    read(journal, *MESSAGES)
    assert all(map(journal.record, EVENTS[:recorded]))
    other = Journal(journal.descriptor)
    assert list(other.unrecorded()) == EVENTS[recorded:]
    assert other.doubt() == ""
    assert all(map(other.record, EVENTS[recorded:]))
    other.is_recorded()
    assert list(other.unrecorded()) == []
    assert list(other.events())[1:] == EVENTS


@pytest.mark.parametrize("gone", range(4))
def test_one_that_dies_when_all_is_recorded_has_nothing_done_twice(gone: int) -> None:
    journal = Journal.create()
    read(journal, *MESSAGES)
    assert all(map(journal.record, EVENTS))
    journal.inbox()[(len(MESSAGES) - gone) * MESSAGE :] = bytes(READ - (len(MESSAGES) - gone) * MESSAGE)
    assert list(Journal(journal.descriptor).unrecorded()) == []


def test_one_that_dies_before_anything_is_read_has_taken_nothing_with_it() -> None:
    journal = Journal.create()
    read(journal)
    assert (list(journal.unrecorded()), journal.doubt()) == ([], "")


def test_a_fork_is_in_doubt_even_if_it_is_recorded() -> None:
    journal = Journal.create()
    read(journal, Message(REMOVE, 4096, 8192, 0), Message(FORK, 7, 0, 0))
    journal.record(Event(Kind.REMOVE, 3, 4096, 8192))
    assert journal.forks() == {1: 7}
    journal.record(Event(Kind.FORK, 3))
    assert "forking" in journal.doubt()
    assert journal.forks() == {1: 7}


def test_every_page_fault_counts_and_the_first_are_noted() -> None:
    journal = Journal.create()
    for number in range(WORKING_SET_PAGES + 10):
        journal.fault(1, number * 4096, noted=True)
    journal.fault(1, 0, noted=False)
    assert journal.faults == WORKING_SET_PAGES + 11
    assert list(journal.trace()) == [(1, number * 4096) for number in range(WORKING_SET_PAGES)]
    journal.forget_faults()
    assert not list(journal.trace())


def test_each_address_space_has_its_own_states_which_another_mapping_finds_in_the_same_order() -> None:
    journal = Journal.create()
    first, second = journal.states(5000), journal.states(10)
    first[4999], second[0] = 1, 1
    other = Journal(journal.descriptor)
    again = other.states(5000), other.states(10)
    assert (again[0][4999], again[0][0], again[1][0], again[1][9]) == (1, 0, 1, 0)


def test_a_drop_of_ours_is_not_taken_for_the_application_s() -> None:
    journal = Journal.create()
    read(journal, Message(REMOVE, 4096, 8192, 0))
    journal.move([3], begins=True)
    assert not journal.confirmed
    assert len(list(journal.unrecorded())) == 1
    Journal(journal.descriptor).confirm()
    assert journal.confirmed
    assert journal.moving(3)
    assert not journal.moving(2)
    assert list(journal.unrecorded()) == []
    journal.move([3], begins=False)
    assert journal.moving(3)
    journal.confirm()
    assert not journal.moving(3)


def test_the_memory_of_states_is_given_back_and_others_stay_where_they_are() -> None:
    journal = Journal.create()
    first, second = journal.states(5000), journal.states(10)
    first[:], second[0] = b"\1" * len(first), 1
    journal.release(0, first)
    other = Journal(journal.descriptor)
    assert other.states(5000)[:5000] == bytes(5000)
    assert other.states(10)[0] == 1


def test_what_is_missing_is_counted() -> None:
    journal = Journal.create()
    journal.inherited(10)
    journal.brought(3)
    journal.forgotten(2)
    other = Journal(journal.descriptor)
    assert (other.pages_missing, other.pages_brought) == (5, 3)
