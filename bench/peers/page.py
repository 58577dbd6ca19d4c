"""Writes docs/benchmarks.md and its picture from the compare.json of a run of compare.py.

    page.py build/bench/compare.json         ./dev bench --peers
    page.py build/gpu/report/compare.json gpu  ./dev gpu bench: docs/benchmarks_gpu.md
"""
import json
import sys
from pathlib import Path
from statistics import median

from compare import picture, si, summary

DOCS = Path(__file__).parent.parent.parent / "docs"


def cell(value):
    return "" if value is None else f"{value:.2f}"


CPU = [
    "# Benchmarks", "",
    "Lamp++ beside PyTorch on the same machine, in the same run: `./dev bench --peers` installs PyTorch "
    "under build/, measures both", "and writes the figures; `bench/peers/page.py` makes this page of "
    "them. The rows are written once, in `bench/peers/rows.hpp`, and", "compiled for each library. A "
    "round times every library in turn; figures are medians of {rounds} rounds. A ratio is the time of",
    "PyTorch's C++ API over ours: above 1 we are faster. \"Of limit\" is what our time is of the "
    "machine's own limit, measured in the",
    "same run: bandwidth of reading, copy or triad on arrays of that size, or the peak of fused "
    "multiply-adds (that of fp32 for",
    "bf16, whose instruction does twice as much). Outputs are new each time, as programs have them.", "",
    "Machine: {cpu}, {cores} cores. PyTorch {torch}. Both give up little by little on a loaded machine, "
    "so run it on", "an idle one. [benchmarks_gpu.md](benchmarks_gpu.md) has the figures of a GPU.", "",
    "![ratios](benchmarks.svg)", ""]
GPU = [
    "# Benchmarks on a GPU", "",
    "Lamp++ beside PyTorch's C++ API on the same GPU, in the same run of `./dev gpu bench`; "
    "`bench/peers/page.py` makes this page of", "its figures. The rows are written once, in "
    "`bench/gpu/rows.hpp`. Times are of many calls, until the GPU has done the last, and",
    "medians of {rounds} rounds. A ratio is PyTorch's time over ours: above 1 we are faster. \"Of limit\" "
    "is what our time, less 3 us for a", "launch, is of what the bytes take at the bandwidth of a large "
    "copy, or for small tensors what a bare launch of a", "kernel takes.", "",
    "Machine: {cpu}. PyTorch {torch}.", "", "![ratios](benchmarks_gpu.svg)", ""]


def main():
    result = json.loads(Path(sys.argv[1]).read_text())
    gpu = "gpu" in sys.argv[2:]
    counts = sorted({row["threads"] for row in result["rows"]})
    names = [""] if gpu else [f", {n} thread{'s' * (n > 1)}" for n in counts]
    summaries = [{name: rest for name, *rest in summary(result, n)} for n in counts]
    known = {"rounds": result["rounds"], "cpu": result["cpu"], "cores": max(counts),
             "torch": result.get("torch", "2.11.0" if gpu else "2.15.0")}
    lines = [line.format(**known) for line in (GPU if gpu else CPU)] + [
        "| group | rows | " + " | ".join(f"geometric mean{n} | least{n}" for n in names) + " |",
        "|---|---" + "|---|---" * len(counts) + "|"]
    for group in summaries[0]:
        parts = [f"{s[group][1]:.2f} | {s[group][2]:.2f} ({s[group][3]})" for s in summaries
                 if group in s]
        lines.append(f"| {group} | {summaries[0][group][0]} | " + " | ".join(parts) + " |")
    rows = {}
    for row in result["rows"]:
        if row["group"] != "limit":
            rows.setdefault(row["group"], {}).setdefault(row["name"], {})[row["threads"]] = row
    for group, named in rows.items():
        python = any(row.get("python_ratio") for by in named.values() for row in by.values())
        lines += ["", f"## {group}", "", "| | " + " | ".join(
            f"Lamp++{n} | PyTorch | ratio | of limit" + (" | ratio to Python" if python else "")
            for n in names) + " |", "|---" + "|---" * (4 + python) * len(counts) + "|"]
        for name, by in named.items():
            cells = [name]
            for n in counts:
                row = by[n]
                middle = {who: si(median(times)) for who, times in row["times"].items()}
                cells += [middle.get("lamppp", ""), middle.get("torch", ""), cell(row["ratio"]),
                          cell(row["of_limit"])] + [cell(row["python_ratio"])] * python
            lines.append("| " + " | ".join(cells) + " |")
    page = DOCS / ("benchmarks_gpu.md" if gpu else "benchmarks.md")
    page.write_text("\n".join(lines) + "\n")
    picture(result, page.with_suffix(".svg"))


if __name__ == "__main__":
    main()
