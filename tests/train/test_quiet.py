"""What libraries print of errors that they raise as well is left out; what nobody else would say is not."""

from __future__ import annotations

import asyncio
import gc
import sys
import types

import pytest

from big_vision_dual.train import quiet

SOURCE = """
import asyncio

async def read(future):
    try:
        await future
    except BaseException as error:
        raise Exception("Encountered error while reading") from error
"""


class Suspended:
    def __await__(self):
        yield


def abandoned(filename: str) -> None:
    """Starts a coroutine of that file and drops it: it raises while it is collected, as orbax's do."""
    module = types.ModuleType("module")
    exec(compile(SOURCE, filename, "exec"), module.__dict__)
    module.read(Suspended()).send(None)
    gc.collect()


@pytest.fixture
def said(monkeypatch):
    """What reaches the hook of before, as text."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: found.append(str(raised.exc_value)))
    return found


def test_coroutines_that_orbax_abandons_say_nothing_also_after_the_command(said, monkeypatch):
    monkeypatch.delenv("BVD_TRACEBACK", raising=False)
    with quiet.libraries():
        abandoned("/venv/orbax/checkpoint/serialization.py")
    abandoned("/venv/orbax/checkpoint/serialization.py")
    assert said == []
    abandoned("/venv/other/orbax.py")
    assert said == ["Encountered error while reading"]


@pytest.mark.parametrize(("filename", "wanted", "count"), [
    ("/venv/orbax/checkpoint/serialization.py", "", 0),
    ("/venv/orbax/checkpoint/serialization.py", "1", 1),
    ("/venv/other/orbax.py", "", 1),
])  # fmt: skip
def test_tasks_of_orbaxs_that_nobody_asks_say_nothing(monkeypatch, caplog, filename, wanted, count):
    """A disk that is really full makes ten of them, after the message."""
    monkeypatch.setenv("BVD_TRACEBACK", wanted)
    with quiet.libraries():
        pass
    module = types.ModuleType("module")
    exec(compile("async def write():\n    raise ValueError('No space left')", filename, "exec"), module.__dict__)
    loop = asyncio.new_event_loop()
    task = loop.create_task(module.write())
    loop.run_until_complete(asyncio.sleep(0))
    del task
    gc.collect()
    loop.close()
    assert caplog.text.count("exception was never retrieved") == count


def test_where_tracebacks_are_wanted_they_are_there(said, monkeypatch):
    monkeypatch.setenv("BVD_TRACEBACK", "1")
    with quiet.libraries():
        abandoned("/venv/orbax/checkpoint/serialization.py")
    assert said == ["Encountered error while reading"]


def test_the_hook_is_put_in_place_once(said):
    with quiet.libraries():
        first = sys.unraisablehook
    with quiet.libraries():
        assert sys.unraisablehook is first
    assert said == []
