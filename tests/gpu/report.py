"""What the shards of `./dev gpu` said: a table of test suites and the failures, in full, on standard
output; everything in NAME.json. Exits 1 where a test failed or a shard did not end by itself."""
import json
import re
import sys
from collections import defaultdict
from pathlib import Path


def interrupted(log):
    """The test that a shard had begun last, if it did not end."""
    begun = [line[13:] for line in log.splitlines() if line.startswith("[ RUN      ] ")]
    ended = re.findall(r"^\[ +(?:OK|FAILED|SKIPPED) +\] (\S+?),? \(\d+ ms\)", log, re.M)
    return begun[-1] if begun and begun[-1] not in ended else None


def main():
    folder, name = Path(sys.argv[1]), sys.argv[2]
    suites = defaultdict(lambda: {"tests": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
    result = {"name": name, "suites": suites, "failures": [], "broken": []}
    for log_path in sorted(folder.glob(f"{name}.*.log")):
        log = log_path.read_text(errors="replace")
        status = log_path.with_suffix(".failed")
        shard = log_path.with_suffix(".json")
        failures = 0
        if shard.exists():
            for suite in json.loads(shard.read_text())["testsuites"]:
                row = suites[suite["name"].split("/")[-1]]
                for test in suite["testsuite"]:
                    row["tests"] += 1
                    row["seconds"] += float(test["time"].rstrip("s"))
                    row["skipped"] += test["result"] == "SKIPPED"
                    if "failures" in test:
                        failures += 1
                        row["failed"] += 1
                        result["failures"].append(
                            {"test": f"{suite['name']}.{test['name']}",
                             "what": [f["failure"] for f in test["failures"]]})
        if status.exists() and not failures:
            result["broken"].append({"log": str(log_path), "status": int(status.read_text()),
                                     "during": interrupted(log), "end": log[-3000:]})
        status.unlink(missing_ok=True)
        shard.unlink(missing_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1))

    for failure in result["failures"][:40]:
        print(f"FAILED {failure['test']}\n{failure['what'][0][:1500]}\n")
    for broken in result["broken"]:
        why = "its time was up" if broken["status"] in (124, 137) else f"status {broken['status']}"
        print(f"BROKEN {broken['log']}: {why}, during {broken['during']}\n{broken['end']}\n")
    print(f"{name:32}{'tests':>7}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for suite, row in sorted(suites.items()):
        print(f"{suite:32}{row['tests']:7}{row['failed']:8}{row['skipped']:9}{row['seconds']:9.1f}")
    total = {key: sum(row[key] for row in suites.values()) for key in ("tests", "failed", "skipped")}
    print(f"{'all':32}{total['tests']:7}{total['failed']:8}{total['skipped']:9}"
          f"   {folder / (name + '.json')}")
    sys.exit(bool(result["failures"] or result["broken"] or not total["tests"]))


if __name__ == "__main__":
    main()
