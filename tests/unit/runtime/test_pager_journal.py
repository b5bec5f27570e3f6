"""The record that outlives a pager: what is written is read again by another mapping of it."""

from zeropod.runtime.pager.journal import BUSY, Event, Journal, Kind, Phase
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES


def test_another_mapping_reads_the_events_in_their_order() -> None:
    journal = Journal.create()
    happened = [Event(Kind.ADOPT, 0, 1), Event(Kind.FORK, 0), Event(Kind.REMAP, 1, 4096, 8192, 4096)]
    assert all(map(journal.record, happened))
    assert list(Journal(journal.descriptor).events()) == happened


def test_the_shim_s_word_and_the_pager_s_state_are_seen_by_the_other_side() -> None:
    journal = Journal.create()
    other = Journal(journal.descriptor)
    assert (journal.draining, journal.busy, journal.phase) == (False, False, Phase.HANDOVER)
    other.drain()
    other.memory[BUSY] = 1
    other.phase = Phase.DONE
    assert (journal.draining, journal.busy, journal.phase) == (True, True, Phase.DONE)


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
