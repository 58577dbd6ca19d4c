"""Writes the table of docs/numerics.md: the largest error of every function, by instruction set.

    table.py FOLDER [STRIDE]

FOLDER holds the programs ulp_baseline, ulp_avx2 and ulp_avx512; every STRIDE-th float is tried (7),
and of the functions that networks are made of every one.
"""
import subprocess
import sys
from pathlib import Path

LEVELS = ("baseline", "avx2", "avx512")
PAGE = Path(__file__).parents[2] / "docs" / "numerics.md"
BEGIN, END = "<!-- made by bench/numerics/table.py -->\n", "<!-- end -->\n"
HOT = [f"float {name}" for name in ("exp", "log", "tanh", "sigmoid", "erf", "sin", "cos")]


def errors(program, stride, *names):
    """Largest error and where, by function."""
    # Its exit status says whether every error is as small as promised; the table shows it.
    run = subprocess.run([program, str(stride), *names], stdout=subprocess.PIPE, text=True)
    rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines()[2:]]
    return {row[0]: (row[1], row[2]) for row in rows}


def main():
    folder, stride = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 7
    programs = [folder / f"ulp_{level}" for level in LEVELS]
    found = [errors(program, stride) | errors(program, 1, *HOT) for program in programs]
    lines = ["| function | " + " | ".join(LEVELS) + " | worst at |", "|---" * 5 + "|"]
    for name in found[0]:
        worst = max((table[name] for table in found), key=lambda error: float(error[0]))
        lines.append(f"| {name} | " + " | ".join(table[name][0] for table in found)
                     + f" | {worst[1]} |")
    inputs = "every float" if stride == 1 else f"every {stride}th float"
    hot = ", ".join(name.split()[1] for name in HOT)
    text = (f"{BEGIN}Inputs: {inputs}, for {hot} every one, and the special values;\nfor the functions of "
            f"two operands and of double as many random ones.\n\n" + "\n".join(lines) + f"\n{END}")
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + text + rest.split(END)[1])


if __name__ == "__main__":
    main()
