"""Times the rows of rows.hpp in Lamp++ and in PyTorch, interleaved, and says how they compare.

Every worker is a process that waits for its turn; a round is one turn of each. Figures are medians
over the rounds. The ratio is PyTorch's C++ API time over ours: above 1 we are faster. The last
column says what our time is of the machine's own limit, measured in the same run: the bytes a row
has to move at the bandwidth of reading, copy or triad on arrays of that size (by what part of them
it writes, with ordinary or streaming stores, whichever is faster), or its arithmetic at the peak of
fused multiply-adds, or the launches of kernels that it takes. Rows that say what they have to reach
and do not are listed at the end.
"""
import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median


class Worker:
    def __init__(self, command, threads):
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command + [str(threads)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, **environment})
        self.rows = []
        self.say("list")
        while line := self.process.stdout.readline().strip():
            self.rows.append(json.loads(line))
        self.index = {(row["group"], row["name"]): i for i, row in enumerate(self.rows)}

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self, line):
        self.say(line)
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"{line}: {answer or 'the worker died'}")
        return answer

    def time(self, key, seconds):
        return float(self.answer(f"time {self.index[key]} {seconds}"))


def measure(workers, key, rounds, seconds, pause):
    """The times of every round, by worker."""
    there = {name: worker for name, worker in workers.items() if key in worker.index}
    times = {name: [] for name in there}
    for round_ in range(rounds):
        for name, worker in there.items():
            times[name].append(worker.time(key, seconds))
            time.sleep(pause)  # until its threads have stopped to spin
    for worker in there.values():
        worker.answer("drop")
    return times


def limits(times):
    """Bandwidth by size and peak by type out of the limit rows."""
    bandwidth, peak = {}, {}
    for (group, name), row in times.items():
        if group != "limit":
            continue
        best = min(row["times"]["lamppp"])
        if row["launches"]:
            peak["launch"] = 1 / median(row["times"]["lamppp"])
            continue
        kind, _, size = name.rpartition(" ")
        if kind == "fma":
            peak[size] = row["flops"] / best
        else:
            scale = {"Ki": 1 << 10, "Mi": 1 << 20}[size[-2:]]
            elements = int(size[:-2]) * scale
            bandwidth.setdefault(elements, {})[kind] = row["bytes"] / best
    peak["bf16"] = peak.get("fp32")
    return bandwidth, peak


def fraction(row, bandwidth, peak, overhead=0.0):
    """The part of the machine's limit that a row reaches, None where it has none; `overhead` is
    granted to what moves bytes."""
    ours = row["times"].get("lamppp")
    if not ours:
        return None
    seconds = 0.0
    if row["bytes"] and bandwidth:
        # By what the row touches: the size whose arrays touch as much, and the kind that writes as
        # large a part of it.
        size = min(bandwidth, key=lambda n: abs(math.log(row["bytes"] / (10 * n))))
        part = row["written"] / row["bytes"]
        kind = "read" if part < 1 / 6 else "triad" if part < 5 / 12 else "copy"
        there = bandwidth[size]
        best = max(value for name, value in there.items()
                   if name.startswith(kind) or set(there) == {"copy"})
        seconds = row["bytes"] / best + overhead * bool(row["must"])
    if row["launches"] and "launch" in peak:
        seconds = row["launches"] / peak["launch"]
    if row["flops"] and peak.get(row["unit"]):
        seconds = max(seconds, row["flops"] / peak[row["unit"]])
    return seconds / median(ours) if seconds else None


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def si(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def summary(result, threads):
    """Rows of (group, count, geomean, least ratio, its name)."""
    groups = {}
    for row in result["rows"]:
        if row["threads"] == threads and row["ratio"]:
            groups.setdefault(row["group"], []).append((row["ratio"], row["name"]))
    return [(group, len(rows), geomean([r for r, _ in rows]), *min(rows))
            for group, rows in groups.items()]


def misses(row):
    """What a row does not reach, in words."""
    short = []
    if row["must"] and row["of_limit"] and row["of_limit"] < row["must"]:
        short.append(f"{row['of_limit']:.2f} of the limit, {row['must']:.2f} is asked for")
    if row["ahead"] and row["ratio"] and row["ratio"] < row["ahead"]:
        short.append(f"ratio {row['ratio']:.2f}, {row['ahead']:.2f} is asked for")
    return "; ".join(short)


def table(result, threads, print=print):
    print(f"\n{threads} thread{'s' * (threads > 1)}")
    print(f"{'':44}{'Lamp++':>10}{'PyTorch':>10}{'ratio':>8}{'Python':>8}{'of limit':>9}")
    rows = [r for r in result["rows"] if r["threads"] == threads and r["group"] != "limit"]
    rows.sort(key=lambda row: row["group"])  # stable: by group, else as they are in rows.hpp
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            print(f"-- {group}")
        shown = {name: si(median(times)) for name, times in row["times"].items()}
        number = lambda value, form: "" if value is None else format(value, form)
        print(f"{row['name']:44}{shown.get('lamppp', ''):>10}{shown.get('torch', ''):>10}"
              f"{number(row['ratio'], '.2f'):>8}{number(row['python_ratio'], '.2f'):>8}"
              f"{number(row['of_limit'], '.2f'):>9}")
    print(f"\n{'group':20}{'rows':>6}{'geomean':>9}{'least':>8}")
    for name, count, mean, least, where in summary(result, threads):
        print(f"{name:20}{count:6}{mean:9.2f}{least:8.2f}  {where}")
    short = [(row, misses(row)) for row in rows if misses(row)]
    if short:
        print("\nNot reached:")
    for row, what in short:
        print(f"  {row['group']}: {row['name']}: {what}")


def picture(result, path):
    """The ratios on a logarithmic scale, a column of dots for each group."""
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "lamppp"
    counts = sorted({row["threads"] for row in result["rows"]})
    groups = list(dict.fromkeys(r["group"] for r in result["rows"] if r["ratio"]))
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(groups) * len(counts) + 1.6))
    colors = ["#3465a4", "#f57900", "#73d216", "#75507b"]
    marks = []
    for i, group in enumerate(groups):
        for t, threads in enumerate(counts):
            ratios = [r["ratio"] for r in result["rows"]
                      if r["group"] == group and r["threads"] == threads and r["ratio"]]
            if not ratios:
                continue
            height = -(i + (t - (len(counts) - 1) / 2) * 0.8 / len(counts))
            dots = axes.scatter(ratios, [height] * len(ratios), s=14, alpha=0.45, linewidths=0,
                                color=colors[t], label=f"{threads} thread{'s' * (threads > 1)}")
            axes.scatter([geomean(ratios)], [height], marker="|", s=180, color=colors[t])
            marks.append((threads, dots))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks([-i for i in range(len(groups))], groups)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("times as fast as PyTorch's C++ API (a dot is a row, a bar the geometric mean)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(handles=list(dict(marks).values()), loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def cpu_name():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worker", action="append", default=[], metavar="NAME=COMMAND",
                        help="a worker to run; 'lamppp' and 'torch' make the ratio")
    parser.add_argument("--threads", default="1", help="numbers of threads, as in 1,2")
    parser.add_argument("--only", default="", help="only rows whose 'group: name' this matches")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.01, help="how long a turn takes")
    parser.add_argument("--part", default="1/1", help="I/N: one of N shares of the rows")
    parser.add_argument("--overhead", type=float, default=0.0,
                        help="seconds granted to each row that has to reach a bandwidth")
    parser.add_argument("--machine", help="what to call it in the results")
    parser.add_argument("--out", type=Path, help="where compare.json and compare.svg go")
    options = parser.parse_args()

    part, parts = map(int, options.part.split("/"))
    result = {"cpu": options.machine or cpu_name(), "rounds": options.rounds, "rows": []}
    for threads in map(int, options.threads.split(",")):
        workers = {}
        for entry in options.worker:
            name, _, command = entry.partition("=")
            workers[name] = Worker(command.split(), threads)
        ours = workers["lamppp"]
        times = {}
        for number, row in enumerate(ours.rows):
            key = (row["group"], row["name"])
            if row["group"] != "limit" and not re.search(options.only, f"{key[0]}: {key[1]}"):
                continue
            if row["group"] != "limit" and number % parts != part - 1:
                continue
            if sys.stderr.isatty():
                print(f"\r\033[K{threads}t {number + 1}/{len(ours.rows)} {key[0]}: {key[1]}", end="",
                      file=sys.stderr)
            try:
                measured = measure(workers, key, options.rounds, options.seconds,
                                   0.0 if threads == 1 else 0.012)
            except RuntimeError as error:
                print(f"left out: {key[0]}: {key[1]}: {error}", file=sys.stderr)
                result.setdefault("errors", []).append([*key, str(error)])
                if any(worker.process.poll() is not None for worker in workers.values()):
                    raise
                continue
            times[key] = {**row, "threads": threads, "times": measured}
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        bandwidth, peak = limits(times)
        for row in times.values():
            middle = {name: median(values) for name, values in row["times"].items()}
            for field, peer in (("ratio", "torch"), ("python_ratio", "python")):
                row[field] = middle[peer] / middle["lamppp"] if peer in middle else None
            row["of_limit"] = fraction(row, bandwidth, peak, options.overhead)
            result["rows"].append(row)
        result.setdefault("limits", {})[threads] = {"bandwidth": bandwidth, "peak": peak}
        table(result, threads)
        for worker in workers.values():
            worker.process.stdin.close()
            worker.process.wait()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "compare.json").write_text(json.dumps(result, indent=1))
        if any(row["ratio"] for row in result["rows"]):
            picture(result, options.out / "compare.svg")
        print(f"\n{options.out / 'compare.json'}")


if __name__ == "__main__":
    main()
