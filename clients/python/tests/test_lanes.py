"""What a queue says when it may write no more."""

from __future__ import annotations

import logging

import pytest

import duite
from duite.errors import LeaseLost


@pytest.mark.parametrize("unsent", [0, 1])
def test_a_mark_of_the_end_that_was_not_taken_is_no_loss(own_server, name, caplog, unsent):
    caplog.set_level(logging.DEBUG, "duite")
    queue = duite.StateQueue(state=name, addr=own_server.address)
    queue["key"] = 1
    assert queue.flush_wait()
    own_server.kill()
    if unsent:
        queue["key"] = 2
    queue.exit()
    queue._pusher.end(LeaseLost("the lease is over"))
    (said,) = [record for record in caplog.records if "given up" in record.getMessage()]
    assert f"{unsent} batches" in said.getMessage()
    assert said.levelno == (logging.WARNING if unsent else logging.DEBUG)
