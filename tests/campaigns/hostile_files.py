"""Hostile and damaged data files: each is read, or refused in one line, in seconds, in bounded memory; none runs.

    python tests/campaigns/hostile_files.py [HOSTILE] [DAMAGED] [SEED]

Every file goes through `mmrobust data info` and through the dataset that would train on it. A hostile file is built to
hang, to swallow memory, to execute something or to end in an internal error; a damaged one is a good file with bytes
flipped, cut, inserted, zeroed or moved. What is read of a damaged file is compared with what was written.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import resource
import socket
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as to_safetensors

from mmrobust.cli import main as command_line
from mmrobust.contracts import Part
from mmrobust.data import open_dataset
from mmrobust.data.reading import read_file
from mmrobust.errors import DataError, MmrobustError

SECONDS = 20.0  # of a processor that four looks at a file may take
MEMORY = 3 * 2**20  # kilobytes that the process may ever hold

Make = Callable[[random.Random, Path], Path]


# ------------------------------------------------------------------------------------------- good files


def arrays(changes: dict[str, Any] | None = None, n: int = 8) -> dict[str, Any]:
    """The keys of a good arrays file; changes are of every split, None takes a key away."""
    raw: dict[str, Any] = {}
    for k, split in enumerate(("train", "valid", "test")):
        rng = np.random.default_rng(k)
        keys = {
            "audio": rng.normal(size=(n, 6, 4)).astype(np.float32),
            "text": rng.normal(size=(n, 6, 5)).astype(np.float32),
            "label": np.arange(n) % 3,
            "id": np.array([f"{split}{i}" for i in range(n)]),
            **(changes or {}),
        }
        raw |= {f"{split}/{key}": value for key, value in keys.items() if value is not None}
    return raw


def table(layout: str, n: int = 8) -> dict[str, Any]:
    """The splits of a good pickle."""
    out = {}
    for k, split in enumerate(("train", "valid", "test")):
        rng = np.random.default_rng(k)
        keys: dict[str, Any] = {m: rng.normal(size=(n, 6, w)) for m, w in (("text", 5), ("audio", 4), ("vision", 3))}
        if layout == "mult":
            keys["labels"] = np.stack([np.ones((n, 4)), np.zeros((n, 4))], -1)
        else:
            keys |= {"id": [f"v{k}$_${i}" for i in range(n)], "regression_labels": np.linspace(-3, 3, n)}
        out[split] = keys
    return out


def npz(path: Path, raw: dict[str, Any], compressed: bool = False) -> Path:
    """Writes an .npz file."""
    with path.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **raw)
    return path


def good_files(folder: Path) -> dict[str, Path]:
    """A good file of each form."""
    numbers = {key: value for key, value in arrays().items() if value.dtype.kind != "U"}
    files = {
        "npz": npz(folder / "stored.npz", arrays()),
        "compressed npz": npz(folder / "packed.npz", arrays(), compressed=True),
        "safetensors": folder / "x.safetensors",
        "pickle of MMSA": folder / "mmsa.pkl",
        "pickle of MulT": folder / "mult.pkl",
    }
    files["safetensors"].write_bytes(to_safetensors({k: np.ascontiguousarray(v) for k, v in numbers.items()}))
    files["pickle of MMSA"].write_bytes(pickle.dumps(table("mmsa"), 4))
    files["pickle of MulT"].write_bytes(pickle.dumps(table("mult"), 2))
    return files


# ------------------------------------------------------------------------------------------- hostile files

SIGN = "executed"


class Calls:
    """Pickled, it calls a function with arguments when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def evil(rng: random.Random, folder: Path) -> Any:
    sign = folder / SIGN
    return rng.choice(
        [
            Calls(os.system, f"touch {sign}"),
            Calls(eval, f"open({str(sign)!r}, 'w')"),
            Calls(exec, f"open({str(sign)!r}, 'w')"),
            Calls(getattr, [], "append"),
            Calls(np.memmap, str(sign), "u1", "w+", 0, (1,)),
            Calls(open, str(sign), "w"),
            Calls(io.FileIO, str(sign), "w"),
            Calls(print, "executed"),
        ]
    )


def hostile_pickle(rng: random.Random, folder: Path) -> Path:
    data = table("mmsa")
    split, key = rng.choice(list(data)), rng.choice(["text", "id", "regression_labels", "more"])
    bad = evil(rng, folder)
    if key == "id":
        bad = np.array([bad] * 8, dtype=object)
    elif key == "more":
        bad = {"deep": [[(bad,)]]}
    data[split][key] = bad
    path = folder / "evil.pkl"
    path.write_bytes(pickle.dumps(data, rng.randrange(6)))
    return path


def pickle_of_opcodes(rng: random.Random, folder: Path) -> Path:
    """Bombs of a few bytes: memory, depth, references, names."""
    tera = struct.pack("<Q", rng.choice([10**12, 2**62, 2**63 - 1, 2**64 - 1]))
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"](" + (b"h" + bytes([i])) * rng.randrange(5, 20) + b"eq" + bytes([i + 1]) for i in range(rng.randrange(9, 30))
    )
    data = rng.choice(
        [
            b"\x80\x04\x8e" + tera + b"x.",
            b"\x80\x05\x96" + tera + b"x.",
            b"\x80\x04\x8d" + tera + b"x.",
            b"\x80\x04\x95" + tera + b"N.",
            b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".",
            b"\x80\x02" + b"]" * rng.randrange(100, 200_000) + b"a" * 99 + b".",
            b"\x80\x02]q\x00h\x00a.",
            b"I" + b"9" * rng.randrange(1000, 100_000) + b"\n.",
            b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"x.",
            laughs + b".",
            b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93\x8a\x06" + tera[:6] + b"\x85\x85R.",
            bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400))),
        ]
    )
    path = folder / "ops.pkl"
    path.write_bytes(data)
    return path


def member(header: str, body: bytes = b"", version: int = 1) -> bytes:
    words = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(words).to_bytes(2 if version == 1 else 4, "little") + words + body


def npz_of_headers(rng: random.Random, folder: Path) -> Path:
    """Arrays whose headers claim what is not there, or what no array is."""
    shapes = [
        "(True,)", "(-1,)", "(99999999999999999999,)", "(4611686018427387904,)", "(4294967296, 4294967296, 16)",
        "(1,)" * 9, "(" * rng.randrange(10, 20_000), "(" + "1," * rng.randrange(33, 15_000) + ")", "()", "(0, 9)",
        "(1e9,)", "(2L,)", "('a',)", "[1]", "(__import__('os').getpid(),)", "(250000000000,)", "(1,\x00)",
    ]  # fmt: skip
    descrs = [
        "'<f4'",
        "'|O'",
        "'<c16'",
        "'|V8'",
        "'<M8[s]'",
        "[('a', '<f4')]",
        "'<U400000000'",
        "'<f3'",
        "''",
        "'" + "<f4" * 99 + "'",
    ]
    order = rng.choice(["False", "True", "1"])
    header = f"{{'descr': {rng.choice(descrs)}, 'fortran_order': {order}, 'shape': {rng.choice(shapes)}}}"
    path = folder / "headers.npz"
    with zipfile.ZipFile(path, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        body = bytes(rng.randrange(200))
        archive.writestr(
            "train/audio.npy", member(header, body, rng.choice([1, 1, 2, 3, 9]) if len(header) < 60_000 else 2)
        )
    return path


def zip_bomb(rng: random.Random, folder: Path) -> Path:
    """A few kilobytes that unpack to gigabytes; entries may share one member."""
    size = rng.choice([2**20, 2**24, 2**27])
    head = member(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size // 4},)}}")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = (
        packer.compress(head) + b"".join(packer.compress(bytes(2**20)) for _ in range(size // 2**20)) + packer.flush()
    )
    crc = zlib.crc32(head)
    for _ in range(size // 2**20):
        crc = zlib.crc32(bytes(2**20), crc)
    count = rng.choice([3, 100, 5000, 20_000])
    name = b"train/audio.npy"
    sizes = struct.pack("<III", crc, len(body), len(head) + size)
    local = (
        b"PK\x03\x04\x14\x00\x00\x00\x08\x00\x00\x00\x00\x00" + sizes + struct.pack("<HH", len(name), 0) + name + body
    )
    entry = b"PK\x01\x02\x14\x00\x14\x00\x00\x00\x08\x00\x00\x00\x00\x00" + sizes
    entry += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    end = b"PK\x05\x06\x00\x00\x00\x00" + struct.pack("<HHIIH", count, count, len(entry) * count, len(local), 0)
    path = folder / "bomb.npz"
    path.write_bytes(local + entry * count + end)
    return path


def zip_that_is_odd(rng: random.Random, folder: Path) -> Path:
    """Encrypted, of unknown compression, with names that are none, without arrays."""
    path = npz(folder / "odd.npz", arrays(), compressed=rng.random() < 0.5)
    data = bytearray(path.read_bytes())
    match rng.randrange(4):
        case 0:  # encrypted
            for sign, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
                data[data.index(sign) + offset] |= 1
        case 1:  # compression
            for sign, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
                data[data.index(sign) + offset] = rng.choice([1, 6, 9, 12, 14, 93, 95, 99])
        case 2:
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for name in rng.choice([[], ["../../x.npy"], ["a" * 60_000 + ".npy"], ["\x1b[31m.npy"], ["data.pkl"]]):
                    archive.writestr(name, bytes(rng.randrange(99)))
            data = bytearray(buffer.getvalue())
        case 3:  # places that are not there
            at = data.index(b"PK\x01\x02") + 42
            data[at : at + 4] = struct.pack("<I", rng.randrange(2**32))
    path.write_bytes(data)
    return path


def safetensors_of_headers(rng: random.Random, folder: Path) -> Path:
    """Headers of all sorts over a few bytes."""
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header: Any = {"train/audio": good, "__metadata__": {"mmrobust": "{}"}}
    odd = [
        None, True, -1, 2**64, 1e300, [], {}, "x", [True], [[1]], [-1], [2**62, 2**62], [8, 0], [0, 2**62], ["a", "b"],
        "F8_E4M3", "\ud800", "BF16", [1] * 5000,
    ]  # fmt: skip
    text = b""
    match rng.randrange(5):
        case 0:
            header["train/audio"] = good | {rng.choice(list(good)): rng.choice(odd)}
        case 1:
            header = rng.choice(odd)
        case 2:
            text = rng.choice(
                [b"[" * 300_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 50_000 + b"}", b"{}" + b"\xff" * 9]
            )
        case 3:
            header["__metadata__"] = rng.choice(odd)
        case 4:
            header["__metadata__"] = {
                "mmrobust": rng.choice(["[" * 100_000, "9" * 9000, '{"meta": 3}', '{"id": [[1]]}', "{"])
            }
    text = text or json.dumps(header).encode()
    size = rng.choice([len(text)] * 4 + [2**31, 2**39, 10**8, 0, 1])
    path = folder / "x.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + text + bytes(8))
    return path


def hostile_meta(rng: random.Random, folder: Path) -> Path:
    """Numbers and texts of `meta` that ask for more than there is."""
    odd: list[Any] = [
        10**5, 10**9, -1, 0, True, None, "x", [], {}, 1e308, "\ud800", [[1]] * 9, ["n"] * 20_000, ["\x1b[2J", "b", "c"],
    ]  # fmt: skip
    task = {
        "kind": rng.choice(["classification", "regression", "multilabel", "x"]),
        "outputs": 3,
        "measures": "classification",
    }
    task[rng.choice(["kind", "outputs", "measures", "names", "low", "high"])] = rng.choice(odd)
    meta: Any = {"task": task}
    if rng.random() < 0.3:
        meta[rng.choice(["task", "modalities"])] = rng.choice(odd)
    text = json.dumps(meta)
    if rng.random() < 0.2:
        text = rng.choice(["9" * 5000, "[" * 200_000, "{", "", "\x00", '{"task": ' + "1" * 9999 + "}"])
    return npz(folder / "meta.npz", arrays() | {"meta": np.asarray(text)})


def hostile_values(rng: random.Random, folder: Path) -> Path:
    """Good containers around odd labels, lengths, masks, times, ids and features."""
    n = 8
    ragged = np.empty(n, object)
    ragged[:] = [np.ones((rng.choice([1, 2, 10**6]), 4), np.uint8) for _ in range(n)]
    mixed = np.empty(n, object)
    mixed[:] = [np.ones((2, 4)), None, "a", 1, [1], {}, (), np.ones(3)]
    key, value = rng.choice(
        [
            ("label", np.full(n, rng.choice([np.nan, np.inf, -np.inf, 1e308]))),
            ("label", np.array([2**63 - 1, -(2**63)] * (n // 2))),
            ("label", np.arange(n) * 10**12),
            ("label", np.array(["x" * 100_000] * n)),
            ("label", np.array([f"\ud800{i}" for i in range(n)])),
            ("label", np.ones((n, 3, 3))),
            ("label", np.asarray(3)),
            ("label", np.ones((n, 0))),
            ("id", np.array(["\ud800"] * n)),
            ("id", np.array(["\x1b[2J\x07\u202e"] * n)),
            ("id", np.array(["i" * 100_000] * n)),
            ("id", np.asarray("one")),
            ("group", np.array([["a", "\udfff"]] * n)),
            ("audio_length", np.full(n, rng.choice([-1, 2**62, 0, 7]))),
            ("audio_length", np.full(n, np.nan)),
            ("audio_mask", np.full((n, 6), rng.choice([np.nan, -np.inf, 2, -1]))),
            ("audio_mask", np.ones((n, 6, 2))),
            ("audio_mask", np.array([["a"] * 6] * n)),
            ("audio_times", np.full((n, 6, 2), np.nan)),
            ("audio_times", np.array(["a"] * n)),
            ("audio", np.full((n, 6, 4), rng.choice([np.nan, np.inf, 1e308, 0]))),
            ("audio", np.zeros((n, 0, 4))),
            ("audio", np.zeros((0, 6, 4))),
            ("audio", np.ones((n, 1, 1, 1, 1, 1, 1, 1, 1))),
            ("audio", np.full((n, 6, 4), 2**63, np.uint64)),
            ("audio", np.ones((n, 6, 4), bool)),
            ("audio", ragged),
            ("audio", mixed),
            ("x" * 60_000, np.ones((n, 2))),
            ("\x1b[31m", np.ones((n, 2))),
            ("train", np.ones((n, 2))),
        ]
    )
    return npz(folder / "values.npz", arrays({key: value}))


def no_regular_file(rng: random.Random, folder: Path) -> Path:
    """Pipes, devices, folders, sockets and links to them."""
    path = folder / rng.choice(["x.npz", "x.pkl", "x.safetensors"])
    match rng.randrange(6):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to(rng.choice(["/dev/zero", "/dev/random", "/dev/null", "/dev/full", "/dev/stdin"]))
        case 2:
            path.mkdir()
        case 3:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case 4:
            path.symlink_to(path)
        case 5:
            os.mkfifo(folder / "pipe")
            path.symlink_to(folder / "pipe")
    return path


def foreign(rng: random.Random, folder: Path) -> Path:
    """The beginning of a file of another program, then anything."""
    heads = [
        b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html><title>x</title>", b"\x89HDF\r\n\x1a\n",
        b"a,b\n1,2\n",
        b"MATLAB 5.0", b"\x93NUMPY\x01\x00", b"\x1f\x8b\x08", b"PAR1", b"%PDF-1.7", b"{\"a\": 1}", b"\0" * 600, b"",
        b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"\x80\x04",
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
        b"RIFF\0\0\0\0WAVE", b"\xff\xfe<\0h\0t\0m\0l\0", b"\xef\xbb\xbf<html>",
    ]  # fmt: skip
    path = folder / f"x{rng.choice(['.pkl', '.npz', '.safetensors', '.csv', ''])}"
    path.write_bytes(rng.choice(heads) + rng.randbytes(rng.choice([0, 0, 3, 900])))
    return path


HOSTILE: dict[str, Make] = {
    "pickles that call": hostile_pickle,
    "pickles of opcodes": pickle_of_opcodes,
    "headers of npz": npz_of_headers,
    "zip bombs": zip_bomb,
    "odd zips": zip_that_is_odd,
    "headers of safetensors": safetensors_of_headers,
    "meta": hostile_meta,
    "values": hostile_values,
    "no regular files": no_regular_file,
    "foreign files": foreign,
}


# ------------------------------------------------------------------------------------------- damage


def damaged(rng: random.Random, data: bytes) -> bytes:
    """One to four times some bytes flipped, cut, inserted, zeroed or moved."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at, size = rng.randrange(max(len(out), 1)), rng.choice([1, 4, 64, 1024])
        match rng.randrange(6):
            case 0 if out:
                out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = rng.randbytes(size)
            case 4:
                out[at : at + size] = bytes(len(out[at : at + size]))
            case 5:
                there = rng.randrange(max(len(out), 1))
                out[there : there + size], out[at : at + size] = out[at : at + size], out[there : there + size]
    return bytes(out)


def same(a: Any, b: Any) -> bool:
    """Whether two values that were read are the same, NaN and all."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and isinstance(b, np.ndarray)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and (all(map(same, a.reshape(-1), b.reshape(-1))) if a.dtype.kind == "O" else a.tobytes() == b.tobytes())
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


# ------------------------------------------------------------------------------------------- the campaign


def processor_seconds() -> float:
    """Processor time of this process and of its children that have ended: waiting for a busy machine does not count."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def looked_at(path: Path) -> tuple[str, str]:
    """What becomes of a file at the command line and in a dataset: `read` or `refused`, and what is wrong with that."""
    out, err = io.StringIO(), io.StringIO()
    start = processor_seconds()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line(["data", "info", str(path)])
    complaint = ""
    if code not in (0, 3):
        complaint = f"exit code {code}: {err.getvalue()[:200]}"
    elif code == 3 and err.getvalue().count("\n") != 1:
        complaint = f"{err.getvalue().count(chr(10))} lines: {err.getvalue()[:200]}"
    elif "\x1b" in out.getvalue() + err.getvalue():
        complaint = "an escape sequence reached the terminal"
    for use in ("arrays", "mmsa", "mult"):
        try:
            open_dataset(Part(use, {"path": path}))
        except MmrobustError:
            pass
        except Exception as error:
            complaint = complaint or f"{use}: {type(error).__name__}: {error}"[:200]
    seconds = processor_seconds() - start
    if seconds > SECONDS:
        complaint = complaint or f"it took {seconds:.0f} s of a processor"
    return "read" if code == 0 else "refused", complaint


def hostile_files(count: int, rng: random.Random, folder: Path, complaints: list[str]) -> None:
    """Looks at hostile files, and prints what became of each kind."""
    kinds = list(HOSTILE)
    results: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    slowest = 0.0
    for i in range(count):
        kind = kinds[i % len(kinds)]
        own = folder / f"hostile{i}"
        own.mkdir()
        path = HOSTILE[kind](rng, own)
        start = processor_seconds()
        result, complaint = looked_at(path)
        slowest = max(slowest, processor_seconds() - start)
        results[kind][result] += 1
        if (own / SIGN).exists():
            complaint = "IT EXECUTED SOMETHING"
        if complaint:
            complaints.append(f"{kind}, file {i}: {complaint}")
        if path.is_file():
            path.unlink()
    for kind, result in results.items():
        print(f"  {kind:24} {result['refused']:4} refused {result['read']:4} read")
    print(f"{count} hostile files; four looks at the slowest took {slowest:.1f} s of a processor")


def damaged_files(count: int, rng: random.Random, folder: Path, complaints: list[str]) -> None:
    """Looks at damaged files, and prints how many were refused, unharmed, or read as something else."""
    files = good_files(folder)
    whole = {kind: read_file(path).value for kind, path in files.items()}
    results: dict[str, Counter[str]] = {kind: Counter() for kind in files}
    for i in range(count):
        kind = list(files)[i % len(files)]
        good = files[kind]
        path = folder / f"damaged{i}{good.suffix}"
        path.write_bytes(damaged(rng, good.read_bytes()))
        _, complaint = looked_at(path)
        try:
            result = "the same" if same(read_file(path).value, whole[kind]) else "other values"
        except DataError:
            result = "refused"
        results[kind][result] += 1
        if result == "other values" and kind.endswith("npz"):
            # An archive whose list of entries is cut may lack arrays, but what it has is checked.
            value = read_file(path).value
            if any(not same(value[k], whole[kind].get(k)) for k in value if k in whole[kind]):
                complaint = complaint or "an array of an archive was read with other values"
        if complaint:
            complaints.append(f"damaged {kind}, file {i}: {complaint}")
        path.unlink()
    for kind, result in results.items():
        counts = (f"{result[result]:4} {result}" for result in ("refused", "the same", "other values"))
        print(f"  {kind:24} {' '.join(counts)}")
    print(f"{count} damaged files")


def main() -> int:
    """Runs the campaign; 1 where something is wrong."""
    hostile, damage, seed = (int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 300), (2, 500), (3, 0)))
    rng, complaints = random.Random(seed), list[str]()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        hostile_files(hostile, rng, Path(name), complaints)
        damaged_files(damage, rng, Path(name), complaints)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if peak > MEMORY:
        complaints.append(f"the process held {peak / 2**20:.1f} GiB")
    print(f"{time.perf_counter() - start:.0f} s; this process held at most {peak / 2**20:.2f} GiB")
    print(f"complaints: {len(complaints)}")
    for complaint in complaints:
        print(f"  {complaint}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
