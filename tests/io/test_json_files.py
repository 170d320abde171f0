from __future__ import annotations

import os
from pathlib import Path

import pytest

from vidllm.io.files import parse_json, read_json, read_json_lines, read_json_object

BAD = {
    "deep": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "digits": ('{"a": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
    "no float": ('{"a": 1' + "0" * 400 + "}", "an integer of 401 digits"),
    "cut": ('{"a": [1,\n 2', "not JSON at line 2"),
    "surrogate": ('{"a": "\\ud800"}', "unpaired surrogate \\\\ud800"),
    "latin-1": ('{"a":\n "é"}'.encode("latin-1"), "not UTF-8 text .line 2"),
    "empty": ("", "not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_every_error_names_the_file(tmp_path: Path, kind: str) -> None:
    content, message = BAD[kind]
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_byte_order_mark_and_surrogate_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}')
    assert read_json_object(path) == {"a": "\U0001f600"}
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        path.write_text("[]")
        read_json_object(path)


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n"\xe2\x80\xa8"\n')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, "\u2028")]
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"x\.jsonl: line 2: not JSON"):
        list(read_json_lines(path))


def test_fifo_and_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, kind in ((tmp_path / "fifo", "not a regular"), (tmp_path, "a folder"), (tmp_path / "x", "not exist")):
        with pytest.raises(ValueError, match=kind):
            read_json(path)


def test_values_are_those_of_the_standard_library() -> None:
    assert parse_json('{"a": [1, -2.5e3, null, true, "\\u00e9"], "b": 1' + "0" * 300 + "}", "x") == {
        "a": [1, -2500.0, None, True, "é"],
        "b": 10**300,
    }
