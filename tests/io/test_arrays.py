"""Reading .npz: what numpy wrote comes back; what is damaged or of another kind is refused by name, at once."""

from __future__ import annotations

import io
import os
import pickle
import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidllm.datasets.proposals import read_proposals
from vidllm.io.files import read_npz


class Planted:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def masks(**changes: Any) -> dict[str, Any]:
    """Two masks of five vertices, as scipy's save_npz writes them (csr)."""
    arrays = {
        "format": np.array(b"csr"), "shape": np.array([2, 5]), "data": np.ones(3, bool),
        "indices": np.array([0, 2, 4], np.int32), "indptr": np.array([0, 2, 3], np.int32),
    }  # fmt: skip
    return {**arrays, **changes}


def header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("data.npy", content)
    return path


def test_arrays_come_back(tmp_path):
    rng = np.random.default_rng(0)
    given = {"a": rng.normal(size=(3, 4)), "b": np.asfortranarray(rng.integers(0, 9, (2, 3))), "c": np.array(b"csr"),
             "empty": np.zeros((0, 3)), "text": np.array(["x", "yz"])}  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **given)
        found = read_npz(tmp_path / "x.npz")
        assert set(found) == set(given)
        for name, value in given.items():
            assert found[name].dtype == value.dtype and np.array_equal(found[name], value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header("(1000000000,)"), "needs 4,000,000,000 bytes, the file holds 0"),
        (header("(1000000000, 1000000000, 1000000000)"), "the file holds 0"),
        (header("(-1, -4)") + b"\0" * 16, "shape"),
        (header("(4,)", "|O") + b"\0" * 32, "never unpickled"),
        (header("(4,)", "<q4"), "not a readable .npz"),
        (b"\x93NUMPY\x01\x00\xff\xff", "not a readable .npz"),
        (b"no array", "not a readable .npz"),
        (header("(" * 2000), "not a readable .npz"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, content, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read_npz(zipped(tmp_path / "x.npz", content))
    assert "x.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_bombs_are_refused_at_once_and_within_bounds(tmp_path):
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bomb = tmp_path / "bomb.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file, file.open("data.npy", "w") as member:
        member.write(header("(100000000,)"))
        for _ in range(100):
            member.write(b"\0" * 2**20)
    written = time.monotonic()
    with pytest.raises(ValueError, match="expected at most"):
        read_npz(bomb)
    lying = bytearray(bomb.read_bytes())  # the directory says that little is there
    at = lying.rfind(b"PK\x01\x02") + 24
    lying[at : at + 4] = (1000).to_bytes(4, "little")
    (tmp_path / "lying.npz").write_bytes(bytes(lying))
    with pytest.raises(ValueError, match=r"lying\.npz"):
        read_npz(tmp_path / "lying.npz")
    assert time.monotonic() - written < 1 + (written - start)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kilobytes


def test_an_npy_an_object_and_a_pickle_under_that_name_do_not_run(tmp_path):
    mark = tmp_path / "ran"
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "single.npz")
    planted = np.array([Planted(mark)], dtype=object)
    np.savez(tmp_path / "object.npz", data=planted)
    whole = io.BytesIO()
    np.save(whole, planted)
    (tmp_path / "npy.npz").write_bytes(whole.getvalue())
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Planted(mark)))
    zipped(tmp_path / "inside.npz", pickle.dumps(Planted(mark)))
    for name in ("single", "object", "npy", "pickle", "inside"):
        with pytest.raises(ValueError, match=f"{name}.npz"):
            read_npz(tmp_path / f"{name}.npz")
        with pytest.raises(ValueError, match=f"{name}.npz"):
            read_proposals(tmp_path / f"{name}.npz")
    assert not mark.exists()


def test_every_flipped_byte_is_read_or_refused_by_name(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **masks())
    content = (tmp_path / "x.npz").read_bytes()
    file = tmp_path / "flipped.npz"
    for place in range(0, len(content), 3):
        for bit in (1, 0x80):
            flipped = bytearray(content)
            flipped[place] ^= bit
            file.write_bytes(bytes(flipped))
            try:
                read_proposals(file)
            except ValueError as error:
                assert "flipped.npz" in str(error) and "\n" not in str(error)
    for length in range(0, len(content), 40):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"flipped\.npz"):
            read_proposals(file)


def test_masks_of_each_form_agree_and_impossible_ones_are_refused(tmp_path):
    def rows(**changes: Any) -> list[list[int]]:
        np.savez(tmp_path / "m.npz", **masks(**changes))
        return [row.tolist() for row in read_proposals(tmp_path / "m.npz").rows]

    assert rows() == [[0, 2], [4]]
    np.savez(tmp_path / "coo.npz", format=np.array(b"coo"), shape=np.array([2, 5]), data=np.ones(3),
             row=np.array([0, 1, 0]), col=np.array([2, 4, 0]))  # fmt: skip
    assert [row.tolist() for row in read_proposals(tmp_path / "coo.npz").rows] == [[0, 2], [4]]
    for changes in (
        {"shape": np.array([10**9, 5])}, {"shape": np.array([2, 10**12])}, {"shape": np.array([2, 3])},
        {"indptr": np.array([0, 10**9, 3])}, {"indptr": np.array([0, 2])}, {"indices": np.array([0.0, 2, 4])},
        {"data": np.ones((3, 1))}, {"data": np.ones(2)}, {"format": np.array(["a", "b"])},
        {"shape": np.array([2.0, 5])},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"m\.npz: not a sparse matrix"):
            rows(**changes)
