"""docs/benchmarks.md from a record: tables, pictures, and where gradroute loses, in words."""

from __future__ import annotations

from pathlib import Path

from . import scaling
from .causes import cause, meaning, share
from .cases import FAMILIES
from .lines import ratio
from .measure import PAUSE, WAKE
from .record import OURS, PYTORCH, Row, geometric_mean, groups, summarize
from .tables import cells, names, notes

#: kinds of convolution that share a kernel or a difficulty, and how to tell them
_KINDS = (
    ("depthwise", lambda s: s["groups"] == s["C"] > 1),
    ("grouped", lambda s: s["groups"] > 1),
    ("first layers (1 or 3 channels)", lambda s: s["C"] <= 4),
    ("1x1", lambda s: s["R"] == s["S"] == 1),
    ("3x3, stride 1", lambda s: s["R"] == s["S"] == 3 and s["stride"] == s["dilation"] == 1),
    ("other", lambda s: True),
)


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    """Markdown; every column but the first is right-aligned."""
    align = ["---"] + ["---:"] * (len(head) - 1)
    return ["| " + " | ".join(cell) + " |" for cell in (head, align, *lines)] + [""]


def _kind(row: Row) -> str:
    return next(name for name, holds in _KINDS if holds(row.sizes))


# ---- where gradroute loses ----------------------------------------------------------------


def losses(rows: list[Row], ceilings: dict | None = None) -> list[str]:
    """Paragraphs: how often gradroute is slower than the better PyTorch layout, where, and why."""
    text, causes = [], {}
    for title, part in groups(rows):
        if title.endswith("together"):
            continue
        compared = [(row.over(*PYTORCH), row) for row in part if row.over(*PYTORCH) is not None]
        lost = sorted(((r, row) for r, row in compared if r < 1), key=lambda pair: pair[0])
        if not compared:
            continue
        if not lost:
            text.append(f"- {title}: faster in all {len(compared)} cases.")
            continue
        for r, row in lost:
            causes.setdefault(cause(row, ceilings), []).append(r)
        worst = ", ".join(f"{row.name} ({ratio(r)}, {cause(row, ceilings)})" for r, row in lost[:6])
        text.append(
            f"- {title}: slower in {len(lost)} of {len(compared)} cases; the worst are {worst}."
        )
    others = [side for side in names(rows)[1:] if side not in PYTORCH]
    for side in others:
        found = summarize(rows, side, side)
        if found.lost:
            text.append(
                f"- {side} is faster in {found.lost} of the {found.cases} cases that it takes part "
                f"in, at most {ratio(1 / found.worst)} ({found.worst_case})."
            )
    failed = [f"{row.op} {row.name}: {row.failure}" for row in rows if row.failure]
    text += [*(f"- gradroute has no time for {what}." for what in failed), ""]
    return text + (_causes(causes) if causes else [])


def _causes(found: dict[str, list[float]]) -> list[str]:
    """Each probable cause, with how many of the lost cases it explains and how bad they are."""
    lines = [
        [name, text.strip(), str(len(found[name])), ratio(geometric_mean(found[name])),
         ratio(min(found[name]))]
        for name, _, text in (line.partition(":") for line in meaning(found))
    ]  # fmt: skip
    return [
        "The causes are probable ones, told by rule from the sizes and times of a row "
        "(`gradroute/bench/causes.py`):", "",
        *table(["cause", "meaning", "cases lost", "mean", "worst"], lines),
    ]  # fmt: skip


def _by_kind(rows: list[Row]) -> list[str]:
    conv = [row for row in rows if row.family == "conv"]
    lines = []
    for kind, _ in _KINDS:
        for op in FAMILIES["conv"]:
            part = [r for r in conv if r.op == op and _kind(r) == kind]
            if part:
                default = geometric_mean(r for row in part if (r := row.over("pytorch")))
                best = [r for row in part if (r := row.over(*PYTORCH))]
                lines.append([
                    f"{kind}: {op}", str(len(part)), ratio(default),
                    ratio(geometric_mean(best)), ratio(min(best, default=None)),
                ])  # fmt: skip
    if not lines:
        return []
    head = ["kind of convolution", "cases", "over default", "over best", "worst over best"]
    return ["By kind of convolution (geometric means):", "", *table(head, lines)]


# ---- the other sections -------------------------------------------------------------------


def _machine(record: dict) -> list[str]:
    machine = record.get("machine", {})
    return ["## Machine and versions", "", *table(["", ""], [[k, v] for k, v in machine.items()])]


def _ceilings(record: dict) -> list[str]:
    found = record["ceilings"]
    lines = []
    for title, part in groups(record["rows"]):
        ours = [s for row in part if (s := share(row, found)) is not None]
        best = [
            max(theirs) for row in part
            if (theirs := [s for side in PYTORCH if (s := share(row, found, side)) is not None])
        ]  # fmt: skip
        if ours:
            shares = (geometric_mean(ours), min(ours), max(ours))
            lines.append([title, *(f"{part:.0%}" for part in shares),
                          f"{geometric_mean(best):.0%}" if best else "-"])  # fmt: skip
    return [
        f"Measured ceilings, {found['dtype']}, {found['threads']} threads: "
        f"{found['flops'] / 1e9:.0f} GFLOP/s of multiply-adds in vector registers, "
        f"{found['bytes'] / 1e9:.1f} GB/s of copying (read and written) from and to memory.",
        "",
        "The share of a row is the time that these two allow, divided by the time taken. It passes "
        "100% where the arrays stay in a cache, and where a method needs fewer multiplications or "
        "uses other units than the vector ones.", "",
        *table(["operation", "gradroute, mean share", "lowest", "highest",
                 "PyTorch's best, mean share"], lines),
    ]  # fmt: skip


def _summary(rows: list[Row]) -> list[str]:
    sides = names(rows)[1:]
    lines = []
    for title, part in groups(rows):
        best = summarize(part, title, *PYTORCH)
        found = [summarize(part, title, side) for side in sides]
        lines.append([
            title, str(len(part)), f"{ratio(best.mean)} ({ratio(best.worst)})",
            *(f"{ratio(s.mean)} ({ratio(s.worst)})" if s.cases else "-" for s in found),
        ])  # fmt: skip
    return table(["operation", "cases", "PyTorch's best", *sides], lines)


def _details(rows: list[Row]) -> list[str]:
    text = []
    for op in (op for ops in FAMILIES.values() for op in ops):
        part = [row for row in rows if row.op == op]
        if part:
            sides = names(part)
            head = ["case", "gradroute, ms", "GFLOP/s", *(f"{side}, ms" for side in sides[1:])]
            text += [f"### {op}", "", *table(head, [cells(row, sides) for row in part])]
    remarks = notes(rows)
    if remarks:
        text += ["Remarks on single columns:", "", *(f"- {remark}" for remark in remarks), ""]
    return text


def _scaling(found: dict, picture: str) -> list[str]:
    exponents = [
        [f"{what}: {op}", f"{power:.2f}", str(scaling.direct_exponent(what, op))]
        for what, op, power in scaling.exponents(found["sweeps"])
    ]
    by_case = {}
    for entry in found["threads"]:
        by_case.setdefault((entry["op"], entry["case"]), {})[entry["threads"]] = entry["seconds"]
    threads = [
        [f"{op}: {case}", *(
            f"{times[1][side] * 1e3:.3f} / {times[2][side] * 1e3:.3f} "
            f"({times[1][side] / times[2][side]:.2f}x)"
            if 2 in times and side in times[1] and side in times[2] else "-"
            for side in (OURS, "pytorch")
        )]
        for (op, case), times in by_case.items()
    ]  # fmt: skip
    sizes = sorted({entry["size"] for entry in found["memory"]})
    peaks = {(e["side"], e["size"]): e["bytes"] for e in found["memory"]}
    sides = list(dict.fromkeys(entry["side"] for entry in found["memory"]))
    memory = [
        [f"{size} x {size}", f"{scaling.result_bytes(size) / 1e6:.1f}", *(
            f"{peaks[side, size] / 1e6:.1f}" if peaks.get((side, size)) else "-" for side in sides
        )]
        for size in sizes
    ]  # fmt: skip
    base = "8 images, 32 channels, 28 x 28, 3x3 convolution or 2x2 pool"
    return [
        "## How the cost grows", "",
        f"Time against one size, the others fixed at {base}; the fitted power of that size, "
        "beside the power with which the direct sum grows (fastest call of each size):", "",
        *table(["varied: operation", "fitted power", "direct sum"], exponents),
        "Milliseconds with 1 / 2 threads:", "",
        *table(["operation", "gradroute", "pytorch"], threads),
        "MB by which one forward convolution (32 to 32 channels, 3x3, one image, one thread) "
        "raises a fresh process's peak memory, its result included:", "",
        *table(["image", "result alone", *sides], memory),
        f"![time and memory against size]({picture})", "",
    ]  # fmt: skip


def _limits(record: dict) -> list[str]:
    settings = record.get("settings", {})
    own = (t.calls for row in record["rows"] for t in row.timings if t.side == OURS and t.calls)
    fewest = min(own, default=0)
    return [
        "## How it was measured, and its limits", "",
        "One process; the sides take turns. Every result is checked against float64 before it is "
        "timed (relative L2 error at most 1e-5 in float32), and each timed call comes right after "
        "an untimed one of its own side. Before a side's turn the process idles for "
        f"{PAUSE * 1e3:.0f} ms, until no other side's threads spin, and untimed calls of the side "
        f"itself follow for {WAKE * 1e3:.0f} ms. A time is the median of {fewest} calls or more, "
        f"as many as fit into a share of about {settings.get('seconds', '?')} s a case; a side "
        "that needs far longer is timed less often. "
        f"{settings.get('threads', '?')} threads on every side. Inputs "
        "are C-contiguous NCHW for all but PyTorch channels_last, whose images and weights are "
        "converted beforehand. Backward passes are asked for one gradient at a time.", "",
        "On a machine that shares its processor with others, times of single rows vary by ten "
        "percent and more between runs, and small cases by more: read ratios and means. Arrays of "
        "most cases fit a large last-level cache, which flatters everybody's bandwidth. One "
        "machine says nothing about processors with other vector units, more cores, or GPUs.", "",
    ]  # fmt: skip


def write(record: dict, path, command: str) -> list[Path]:
    """Writes the Markdown at ``path`` and its pictures into a folder beside it; lists the files."""
    from . import pictures

    path = Path(path)
    rows: list[Row] = record["rows"]
    folder = path.parent / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    files = [path, folder / "speedup.png", folder / "roofline.png"]
    pictures.speedup(rows, files[1])
    text = [
        "# Benchmarks", "",
        f"Written by `{command}`; do not edit. Ratios say how many times faster gradroute is.", "",
        *_machine(record), "## In short", "",
        "Geometric mean (worst case) over each library; PyTorch's best is the faster of its two "
        "layouts, case by case.", "", *_summary(rows),
        "## Where gradroute loses", "",
        "Beside the better of PyTorch's two layouts:", "", *losses(rows, record.get("ceilings")),
        *_by_kind(rows),
        f"![speed-up per shape]({path.stem}/speedup.png)", "",
    ]  # fmt: skip
    if record.get("ceilings"):
        pictures.roofline(rows, record["ceilings"], files[2])
        text += ["## Against the machine's ceilings", "", *_ceilings(record),
                 f"![roofline]({path.stem}/roofline.png)", ""]  # fmt: skip
    else:
        files.pop()
    if record.get("scaling"):
        files.append(folder / "growth.png")
        pictures.growth(record["scaling"], files[-1])
        text += _scaling(record["scaling"], f"{path.stem}/growth.png")
    text += [*_limits(record), "## Every case", "",
             "Milliseconds, and in brackets how many times faster gradroute is.", "",
             *_details(rows)]  # fmt: skip
    path.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    return files
