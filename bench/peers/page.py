"""Writes docs/benchmarks.md and docs/benchmarks.svg from the compare.json of a run of compare.py.

    page.py build/bench/compare.json
"""
import json
import sys
from pathlib import Path
from statistics import median

from compare import picture, si, summary

DOCS = Path(__file__).parent.parent.parent / "docs"


def cell(value):
    return "" if value is None else f"{value:.2f}"


def main():
    result = json.loads(Path(sys.argv[1]).read_text())
    counts = sorted({row["threads"] for row in result["rows"]})
    names = [f"{n} thread{'s' * (n > 1)}" for n in counts]
    summaries = [{name: rest for name, *rest in summary(result, n)} for n in counts]
    lines = ["# Benchmarks", "",
             "Lamp++ beside PyTorch on the same machine, in the same run: `./dev bench --peers` installs PyTorch "
             "under build/, measures both", "and writes the figures; `bench/peers/page.py` makes this page of "
             "them. The rows are written once, in `bench/peers/rows.hpp`, and", "compiled for each library. A "
             "round times every library in turn; figures are medians of "
             f"{result['rounds']} rounds. A ratio is the time of", "PyTorch's C++ API over ours: above 1 we are "
             "faster. \"Of limit\" is what our time is of the machine's own limit, measured in the",
             "same run: bandwidth of reading, copy or triad on arrays of that size, or the peak of fused "
             "multiply-adds (that of fp32 for", "bf16, whose instruction does twice as much). Outputs are new "
             "each time, as programs have them.", "",
             f"Machine: {result['cpu']}, {max(counts)} cores. PyTorch {result.get('torch', '2.15.0')}. Both "
             "give up little by little on a loaded machine, so run it on", "an idle one.", "",
             "![ratios](benchmarks.svg)", "",
             "| group | rows | " + " | ".join(f"geometric mean, {n} | least, {n}" for n in names) + " |",
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
            f"Lamp++, {n} | PyTorch | ratio | of limit" + (" | ratio to Python" if python else "")
            for n in names) + " |", "|---" + "|---" * (4 + python) * len(counts) + "|"]
        for name, by in named.items():
            cells = [name]
            for n in counts:
                row = by[n]
                middle = {who: si(median(times)) for who, times in row["times"].items()}
                cells += [middle.get("lamppp", ""), middle.get("torch", ""), cell(row["ratio"]),
                          cell(row["of_limit"])] + [cell(row["python_ratio"])] * python
            lines.append("| " + " | ".join(cells) + " |")
    (DOCS / "benchmarks.md").write_text("\n".join(lines) + "\n")
    picture(result, DOCS / "benchmarks.svg")


if __name__ == "__main__":
    main()
