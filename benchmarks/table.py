"""Records what `make bench` measured, and writes the tables of `docs/speed.md` from the newest record.

    python -m benchmarks.table build/bench docs/speed.md

A record, `benchmarks/results/<date>-<machine>.json`, holds each group's numbers with machine, versions and date, and no
names of hosts or paths. Without a folder of fresh measurements the tables are made from the newest record.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mmrobust.accel.linear import gemm
from mmrobust.training.device import slow_precision

RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- benchmarks: written by benchmarks/table.py -->", "<!-- end of benchmarks -->"
VERSIONS = ("mmrobust", "torch", "numpy", "pytest-benchmark")
NOT_YET = "not yet measured"
Rows = list[dict[str, Any]]


def record(folder: Path) -> dict[str, Any]:
    """What pytest-benchmark left in a folder, reduced to what matters."""
    groups: dict[str, Rows] = {}
    cpu, dates = "", []
    for file in sorted(folder.glob("*.json")):
        told = json.loads(file.read_text(encoding="utf-8") or "{}")
        if not told.get("benchmarks"):
            continue
        cpu = told["machine_info"]["cpu"].get("brand_raw") or platform.machine()
        dates.append(told["datetime"][:10])
        for one in told["benchmarks"]:
            if not one["extra_info"]:  # it failed on the way
                continue
            row = {"name": one["name"], "seconds": one["stats"]["median"], "iqr": one["stats"]["iqr"]}
            groups.setdefault(one["group"], []).append({**row, **_rounded(one["extra_info"])})
    if not groups:
        raise SystemExit(f"there is nothing in {folder}: make bench first")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "format": 1,
        "date": max(dates),
        "machine": {
            "cpu": cpu,
            "vector": torch.backends.cpu.get_cpu_capability(),
            "gemm": gemm(),
            "cores": torch.get_num_threads(),
            "gpu": gpu,
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
        "bf16": slow_precision("bf16", torch.device("cpu")),
        "groups": groups,
    }


def _rounded(value: Any) -> Any:
    """Six digits say all there is to say."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def save(found: dict[str, Any]) -> Path:
    """Writes a record under its date and machine."""
    machine = found["machine"]
    name = machine["gpu"] or f"{machine['cpu']} {machine['vector']}"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    file = RESULTS / f"{found['date']}-{machine['cores']}-core-{slug}.json"
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return file


def newest() -> dict[str, Any]:
    """The last record."""
    files = sorted(RESULTS.glob("*.json"), key=lambda file: (file.name[:10], file.stat().st_mtime))
    if not files:
        raise SystemExit(f"no record is in {RESULTS.name}/: make bench first")
    return json.loads(files[-1].read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; numbers to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join(["---", *["---:"] * (len(head) - 1)]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def ratio(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _pick(rows: Rows, **wanted: Any) -> dict[str, Any] | None:
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def render(found: dict[str, Any]) -> str:
    """Every table of a record, in Markdown."""
    groups, machine, versions = found["groups"], found["machine"], found["versions"]
    of = lambda name: groups.get(name, [])
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        f"Recorded on {found['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}; "
        f"{told}.",
        "Ratios are medians over rounds in which both took turns, with the quartiles in brackets.",
        "### Bars\n\n" + table(["asked of", "at least", "measured", "met"], _bars(found)),
    ]
    if rows := of("machine"):
        asked = {"torch": "torch.mm", "onednn": "oneDNN, as our linear layers ask it"}
        cells = [
            [f"{r['precision']}, {asked[r.get('library', 'torch')]}", str(r["threads"]), f"{r['gflops']:.0f}"]
            for r in rows
        ]
        more = f"\n\nbf16: {found['bf16']}." if found["bf16"] else ""
        parts.append("### The machine's GEMM\n\n" + table(["format", "threads", "GFLOP/s"], cells) + more)
    if rows := of("training step"):
        cells = [
            [
                f"{r['size']}, {r['threads']} thread{'s' * (r['threads'] > 1)}, {r['precision']}", str(r["batch_size"]),
                ms(r["seconds"]), ms(r["naive"]["seconds"]), ratio(r["naive"]["ratio"]),
                ratio(r["torch_gemm"]["ratio"]) if "torch_gemm" in r else "",
                f"{r['of_gemm']:.0%} ({r['of_gemm_naive']:.0%})", f"{r['of_onednn']:.0%}" if "of_onednn" in r else "",
                f"{r['feeding_share']:.1%}", f"{r['samples_per_second']:,.0f}",
            ]
            for r in rows
        ]  # fmt: skip
        head = [
            "", "batch", "step", "naive", "times naive", "times with torch's GEMM", "of torch.mm (naive)", "of oneDNN",
            "feeding, noise", "samples/s",
        ]  # fmt: skip
        parts.append("### A training step of NORM-TR\n\n" + table(head, cells))
    if rows := [*of("epoch"), *of("sweep")]:
        cells = [
            [
                "epoch" if "steps" in r else "sweep, 11 rates x 10 draws", r["size"], str(r["samples"]),
                ms(r["seconds"]), ms(r["naive"]["seconds"]), ratio(r["naive"]["ratio"]),
            ]
            for r in rows
        ]  # fmt: skip
        head = ["", "size", "samples", "ours", "naive", "times naive"]
        parts.append("### An epoch, a sweep (one thread, fp32)\n\n" + table(head, cells))
    if rows := of("seeds"):
        cells = []
        for r in rows:
            rates = r["seed_steps_per_second"]
            single = f"{rates['one_thread']:.1f}" if "one_thread" in rates else ""
            most = f"{r['of_cores']:.0%}" if r.get("of_cores") else ""
            cells.append([
                f"{r['seeds']} seeds, {r['way']}", r["size"], single, f"{rates['alone']:.1f}",
                f"{rates['together']:.1f}", f"{r['ratio']:.2f}", most,
            ])  # fmt: skip
        head = ["seed-steps/s", "size", "one, on one thread", "one after the other, on all", "at once"]
        head += ["at once over one after the other", "of a thread each"]
        parts.append("### Seeds at once\n\n" + table(head, cells))
    if rows := of("start-up"):
        cells = [["import torch", ms(max(r["seconds"] for r in rows)), ""]]
        for row in rows:
            verbs = {key: value for key, value in row.items() if isinstance(value, dict)}
            cells += [[f"mmrobust {key}", ms(v["seconds"]), ratio(v["ratio"])] for key, v in verbs.items()]
        parts.append("### Start-up\n\n" + table(["", "median", "over import torch"], cells))
    if rows := of("attention"):
        parts.append("### Attention\n\n" + _attention(rows))
    if rows := of("fusions"):
        cells = [
            [r["fusion"], f"{r['parameters']:,}", ms(r["seconds"]), f"{r['samples_per_second']:,.0f}"]
            for r in sorted(rows, key=lambda r: r["seconds"])
        ]
        head = ["fusion, 16 samples at MOSI sizes", "parameters", "forward and backward", "samples/s"]
        parts.append("### Installed fusions (one thread)\n\n" + table(head, cells))
    if rows := [*of("accel, step"), *of("accel, sweep")]:
        tricks = list(dict.fromkeys(key for row in rows for key, value in row.items() if isinstance(value, dict)))
        cells = [
            [trick, *(ratio(row[trick]["ratio"]) if trick in row else "" for row in rows)] for trick in tricks
        ]
        what = ["sweep" if "sweep" in row["name"] else "step" for row in rows]
        head = ["times as long without it", *(f"{of_what}, {r['size']}" for of_what, r in zip(what, rows, strict=True))]
        parts.append("### What each trick of accel is worth (one thread, fp32)\n\n" + table(head, cells))
    if rows := [*of("gpu step"), *of("gpu seeds")]:
        cells = [
            [row["name"], name, ms(row["seconds"]), ratio(value["ratio"])]
            for row in rows
            for name, value in row.items()
            if isinstance(value, dict)
        ]
        parts.append("### On the GPU\n\n" + table(["", "compared with", "time", "times as long"], cells))
    return "\n\n".join(parts) + "\n"


def _attention(rows: Rows) -> str:
    """Tokens a second of each backend, in thousands, and the share of the GEMM rate."""
    names = list(dict.fromkeys(name for row in rows for name in row["backends"]))
    cells = []
    for row in rows:
        told = [row["backends"].get(name) for name in names]
        shown = ["" if t is None else f"{t['tokens_per_second'] / 1e3:,.0f} ({t['of_gemm']:.0%})" for t in told]
        direction = "forward" if row["direction"] == "forward" else "forward, backward"
        cells.append([f"{row['length']} {row['form']}, {direction}, {row['precision']}, {row['device']}", *shown])
    skipped = {name: why for row in rows for name, why in row["skipped"].items() if name not in names}
    more = "".join(f"\n\n{name}: {why}." for name, why in skipped.items())
    return table(["thousand tokens/s (share of GEMM)", *names], cells) + more


def _bars(found: dict[str, Any]) -> list[list[str]]:
    """The bars that were set, and what was reached."""
    groups, rows = found["groups"], []

    def bar(
        what: str, asked: str, value: float | None, met: bool | None, why: str = NOT_YET, form: str = ".2f"
    ) -> None:
        shown = why if value is None else format(value, form)
        rows.append([what, asked, shown, "" if value is None else "yes" if met else "**no**"])

    step = groups.get("training step", [])
    # Where oneDNN multiplies (AMD's Zen 5), steps and sweeps are faster over the naive ones, and more is asked.
    fast = found["machine"].get("gemm") == "onednn"
    for size, least in (("mosi", 2.1 if fast else 1.6), ("rml", 1.5 if fast else 1.25)):
        value = _number(_pick(step, size=size, threads=1, precision="fp32"), "naive", "ratio", "median")
        bar(f"step over naive, {size}, fp32", f"{least}", value, value is not None and value >= least)
    row = _pick(step, size="mosi", threads=1, precision="fp32")
    value = _number(row, "feeding_share")
    bar("feeding and noise in a step, mosi", "at most 1 %", value, value is not None and value <= 0.01, form=".2%")
    for size, least in (("mosi", 5.5 if fast else 4.5), ("rml", 4.5 if fast else 3.0)):
        row = _pick(groups.get("sweep", []), size=size)
        value = _number(row, "naive", "ratio", "median")
        bar(f"sweep over naive, {size}", f"{least}", value, value is not None and value >= least)
    for size in ("mosi", "rml"):
        row = _pick(groups.get("seeds", []), size=size, way="processes")
        value = _number(row, "ratio")
        bar(f"2 seeds as processes, {size}", "1.35", value, value is not None and value >= 1.35)
        if row and row.get("of_cores"):
            rows.append([f"the same of a thread each, undisturbed, {size}", "no bar", f"{row['of_cores']:.0%}", ""])
    verbs = {key: v for row in groups.get("start-up", []) for key, v in row.items() if isinstance(v, dict)}
    for name, most in (("--help", 0.1), ("build", 1.3)):
        value = verbs[name]["ratio"]["median"] if name in verbs else None
        bar(f"`{name}` over import torch", f"at most {most}", value, value is not None and value <= most)
    light = [v["seconds"] for name, v in verbs.items() if name != "build"]
    value = max(light) if light else None
    bar("slowest verb without torch", "at most 0.3 s", value, value is not None and value <= 0.3, form=".2f")
    return rows


def _number(row: Any, *keys: str) -> float | None:
    """What stands in a row under these keys; None where there is no such row."""
    if not row:
        return None
    for key in keys:
        row = row[key]
    return float(row)


def main() -> None:
    folder, page = Path(sys.argv[1]), Path(sys.argv[2])
    if folder.is_dir() and any(folder.glob("*.json")):
        print(f"recorded: {save(record(folder)).relative_to(RESULTS.parent.parent)}")
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise SystemExit(f"{page} has no place for the tables: {BEGIN} ... {END}")
    page.write_text(f"{head}{BEGIN}\n\n{render(newest())}\n{END}{tail}", encoding="utf-8")
    print(f"written: {page}")


if __name__ == "__main__":
    main()
