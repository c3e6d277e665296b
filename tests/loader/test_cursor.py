"""The epoch that an iteration reads follows from what was begun, set and loaded before it."""

import copy
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore.loader.cursor import TRANSITIONS, EpochCursor, Event, Position, Status

LOADED = Position(epoch=7, left="the rest of 7", is_loaded=True)
ENDED = Position(epoch=7, left="nothing", is_loaded=True)


def is_over(position):
    return position.left == "nothing"


def begin(cursor):
    cursor.begin(cursor.upcoming(is_over))


CALLS = {
    Event.BEGIN: begin,
    Event.YIELD: EpochCursor.advance,
    Event.END: EpochCursor.end,
    Event.PREPARE: EpochCursor.prepare,
    Event.SET: lambda cursor: cursor.set_epoch(4),
    Event.LOAD: lambda cursor: cursor.load(LOADED),
}
WAYS = {
    Status.READY: [],
    Status.BEGUN: [Event.BEGIN],
    Status.READING: [Event.BEGIN, Event.YIELD],
    Status.OVERRULED: [Event.BEGIN, Event.YIELD, Event.SET],
    Status.DONE: [Event.BEGIN, Event.YIELD, Event.END],
}
"""Calls that bring a new cursor into each status."""


def cursor_in(status):
    cursor = EpochCursor()
    for event in WAYS[status]:
        CALLS[event](cursor)
    assert cursor.status is status
    return cursor


STEPS = {
    # status, event: status after it, epoch that is read next, whether a position was loaded
    (Status.READY, Event.BEGIN): (Status.BEGUN, 0, False),
    (Status.READY, Event.YIELD): (Status.READY, 0, False),
    (Status.READY, Event.END): (Status.READY, 0, False),
    (Status.READY, Event.PREPARE): (Status.READY, 0, False),
    (Status.READY, Event.SET): (Status.READY, 4, False),
    (Status.READY, Event.LOAD): (Status.READY, 7, True),
    (Status.BEGUN, Event.BEGIN): (Status.BEGUN, 0, False),
    (Status.BEGUN, Event.YIELD): (Status.READING, 1, False),
    (Status.BEGUN, Event.END): (Status.READY, 0, False),
    (Status.BEGUN, Event.PREPARE): (Status.READY, 0, False),
    (Status.BEGUN, Event.SET): (Status.OVERRULED, 4, False),
    (Status.BEGUN, Event.LOAD): (Status.READY, 7, True),
    (Status.READING, Event.BEGIN): (Status.BEGUN, 1, False),
    (Status.READING, Event.YIELD): (Status.READING, 1, False),
    (Status.READING, Event.END): (Status.DONE, 1, False),
    (Status.READING, Event.PREPARE): (Status.READY, 1, False),
    (Status.READING, Event.SET): (Status.OVERRULED, 4, False),
    (Status.READING, Event.LOAD): (Status.READY, 7, True),
    (Status.OVERRULED, Event.BEGIN): (Status.BEGUN, 4, False),
    (Status.OVERRULED, Event.YIELD): (Status.OVERRULED, 4, False),
    (Status.OVERRULED, Event.END): (Status.READY, 4, False),
    (Status.OVERRULED, Event.PREPARE): (Status.READY, 4, False),
    (Status.OVERRULED, Event.SET): (Status.OVERRULED, 4, False),
    (Status.OVERRULED, Event.LOAD): (Status.READY, 7, True),
    (Status.DONE, Event.BEGIN): (Status.BEGUN, 1, False),
    (Status.DONE, Event.YIELD): (Status.DONE, 1, False),
    (Status.DONE, Event.END): (Status.DONE, 1, False),
    (Status.DONE, Event.PREPARE): (Status.READY, 1, False),
    (Status.DONE, Event.SET): (Status.READY, 4, False),
    (Status.DONE, Event.LOAD): (Status.READY, 7, True),
}


def test_each_status_has_a_row_for_each_event():
    assert list(STEPS) == list(product(Status, Event))
    assert {
        status: {event: STEPS[status, event][0] for event in Event} for status in Status
    } == TRANSITIONS


@pytest.mark.parametrize(
    ("step", "expected"), STEPS.items(), ids=[f"{s.value}-{e.value}" for s, e in STEPS]
)
def test_an_event_leads_to_a_status_and_to_what_is_read_next(step, expected):
    status, event = step
    cursor = cursor_in(status)
    CALLS[event](cursor)
    position = cursor.upcoming(is_over)
    assert (cursor.status, position.epoch, position.is_loaded) == expected


@pytest.mark.parametrize("way", [[], [Event.BEGIN], [Event.BEGIN, Event.END]])
def test_a_loaded_position_is_read_until_an_iteration_of_it_has_yielded(way):
    cursor = cursor_in(Status.READING)
    cursor.load(LOADED)
    for event in way:
        CALLS[event](cursor)
    assert cursor.upcoming(is_over) == LOADED
    begin(cursor)
    cursor.advance()
    assert cursor.upcoming(is_over) == Position(epoch=8)


def test_after_a_loaded_end_comes_the_next_epoch_or_nothing_where_it_is_asked_for():
    cursor = EpochCursor()
    cursor.load(ENDED)
    assert cursor.upcoming(is_over) == Position(epoch=8)
    assert cursor.set_epoch(7) is None
    asked = cursor.upcoming(is_over)
    assert (asked.epoch, asked.left) == (7, "nothing")
    cursor.begin(asked, is_empty=True)
    assert cursor.upcoming(is_over) == Position(epoch=8)


def test_after_a_loaded_end_may_come_an_epoch_that_was_set_before():
    cursor = EpochCursor()
    cursor.load(Position(epoch=7, left="nothing", is_loaded=True, following=2))
    assert cursor.upcoming(is_over) == Position(epoch=2)
    cursor.load(Position(epoch=7, left="some", is_loaded=True, following=2))
    assert cursor.upcoming(is_over).epoch == 7


@pytest.mark.parametrize("has_begun", [False, True])
def test_another_epoch_drops_a_loaded_position_and_tells_it(has_begun):
    cursor = EpochCursor()
    cursor.load(LOADED)
    if has_begun:
        begin(cursor)
    assert cursor.set_epoch(7) is None
    assert cursor.set_epoch(9).left == LOADED.left
    assert cursor.upcoming() == Position(epoch=9, is_asked_for=True)
    assert cursor.set_epoch(9) is None


def test_an_empty_iteration_is_an_epoch():
    cursor = EpochCursor()
    cursor.begin(cursor.upcoming(), is_empty=True)
    assert cursor.status is Status.READING
    assert (cursor.n_yielded, cursor.upcoming().epoch) == (0, 1)


@given(st.lists(st.sampled_from(Event), max_size=12))
def test_what_is_told_before_an_iteration_is_what_it_reads(events):
    cursor = EpochCursor()
    for event in events:
        CALLS[event](cursor)
        position = cursor.upcoming(is_over)
        other = copy.copy(cursor)
        other.prepare()
        assert other.status is Status.READY
        assert other.upcoming(is_over) == position
        begin(other)
        assert other.now == position
        assert other.n_yielded == 0
        assert other.upcoming(is_over) == position  # it has yielded nothing
        assert cursor.is_reading == (
            cursor.status in (Status.BEGUN, Status.READING, Status.OVERRULED)
        )
