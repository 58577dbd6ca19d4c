"""Compares two runs of compare.py and prints the rows that moved by more than the noise.

A row has moved where the ranges of its rounds do not overlap and its ratio to PyTorch, or its own
time where there is none, changed by more than --by. The exit status is 1 where a row became slower.
"""
import argparse
import json
import sys
from pathlib import Path
from statistics import median


def quartiles(times):
    ordered = sorted(times)
    return ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--by", type=float, default=0.1, help="least change that counts")
    options = parser.parse_args()
    runs = [{(row["threads"], row["group"], row["name"]): row
             for row in json.loads(path.read_text())["rows"] if row["group"] != "limit"}
            for path in (options.before, options.after)]
    slower = 0
    for key in runs[0].keys() & runs[1].keys():
        old, new = (run[key]["times"] for run in runs)
        # The peer did not change: how much slower it was is how much slower the machine was.
        machine = (median(new["torch"]) / median(old["torch"])
                   if "torch" in old and "torch" in new else 1.0)
        before = [t * machine for t in old["lamppp"]]
        after = new["lamppp"]
        (low, high), (low_after, high_after) = quartiles(before), quartiles(after)
        change = median(after) / median(before) - 1
        if abs(change) < options.by or (low_after <= high and low <= high_after):
            continue
        slower += change > 0
        print(f"{key[0]} thread(s)  {key[1]}: {key[2]:44}"
              f"{'slower' if change > 0 else 'faster'} by {abs(change):.0%}")
    for name, here, there in (("gone", *runs), ("new", *reversed(runs))):
        for key in here.keys() - there.keys():
            print(f"{key[0]} thread(s)  {key[1]}: {key[2]:44}{name}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
