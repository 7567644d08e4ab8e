"""Results as tables in Markdown and as a plot."""

import json
from statistics import median

from plot import bars


def row(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def table(head, rows):
    return row(head) + "|" + "---|" * len(head) + "\n" + "".join(map(row, rows))


def medians(runs):
    """One result of several: the median of each measure."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def spread(runs, measure):
    values = [run[measure] for run in runs]
    return f"{min(values):.2f} to {max(values):.2f}"


def ratio(value, other):
    return f"{value / other:.2f}" if other else ""


def backlog(results, runs_of):
    wal = results["wal"]
    titles = results["titles"]
    middle = {key: medians(runs) for key, runs in runs_of.items()}
    speed = {key: wal["mb"] / one["seconds"] for key, one in middle.items()}
    cpu = {key: one["cpu_seconds"] / wal["segments"] for key, one in middle.items()}

    def against(values, peer, key):
        return ratio(values[key], values[peer]) if peer in values else ""

    rows = []
    for key, one in middle.items():
        rows.append([
            titles[key],
            f"{one['seconds']:.2f}",
            spread(runs_of[key], "seconds"),
            f"{speed[key]:.0f}",
            f"{wal['segments'] * 60 / one['seconds']:.0f}",
            against(speed, "basic_archive", key),
            against(speed, "cp", key),
            f"{cpu[key] * 1000:.1f}" + ("" if one["cpu_complete"] else "*"),
            against(cpu, "basic_archive", key),
            f"{one['stored_mb']:.0f}",
            f"{one['memory_mb']:.1f}",
            f"{one['archive_cached_mb']:.0f}",
            f"{one['source_cached_mb']:.0f} of {one['source_cached_before_mb']:.0f}",
            f"{one['flush_seconds']:.2f}",
        ])
    head = ["", "s", "range, s", "MB/s", "segments/min", "speed ÷ basic_archive", "speed ÷ cp",
            "CPU ms/segment", "CPU ÷ basic_archive", "stored MB", "memory MB", "archive in cache MB",
            "pg_wal in cache MB", "left unflushed, s"]
    rounds = max(len(runs) for runs in runs_of.values())
    state = "dropped from the page cache" if results["cold"] else "in the page cache"
    text = (f"{wal['segments']} segments of 16 MB ({wal['mb']:.0f} MB), {state} before each run; "
            f"medians of {rounds} rounds.\n\n" + table(head, rows))
    if not all(one["cpu_complete"] for one in middle.values()):
        text += "\n\\* without processes that have detached from the archiver.\n"
    return text


def single(results, waits_of):
    rows = [[results["titles"][key], len(waits), f"{median(waits) * 1000:.1f}",
             f"{min(waits) * 1000:.1f} to {max(waits) * 1000:.1f}"] for key, waits in waits_of.items()]
    return table(["", "samples", "median, ms", "range, ms"], rows)


def many(results, _):
    rows = []
    for key, one in results["many"].items():
        costs, memory = one["ms_per_file"], one["memory_kb"]
        rows.append([results["titles"][key], *(f"{cost:.2f}" for cost in costs), ratio(costs[-1], costs[0]),
                     f"{one['cpu_ms_per_file']:.2f}", f"{memory[0] / 1024:.1f}", f"{memory[-1] / 1024:.1f}"])
    tenths = [f"tenth {i}" for i in range(1, 11)]
    return table(["ms a file", *tenths, "last ÷ first", "CPU ms a file", "memory early, MB", "late, MB"], rows)


def pgbench(results, _):
    alone = median(run["tps"] for run in results["pgbench"]["nobody"])
    rows = []
    for key, runs in results["pgbench"].items():
        one = medians(runs)
        rows.append([results["titles"].get(key, "nothing archived"), f"{one['tps']:.0f}",
                     spread(runs, "tps"), ratio(one["tps"], alone), f"{one['latency_ms']:.2f}",
                     f"{one['archived']:.0f}"])
    return table(["", "transactions/s", "range", "÷ nothing archived", "latency, ms",
                  "of the backlog archived"], rows)


def verbatim(name):
    return lambda results, _: f"```\n{results[name]}```\n"


SECTIONS = [
    ("machine", "This machine", lambda results, _: table(["", ""], results["machine"])),
    ("backlog", "Draining a backlog", backlog),
    ("single", "A single segment on an idle server", single),
    ("many", "A long backlog of 1 MB segments that hold little", many),
    ("pgbench", "pgbench while a backlog is drained", pgbench),
    ("copy", "Ways to copy", verbatim("copy")),
    ("records", "Checking records", verbatim("records")),
]


def write(results, directory):
    """Writes results.json, results.md and performance.svg, and prints the tables."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1))
    text = "\n".join(f"### {title}\n\n{make(results, results[name])}" for name, title, make in SECTIONS if name in results)
    (directory / "results.md").write_text(text)
    print(text)
    if "backlog" in results:
        wal = results["wal"]
        middle = {key: medians(runs) for key, runs in results["backlog"].items()}
        title = results["titles"]
        (directory / "performance.svg").write_text(bars([
            ("MB of WAL archived a second (more is better)",
             [(title[key], wal["mb"] / one["seconds"]) for key, one in middle.items()]),
            ("CPU milliseconds a segment of 16 MB (less is better)",
             [(title[key], one["cpu_seconds"] * 1000 / wal["segments"]) for key, one in middle.items()]),
        ]))
