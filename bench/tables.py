"""Results as tables in Markdown and as a plot."""

from statistics import median

from plot import bars


def line(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def table(head, rows):
    return line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(line, rows))


def middle(row, measure, show="{:.0f}"):
    return show.format(median(row[measure])) if measure in row else ""


def spread(values, show="{:.2f}"):
    return f"{show.format(min(values))} to {show.format(max(values))}"


def medians_of(rows):
    rounds = max(len(row["seconds"]) for row in rows)
    return f"medians of {rounds} rounds" if rounds > 1 else "one round"


class Ratios:
    """What a measure is, divided by that of the row with that key."""

    def __init__(self, rows, measure):
        self.measure = measure
        self.of = {row["key"]: median(row[measure]) for row in rows if row.get(measure)}

    def __call__(self, row, peer, inverse=False):
        one, other = self.of.get(row["key"]), self.of.get(peer)
        if not one or not other:
            return ""
        return f"{other / one if inverse else one / other:.2f}"


def cpu(row, segments):
    figure = f"{median(row['cpu_seconds']) * 1000 / segments:.1f}"
    return figure if all(row.get("cpu_complete", [True])) else figure + "*"


def incomplete(rows):
    if all(all(row.get("cpu_complete", [True])) for row in rows):
        return ""
    return "\n\\* without processes that have detached from the archiver.\n"


def backlog(rows):
    seconds, used = Ratios(rows, "seconds"), Ratios(rows, "cpu_seconds")
    cells = []
    for row in rows:
        segments, taken = row["segments"], median(row["seconds"])
        cells.append([
            row["title"], f"{taken:.2f}", spread(row["seconds"]),
            f"{segments * 16 * 1.048576 / taken:.0f}", f"{segments * 60 / taken:.0f}",
            *(seconds(row, peer, inverse=True) for peer in ["basic_archive", "cp", "disk-2"]),
            cpu(row, segments), used(row, "basic_archive"),
            *(middle(row, measure, show) for measure, show in [
                ("stored_mb", "{:.0f}"), ("memory_mb", "{:.1f}"), ("archive_cached_mb", "{:.0f}"),
                ("source_cached_mb", "{:.0f}"), ("flush_seconds", "{:.2f}")]),
        ])
    head = ["", "s", "range, s", "MB/s", "segments/min", "speed ÷ basic_archive", "speed ÷ cp",
            "speed ÷ the disk's", "CPU ms/segment", "CPU ÷ basic_archive", "stored MB", "memory MB",
            "archive in cache MB", "pg_wal in cache MB", "left unflushed, s"]
    one = rows[0]
    state = "dropped from the page cache" if one["cold"] else "in the page cache"
    return (f"{one['segments']} segments of 16 MB ({one['segments'] * 16 * 1.048576:.0f} MB), {state} before "
            f"each run; {medians_of(rows)}.\n\n" + table(head, cells) + incomplete(rows))


def in_front(milliseconds):
    return f"A network of {milliseconds} ms there and back in front" if milliseconds else "Nothing in front"


def objects(rows):
    text = (f"{rows[0]['segments']} segments of 16 MB ({rows[0]['segments'] * 16 * 1.048576:.0f} MB) into a new "
            f"bucket each time, over TLS; {medians_of(rows)}.\n")
    head = ["", "s", "range, s", "segments/min", "CPU ms/segment", "memory MB", "requests a segment"]
    for milliseconds in dict.fromkeys(row["network_ms"] for row in rows):
        there = [row for row in rows if row["network_ms"] == milliseconds]
        text += f"\n{in_front(milliseconds)}:\n\n" + table(head, [
            [row["title"], f"{median(row['seconds']):.2f}", spread(row["seconds"]),
             f"{row['segments'] * 60 / median(row['seconds']):.0f}", cpu(row, row["segments"]),
             middle(row, "memory_mb", "{:.0f}"), middle(row, "requests", "{:.1f}")] for row in there])
    return text + incomplete(rows)


def recovery_objects(rows):
    text = (f"A recovery over {rows[0]['segments']} segments of 16 MB, from the start of the server to the end of the "
            f"archive, out of one bucket over TLS; {medians_of(rows)}.\n")
    head = ["restored by", "s", "range, s", "segments/min", "speed ÷ one by one", "CPU ms/segment",
            "requests a segment"]
    for milliseconds in dict.fromkeys(row["network_ms"] for row in rows):
        there = [row for row in rows if row["network_ms"] == milliseconds]
        seconds = Ratios(there, "seconds")
        text += f"\n{in_front(milliseconds)}:\n\n" + table(head, [
            [row["title"], f"{median(row['seconds']):.2f}", spread(row["seconds"]),
             f"{row['segments'] * 60 / median(row['seconds']):.0f}",
             seconds(row, row["one_by_one"], inverse=True), cpu(row, row["segments"]),
             middle(row, "requests", "{:.1f}")] for row in there])
    return text + incomplete(rows)


def single(rows):
    ratio = Ratios(rows, "seconds")
    return table(["", "samples", "median, ms", "range, ms", "÷ basic_archive"], [
        [row["title"], len(row["seconds"]), f"{median(row['seconds']) * 1000:.1f}",
         spread([second * 1000 for second in row["seconds"]], "{:.1f}"), ratio(row, "basic_archive")]
        for row in rows])


def restore(rows):
    seconds, used = Ratios(rows, "seconds"), Ratios(rows, "cpu_seconds")
    replaying = seconds.of.get("in-place")
    cells = []
    for row in rows:
        segments, taken = row["segments"], median(row["seconds"])
        fetching = f"{(taken - replaying) * 1000 / segments:.1f}" if replaying else ""
        cells.append([row["title"], f"{taken:.2f}", spread(row["seconds"]), f"{taken * 1000 / segments:.1f}",
                      fetching, seconds(row, "cp"), cpu(row, segments), used(row, "cp")])
    one = rows[0]
    state = "dropped from the page cache" if one["cold"] else "in the page cache"
    head = ["restored by", "s", "range, s", "ms/segment", "of that, fetching", "÷ cp", "CPU ms/segment",
            "CPU ÷ cp"]
    return (f"A recovery over {one['segments']} segments of 16 MB, the archive {state}; "
            f"{medians_of(rows)}.\n\n" + table(head, cells) + incomplete(rows))


def many(rows):
    cells = []
    for row in rows:
        costs, memory = row["ms_per_file"], row["memory_kb"]
        cells.append([row["title"], *(f"{cost:.2f}" for cost in costs), f"{costs[-1] / costs[0]:.2f}",
                      f"{row['cpu_ms_per_file']:.2f}", f"{memory[0] / 1024:.1f}", f"{memory[-1] / 1024:.1f}"])
    tenths = [f"tenth {i}" for i in range(1, 11)]
    return f"{rows[0]['files']} files.\n\n" + table(
        ["ms a file", *tenths, "last ÷ first", "CPU ms a file", "memory early, MB", "late, MB"], cells)


def pgbench(rows):
    ratio = Ratios(rows, "tps")
    head = ["", "transactions/s", "range", "÷ nothing archived", "latency, ms", "of the backlog archived"]
    return table(head, [
        [row["title"], middle(row, "tps"), spread(row["tps"], "{:.0f}"), ratio(row, "nobody"),
         middle(row, "latency_ms", "{:.2f}"), middle(row, "archived")] for row in rows])


def codecs(rows):
    names = list(dict.fromkeys(row["compression"] for row in rows))
    cells = {}
    for row in rows:
        figures = f"{row['cpu_ms']:.1f} ms, {row['bytes']:,} bytes"
        cells.setdefault(row["kind"], {})[row["compression"]] = figures
    return table(["WAL of", *names], [[kind, *map(of.get, names)] for kind, of in cells.items()])


def verbatim(rows):
    return "```\n" + "".join(row["line"] + "\n" for row in rows) + "```\n"


SECTIONS = [
    ("backlog", "Draining a backlog", backlog),
    ("object", "Object storage", objects),
    ("single", "A single segment on an idle server", single),
    ("restore", "Recoveries", restore),
    ("recovery-objects", "Recoveries from object storage", recovery_objects),
    ("many", "A long backlog of 1 MB segments that hold little", many),
    ("pgbench", "pgbench while a backlog is drained", pgbench),
    ("codecs", "What the codecs cost a segment", codecs),
    ("copy", "Ways to copy", verbatim),
    ("records", "Checking records", verbatim),
    ("missing", "Not measured", lambda rows: "".join(f"- {row['title']}: {row['why']}\n" for row in rows)),
]


def write(record, out):
    """Writes the tables and the plot beside the results, and prints the tables."""
    machine = "### This machine\n\n" + table(["", ""], record.machine.items())
    text = "\n".join([machine] + [f"### {title}\n\n{make(record.tables[name])}"
                                  for name, title, make in SECTIONS if name in record.tables])
    out.with_suffix(".md").write_text(text)
    print(text)
    charts = []
    if rows := record.tables.get("backlog"):
        charts += [
            ("MB of WAL archived a second (more is better)",
             [(row["title"], row["segments"] * 16 * 1.048576 / median(row["seconds"])) for row in rows]),
            ("CPU milliseconds a segment of 16 MB (less is better)",
             [(row["title"], median(row["cpu_seconds"]) * 1000 / row["segments"]) for row in rows]),
        ]
    if rows := record.tables.get("restore"):
        charts.append(("Milliseconds of a recovery a segment, replaying included (less is better)",
                       [(row["title"], median(row["seconds"]) * 1000 / row["segments"]) for row in rows]))
    if charts:
        out.with_suffix(".svg").write_text(bars(charts))
