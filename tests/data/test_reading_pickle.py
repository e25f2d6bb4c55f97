"""The reader of pickles executes nothing, whatever the file says, and reads plain data of every protocol exactly."""

from __future__ import annotations

import collections
import ctypes
import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mmrobust.data.reading import read_file
from mmrobust.errors import DataError

SIGN = "executed"


def read_pickle(path: Path, only: set[str] | None = None) -> tuple[Any, list[str]]:
    content = read_file(path, ("pickle",), only)
    return content.value, content.notes


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    return path


def refusal(path: Path) -> str:
    """The one clear error of a bad file."""
    with pytest.raises(DataError) as info:
        read_pickle(path)
    assert info.value.exit_code == 3
    text = str(info.value)
    assert text.startswith(f"{path}: ") and text.endswith("(nothing of it was executed)") and "\n" not in text
    return text.removeprefix(f"{path}: ")


# ------------------------------------------------------------------------------------------- good files

PLAIN: list[Any] = [
    None,
    True,
    -7,
    2**63,
    2.5,
    float("inf"),
    "text \ud800 \n",
    "",
    b"\x00\xff",
    b"",
    [],
    (),
    {},
    [1, [2.5, None], ("x", {"k": b"v", 3: [True]})],
    {"train": {"text": [1, 2], "id": ["a$_$1"]}},
]

ARRAYS: list[np.ndarray] = [
    np.arange(6.0).reshape(2, 3),
    np.arange(6, dtype=np.float16).reshape(1, 2, 3),
    np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2, 1:],
    np.zeros((0, 3), np.float32),
    np.array([True, False]),
    np.array(["a", "bcd", "\u4e2d\u6587"]),
    np.array([b"x", b"yz"]),
    np.asarray(["one"]).astype(">U3"),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = write(tmp_path, pickle.dumps([PLAIN, ARRAYS], protocol))
    (plain, arrays), notes = read_pickle(path)
    assert repr(plain) == repr(PLAIN) and notes == []
    for got, expected in zip(arrays, ARRAYS, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype.newbyteorder("=") and got.flags.c_contiguous and got.flags.writeable


def test_arrays_of_objects_numpy_scalars_and_shared_arrays(tmp_path: Path) -> None:
    words = np.array([["a", None, 3], [b"b", [1, np.int64(4)], np.ones(2)]], dtype=object)
    shared = np.arange(3)
    data = [words, np.asfortranarray(words), np.float32(2.5), np.int64(3), np.str_("s"), np.bool_(True), np.array(7.0)]
    for protocol in (2, 5):
        (got, fortran, *scalars), _ = read_pickle(write(tmp_path, pickle.dumps(data, protocol)))
        assert got.shape == (2, 3) and got[0].tolist() == ["a", None, 3] and got[1, 1] == [1, 4]
        assert fortran[1, 0] == b"b" and fortran[0, 2] == 3 and scalars == [2.5, 3, "s", True, 7.0]
    (first, second), _ = read_pickle(write(tmp_path, pickle.dumps([shared, shared])))
    assert first is second


def test_names_of_numpy_1_and_of_python_2(tmp_path: Path) -> None:
    new = pickle.dumps(np.arange(3.0), 2)
    assert b"numpy._core" in new or b"numpy.core" in new
    old = new.replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(read_pickle(write(tmp_path, old))[0], np.arange(3.0))
    # Python 2 wrote the bytes of an array, and the type's name, as its 8-bit strings.
    raw = np.array([1.5, -2.5], "<f8").tobytes()
    python2 = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85U\x01b\x87Rq\x02(K\x01K\x02\x85"
        b"cnumpy\ndtype\nq\x03U\x02f8K\x00K\x01\x87Rq\x04(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + raw
        + b"tb."
    )
    np.testing.assert_array_equal(read_pickle(write(tmp_path, python2))[0], [1.5, -2.5])


def test_only_some_keys(tmp_path: Path) -> None:
    data = {"train": {"text": np.ones(3), "audio": np.ones(3), "id": ["a"]}}
    value, _ = read_pickle(write(tmp_path, pickle.dumps(data)), only={"text"})
    assert list(value["train"]) == ["text", "audio", "id"]
    assert value["train"]["text"].tolist() == [1, 1, 1] and value["train"]["audio"] is None


@settings(max_examples=25, deadline=None)
@given(
    st_numpy.arrays(
        st.one_of(
            st_numpy.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
            st_numpy.integer_dtypes(endianness="?"),
            st_numpy.boolean_dtypes(),
            st_numpy.unicode_string_dtypes(endianness="?", max_len=4),
        ),
        st_numpy.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
    ),
    st.integers(2, 5),
)
def test_any_array(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, protocol: int) -> None:
    path = write(tmp_path_factory.mktemp("any"), pickle.dumps({"a": array}, protocol))
    got = read_pickle(path)[0]["a"]
    np.testing.assert_array_equal(got, array)
    assert got.dtype == array.dtype.newbyteorder("=")


def test_real_data_is_read_fast_and_exactly(shared_data: Path) -> None:
    path = shared_data / "mosi_utterances.pkl"
    start = time.perf_counter()
    value, notes = read_pickle(path)
    seconds = time.perf_counter() - start
    with open(path, "rb") as file:
        trusted = pickle.load(file)
    assert seconds < 10 and notes == []
    for split, table in trusted.items():
        assert list(value[split]) == list(table)
        for key, expected in table.items():
            assert type(value[split][key]) is type(expected)
            np.testing.assert_array_equal(value[split][key], expected)


# ------------------------------------------------------------------------------------------- bad files


class Calls:
    """Pickled, it calls a function with arguments when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def named(module: str, name: str, arguments: bytes = b")", end: bytes = b"R.") -> bytes:
    """`module.name` called with the arguments that the opcodes make, in protocol 4."""

    def text(s: str) -> bytes:
        return b"\x8c" + bytes([len(s.encode())]) + s.encode()

    return b"\x80\x04" + text(module) + text(name) + b"\x93" + arguments + end


def string(s: str) -> bytes:
    return b"\x8c" + bytes([len(s)]) + s.encode() + b"\x85"


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os.system": (lambda p: pickle.dumps(Calls(os.system, f"touch {p}")), "it asks for 'posix.system'"),
    "eval": (lambda p: pickle.dumps(Calls(eval, f"open({str(p)!r}, 'w')")), "it asks for 'builtins.eval'"),
    "exec, protocol 0": (lambda p: f"c__builtin__\nexec\n(Vopen({str(p)!r},'w')\ntR.".encode(), "'__builtin__.exec'"),
    "getattr": (lambda p: pickle.dumps(Calls(getattr, [], "append")), "it asks for 'builtins.getattr'"),
    "dotted name": (lambda p: named("numpy", "ndarray.__reduce__"), "it asks for 'numpy.ndarray.__reduce__'"),
    "dotted module": (lambda p: named("numpy.core.multiarray", "sys.modules"), "'numpy.core.multiarray.sys.modules'"),
    "numpy runstring": (
        lambda p: named("numpy.testing._private.utils", "runstring", string(f"open({str(p)!r}, 'w')")),
        "it asks for 'numpy.testing._private.utils.runstring'",
    ),
    "numpy load": (lambda p: named("numpy", "load", string(str(p)[:200])), "it asks for 'numpy.load'"),
    "numpy fromfile": (lambda p: pickle.dumps(Calls(np.memmap, "/etc/passwd")), "it asks for 'numpy.memmap'"),
    "f2py": (lambda p: named("numpy.f2py.diagnose", "run_command", string("id")), "run_command'"),
    "ctypes": (lambda p: pickle.dumps(Calls(ctypes.CDLL, "libc.so.6")), "it asks for 'ctypes.CDLL'"),
    "subprocess, inst": (lambda p: f"(S'touch {p}'\nisubprocess\ngetoutput\n.".encode(), "'subprocess.getoutput'"),
    "import": (lambda p: named("this_module_does_not_exist", "x"), "it asks for 'this_module_does_not_exist.x'"),
    "torch tensor": (lambda p: pickle.dumps(torch.ones(2)), "it asks for 'torch._utils._rebuild_tensor_v2'"),
    "dict subclass": (lambda p: pickle.dumps(collections.OrderedDict(a=1)), "it asks for 'collections.OrderedDict'"),
    "path": (lambda p: pickle.dumps(p), "it asks for 'pathlib"),
    "complex": (lambda p: pickle.dumps(1j), "it asks for 'builtins.complex'"),
    "set": (lambda p: pickle.dumps({1}), "it holds a set"),
    "class itself": (lambda p: named("numpy", "ndarray", b"", b"."), "it holds a Name"),
    "extension": (lambda p: b"\x80\x02\x82\x01.", "unregistered extension code 1"),
    "persistent id": (lambda p: b"\x80\x02K\x01Q.", "persistent"),
    "codec": (
        lambda p: named("_codecs", "encode", b"\x8c\x01x\x8c\x05rot13\x86"),
        "it encodes something other than bytes",
    ),
    "setattr by build": (
        lambda p: named("_codecs", "encode", b"", b"N}\x8c\x02_fK\x01s\x86b."),
        "it tries to set '_f'",
    ),
    "state of an allowed name": (
        lambda p: named("_codecs", "encode", b"", b"}\x8c\x01xK\x01sb."),
        "has no attribute '__dict__'",
    ),
    "array of complex": (lambda p: pickle.dumps(np.ones(2, complex)), "it holds an array of the type 'c16'"),
    "array of times": (lambda p: pickle.dumps(np.zeros(2, "M8[s]")), "it holds an array of the type 'M8'"),
    "records": (lambda p: pickle.dumps(np.zeros(2, [("a", "O"), ("b", "i4")])), "it holds an array of the type 'V12'"),
    "deep list": (lambda p: b"\x80\x02" + b"]" * 500 + b"a" * 499 + b".", "it is nested more than 30 levels deep"),
    "list in itself": (lambda p: b"\x80\x02]q\x00h\x00a.", "it is nested more than 30 levels deep"),
    "huge whole number": (lambda p: pickle.dumps(1 << 100_000), "it holds a whole number of more than 64 bits"),
    "array as key": (
        lambda p: b"\x80\x02}" + pickle.dumps(np.ones(1), 2)[2:-1] + b"K\x01s.",
        "it holds a dict whose key is a Array",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_execute_nothing(tmp_path: Path, name: str) -> None:
    make, expected = HOSTILE[name]
    sign = tmp_path / SIGN
    text = refusal(write(tmp_path, make(sign)))
    assert expected in text
    assert not sign.exists()


def test_hostile_object_deep_inside(tmp_path: Path) -> None:
    sign = tmp_path / SIGN
    data = {"train": {"text": np.ones((2, 3, 4)), "id": np.array([Calls(os.system, f"touch {sign}")], dtype=object)}}
    for protocol in range(6):
        text = refusal(write(tmp_path, pickle.dumps(data, protocol)))
        assert "refused: it asks for 'posix.system'; only numpy arrays, numbers, text, lists and dicts are read" in text
    assert not sign.exists()


def forged(dtype: tuple[Any, ...], shape: Any, data: Any, state: tuple[Any, ...] | None = None) -> bytes:
    """An array whose parts were made up, through the allowed names."""

    class DType:
        def __reduce__(self) -> Any:
            return np.dtype, dtype, *((state,) if state else ())

    class Array:
        def __reduce__(self) -> Any:
            rebuild = np.ones(1).__reduce__()[0]
            return rebuild, (np.ndarray, (0,), b"b"), (1, shape, DType(), False, data)

    return pickle.dumps(Array())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # numpy's own dtype takes these flags on trust, and would then read objects at addresses of the file's choice.
        (forged(("V8", False, True), (1,), b"x" * 8, (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)), "V8"),
        (
            forged(("f4", False, True), (1,), b"x" * 4, (3, "<", (np.dtype("O"), (2,)), None, None, -1, -1, 0)),
            "records",
        ),
        (forged(("O", False, True), (1,), b"x" * 8), "an array of objects that are not there"),
        (forged(("f4", False, True), (125_000_000_000_000,), b""), "whose values are not there"),
        (forged(("f4", False, True), (-1,), b""), "of an unknown form"),
        (forged(("f4", False, True), (2**62, 0), b""), "of an unknown form"),
        (forged(("f4", False, True), (2**40, 2**40, 0), b""), "larger than any memory"),
        (forged(("f3", False, True), (1,), b"xxx"), "the type 'f3'"),
        (forged(("f4,O", False, True), (1,), b"xxx"), "the type 'f4,O'"),
        (forged(("f4", False, True), [1], b"xxxx"), "of an unknown form"),
        (forged(("f4", False, True), (1,), "\u4e2d"), "damaged"),
    ],
)
def test_forged_arrays(tmp_path: Path, data: bytes, expected: str) -> None:
    assert expected in refusal(write(tmp_path, data))


def test_objects_that_grow_after_they_were_handed_over(tmp_path: Path) -> None:
    good = pickle.dumps(np.array(["a"], dtype=object), 2)
    memo = good.rindex(b"]q") + 2
    grown = good[:-1] + b"h" + good[memo : memo + 1] + b"K\x01a0."
    assert "objects that are not there" in refusal(write(tmp_path, grown))


@pytest.mark.parametrize("opcode", ["bytes", "bytearray", "text", "frame", "memo", "numpy"])
def test_tiny_files_that_ask_for_a_terabyte(tmp_path: Path, opcode: str) -> None:
    tera = struct.pack("<Q", 10**12)
    data = {
        "bytes": b"\x80\x04\x8e" + tera + b"x.",
        "bytearray": b"\x80\x05\x96" + tera + b"x.",
        "text": b"\x80\x04\x8d" + tera + b"x.",
        "frame": b"\x80\x04\x95" + tera + b"N.",
        "memo": b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".",
        "numpy": named("numpy", "ndarray", b"\x8a\x06" + struct.pack("<Q", 10**12)[:6] + b"\x85\x85"),
    }[opcode]
    start = time.perf_counter()
    assert refusal(write(tmp_path, data)).startswith(("damaged", "refused"))
    assert time.perf_counter() - start < 10


def test_billion_laughs(tmp_path: Path) -> None:
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(12)
    )
    assert "more than 2000000 values outside of arrays" in refusal(write(tmp_path, laughs + b"."))
    text = b"X" + struct.pack("<I", 10_000_000) + b"x" * 10_000_000 + b"q\x00"
    assert "more than 2000000 values" in refusal(write(tmp_path, b"\x80\x02](" + text + b"h\x00" * 100 + b"e."))


def test_a_file_that_takes_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on time is held by the parent, whatever the child does."""
    path = write(tmp_path, b"\x80\x02" + b"N0" * 30_000_000 + b"N.")
    monkeypatch.setattr("mmrobust.data.reading.reader._SECONDS", -12)  # of 12 s for its size
    text = refusal(path)
    assert text.startswith("reading it took more than") and "MMROBUST_DATA_SECONDS raises the limit" in text
    monkeypatch.setenv("MMROBUST_DATA_SECONDS", "60")
    assert read_pickle(path) == (None, [])


def test_damaged_files(tmp_path: Path) -> None:
    good = pickle.dumps({"train": {"text": np.arange(1000.0), "id": ["a", "b"]}}, 4)
    for data in (b"\x80", good[:20], good[: len(good) // 2], good[:-1]):
        assert refusal(write(tmp_path, data)).startswith("damaged, or no pickle (")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_damage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Random bytes, or good ones with some changed: plain data or one clear error, never anything else."""
    good = bytearray(pickle.dumps({"train": {"text": np.arange(20.0), "id": ["a", "b"]}}, data.draw(st.integers(2, 5))))
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    else:
        good = bytearray(data.draw(st.binary(max_size=60)))
    path = write(tmp_path_factory.mktemp("random"), bytes(good))
    try:
        read_pickle(path)
    except DataError as error:
        assert "\n" not in str(error)
