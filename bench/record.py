"""The results as a file: what the machine is, then each row of each table on a line of its own, so that
`git diff` shows what has become faster."""

import json


def _short(value):
    """Four digits are more than a measurement here can tell."""
    if isinstance(value, list):
        return [_short(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Record:
    def __init__(self, machine):
        self.machine = machine
        self.tables = {}

    def add(self, table, **row):
        self.tables.setdefault(table, []).append(row)

    def add_runs(self, table, key, title, runs):
        """A row whose figures are lists: one value for each run."""
        self.add(table, key=key, title=title, **{name: [run[name] for run in runs] for name in runs[0]})

    def write(self, path):
        lines = [self.machine] + [{"table": table} | {name: _short(value) for name, value in row.items()}
                                  for table, rows in self.tables.items() for row in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    @staticmethod
    def read(path):
        first, *rest = map(json.loads, path.read_text().splitlines())
        record = Record(first)
        for row in rest:
            record.add(row.pop("table"), **row)
        return record
