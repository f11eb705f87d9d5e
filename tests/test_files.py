"""Files: whole or nothing, leftovers, settings that differ, claims, locks, checked files of a cache."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from geoattn import _files
from geoattn._lru import BoundedCache

POSIX = pytest.mark.skipif(os.name != "posix", reason="this system has no fork, owners and modes")


def program(text):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def fail(path, write, durable):
    with _files.whole(path, durable=durable) as partial:
        write(partial)
        raise ArithmeticError


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, durable):
    path = tmp_path / "new" / "file.json"
    _files.write_json({"a": 1}, path, durable=durable)
    with pytest.raises(ArithmeticError):
        fail(path, lambda partial: partial.write_text("half"), durable)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, durable):
    path = tmp_path / "store"
    for content in ("old", "new"):
        with _files.whole(path, durable=durable) as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert os.listdir(path) == ["new"]
    with pytest.raises(ArithmeticError):
        fail(path, lambda partial: partial.mkdir(), durable)
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["store"]


def test_writers_of_one_file_do_not_collide(tmp_path):
    path = tmp_path / "file"
    with _files.whole(path) as one, _files.whole(path) as other:
        assert one != other
        other.write_text("other")
        one.write_text("one")
    assert path.read_text() == "one"


@POSIX
def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_kept(tmp_path):
    path = tmp_path / "file"
    killed = program(f"""
        import os, signal
        from geoattn import _files
        with _files.whole({str(path)!r}) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    with _files.whole(path) as living:
        living.write_text("mine")
        _files.write_text("theirs", path)
        assert sorted(os.listdir(tmp_path)) == sorted(["file", living.name])
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    _files.write_text("content", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "content"


def test_every_difference_is_named():
    there = {"fit": {"seed": 1, "steps": 2, "old": None}, "same": [1], "empty": {}}
    here = {"fit": {"seed": 3, "steps": 2, "new": None}, "same": [1]}
    assert _files.differences(there, here) == (
        "fit.seed is 1 there, 3 here; fit.old is None there, missing here; "
        "empty is {} there, missing here; fit.new is missing there, None here"
    )
    assert _files.differences(here, here) == ""


NOT_NUMBERS = {"a": [1.5, float("nan"), {"b": (float("inf"), -float("inf"), None, "nan", True, 2)}]}


def test_json_has_null_or_words_for_what_is_no_number(tmp_path):
    path = tmp_path / "f.json"

    def read():
        return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))

    _files.write_json(NOT_NUMBERS, path)
    assert read() == {"a": [1.5, None, {"b": [None, None, None, "nan", True, 2]}]}
    _files.write_json(NOT_NUMBERS, path, exact=True)
    assert read() == {"a": [1.5, "nan", {"b": ["inf", "-inf", None, "nan", True, 2]}]}
    assert float(read()["a"][2]["b"][0]) == float("inf")


def test_a_folder_is_claimed_by_settings_that_are_no_numbers(tmp_path):
    path = tmp_path / "run" / "config.json"
    _files.claim(tmp_path / "run", {"most": float("inf"), "least": float("nan")})
    _files.claim(tmp_path / "run", {"most": float("inf"), "least": float("nan")})
    with pytest.raises(ValueError, match=r"most is 'inf' there, 1\.0 here"):
        _files.claim(tmp_path / "run", {"most": 1.0, "least": float("nan")})
    path.write_text('{"most": Infinity}')  # as earlier versions wrote it
    _files.claim(tmp_path / "run", {"most": float("inf")})


def test_a_folder_is_claimed_by_its_settings(tmp_path):
    _files.claim(tmp_path / "run", {"seed": 1, "sizes": (1, 2)})
    _files.claim(tmp_path / "run", {"seed": 1, "sizes": (1, 2)})
    with pytest.raises(ValueError, match="holds a run with other settings: seed is 1 there, 2 here"):
        _files.claim(tmp_path / "run", {"seed": 2, "sizes": (1, 2)})
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        _files.claim(tmp_path / "run", {"seed": 1})


HOLD = """
    import sys
    from pathlib import Path
    from geoattn import _files
    with _files.lock(Path({!r})):
        print("held", flush=True)
        sys.stdin.read(1)
"""


def test_a_lock_excludes_other_processes_and_ends_with_its_own(tmp_path):
    holder = program(HOLD.format(str(tmp_path / "store")))
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match="another process is working on"):
        _files.lock(tmp_path / "store", wait=False).__enter__()
    holder.kill()
    holder.communicate()
    with _files.lock(tmp_path / "store", wait=False):
        pass
    assert os.listdir(tmp_path) == []


@POSIX
def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path):
    with _files.lock(tmp_path / "store"):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with _files.lock(tmp_path / "store", wait=False):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


DAMAGES = [
    lambda b: b"",
    lambda b: b[:-1],
    lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:],
    lambda b: b + b"x",
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_cache_counts_as_none(tmp_path, damage):
    path = tmp_path / "cache" / "file"
    assert _files.read_checked(path) is None
    _files.write_checked(b"some content", path)
    assert _files.read_checked(path) == b"some content"
    path.write_bytes(damage(path.read_bytes()))
    assert _files.read_checked(path) is None


@POSIX
def test_a_file_of_a_cache_that_others_could_have_written_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "cache" / "file"
    before = os.umask(0o002)
    try:
        _files.write_checked(b"content", path)  # for this user alone, whatever the umask
    finally:
        os.umask(before)
    assert _files.read_checked(path) == b"content"
    for open_one, mode, restored in ((path, 0o620, 0o600), (path.parent, 0o702, 0o700)):
        open_one.chmod(mode)
        with pytest.raises(_files.Refused, match=rf"can be written by others .*chmod go-w {open_one}"):
            _files.read_checked(path)
        assert _files.read_checked(path, own=False) == b"content"
        open_one.chmod(restored)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(_files.Refused, match="belongs to another user"):
        _files.read_checked(path)


def test_a_file_reached_through_a_link_is_none_of_the_cache(tmp_path):
    _files.write_checked(b"content", tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert _files.read_checked(tmp_path / "link") is None


def test_a_cache_in_memory_makes_each_item_once_and_different_ones_at_once():
    cache, made, meeting = BoundedCache(max_bytes=100), [], threading.Barrier(2, timeout=30)

    def make(key):
        made.append(key)
        meeting.wait()  # both keys are being made at the same time, or this fails
        return key * 2

    keys = ["a", "b"] * 4
    found = [None] * len(keys)

    def ask(place):
        found[place] = cache.get_or_make(keys[place], lambda: make(keys[place]), len)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == ["a", "b"]
    assert found == ["aa", "bb"] * 4


def test_while_one_caller_fails_another_waits_and_no_two_make_at_once():
    cache, begun, go_on = BoundedCache(max_bytes=100), threading.Event(), threading.Event()
    making, most, errors = [], [], []

    def make(fails):
        making.append(fails)
        most.append(len(making))
        begun.set()
        go_on.wait(60)
        time.sleep(0.05)
        making.pop()
        if fails:
            raise OSError("full")
        return "made"

    def ask(fails):
        try:
            cache.get_or_make("key", lambda: make(fails), len)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask, args=(fails,)) for fails in (True, False, False)]
    threads[0].start()
    begun.wait(60)
    threads[1].start()
    while cache._making["key"].callers != 2:
        time.sleep(0.001)
    go_on.set()
    threads[0].join(60)  # it has left, and the second is making
    threads[2].start()
    for thread in threads[1:]:
        thread.join(60)
    assert most == [1, 1]
    assert len(errors) == 1
    assert cache.get("key") == "made"
    assert not cache._making


def test_what_was_begun_before_a_cache_was_cleared_is_not_kept():
    cache = BoundedCache(max_bytes=100)

    def make():
        cache.clear()
        return "old"

    assert cache.get_or_make("key", make, len) == "old"
    assert "key" not in cache
    assert cache.get_or_make("key", lambda: "new", len) == "new"
    assert cache.get("key") == "new"


@POSIX
def test_a_forked_child_finds_no_lock_of_a_cache_held():
    cache, making, go_on = BoundedCache(max_bytes=100), threading.Event(), threading.Event()

    def slow():
        with cache._lock:
            making.set()
            go_on.wait(60)
        return "parent's"

    def make():
        return cache.get_or_make("key", slow, len)

    thread = threading.Thread(target=make)
    thread.start()
    making.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(cache.get_or_make("key", lambda: "child's", len) != "child's")
    status = os.waitpid(child, 0)[1]
    go_on.set()
    thread.join()
    assert status == 0
    assert cache.get("key") == "parent's"
