"""A Nexmark query on Bytewax: nexmark_bytewax.py QUERY DATA_DIR OUT|- [WORKERS]

In Python a call per row is the cost, so each step takes a list of rows where the library lets it: the source splits
lines into the columns that the query uses, steps without state are `flat_map_batch`, steps with state get all of a key's rows of a batch
at once, and the end counts lists. Steps with state answer once their input ends, like the library's own
`count_final`, so nothing is taken back. The last line is the number of rows.
"""

import json
import sys
from itertools import islice
from operator import itemgetter
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main, run_main

BATCH_ROWS = 1000
WINDOW_MS = 10_000
DAY_MS = 86_400_000
COLUMNS = {
    "person": "id name email_address credit_card city state date_time extra".split(),
    "auction": "id item_name description initial_bid reserve date_time expires seller category extra".split(),
    "bid": "auction bidder price channel url date_time extra".split(),
}

query, data, out = sys.argv[1:4]
workers = int(sys.argv[4]) if len(sys.argv) > 4 else 1
flow = Dataflow("nexmark")


class Part(StatefulSourcePartition):
    """One file, as tuples of the wanted fields, which are texts."""

    def __init__(self, path, fields):
        self.file = open(path, encoding="utf-8")
        next(self.file)
        # Nothing is quoted; what follows the last wanted field isn't split.
        self.splits, self.wanted = max(fields) + 1, itemgetter(*fields)

    def next_batch(self):
        wanted, splits = self.wanted, self.splits
        rows = [wanted(line.split(",", splits)) for line in islice(self.file, BATCH_ROWS)]
        if not rows:
            raise StopIteration()
        return rows

    def snapshot(self):
        return None

    def close(self):
        self.file.close()


class Files(FixedPartitionedSource):
    """The files of a source."""

    def __init__(self, name, columns):
        self.dir = Path(data) / name
        self.fields = [COLUMNS[name].index(column) for column in columns.split()]

    def list_parts(self):
        return sorted(path.name for path in self.dir.glob("*.csv"))

    def build_part(self, step_id, for_part, resume_state):
        return Part(self.dir / for_part, self.fields)


def rows(source, columns):
    return op.input(source, flow, Files(source, columns))


def final(step, keyed, new, add, answer):
    """State of each key: `add(state, values)` for all values of a batch, `answer(state)` at the end."""

    class Final(StatefulBatchLogic):
        def __init__(self, state):
            self.state = state if state is not None else new()

        def on_batch(self, values):
            self.state = add(self.state, values)
            return (), False

        def on_eof(self):
            return answer(self.state), True

        def snapshot(self):
            return self.state

    return op.stateful_batch(step, keyed, Final)


def q0():
    bids = rows("bid", "auction bidder price date_time")
    typed = lambda rows: [(int(a), int(b), int(p), int(t)) for a, b, p, t in rows]
    return op.flat_map_batch("types", bids, typed)


def q1():
    # Thousandths are exact, and integers cheaper than Decimal.
    bids = rows("bid", "auction bidder price date_time")
    convert = lambda rows: [(int(a), int(b), 908 * int(p), int(t)) for a, b, p, t in rows]
    return op.flat_map_batch("convert", bids, convert)


def q2():
    bids = rows("bid", "auction price")
    some = lambda rows: [(a, int(p)) for a, p in ((int(a), p) for a, p in rows) if a % 123 == 0]
    return op.flat_map_batch("some", bids, some)


def q3():
    states = {"or", "id", "ca"}
    persons = op.flat_map_batch(
        "local",
        rows("person", "id name city state"),
        lambda rows: [(i, (n, c, s)) for i, n, c, s in rows if s in states],
    )
    auctions = op.flat_map_batch(
        "sold",
        rows("auction", "id seller category"),
        lambda rows: [(s, int(i)) for i, s, c in rows if c == "10"],
    )

    def add(state, values):
        for value in values:
            state[type(value) is int].append(value)
        return state

    pairs = lambda state: [(*person, auction) for person in state[0] for auction in state[1]]
    merged = op.merge("both", persons, auctions)
    return op.key_rm("values", final("join", merged, lambda: ([], []), add, pairs))


def q4():
    auctions = op.flat_map_batch(
        "auctions",
        rows("auction", "id date_time expires category"),
        lambda rows: [(i, (c, int(start), int(end))) for i, start, end, c in rows],
    )
    bids = op.flat_map_batch(
        "bids", rows("bid", "auction price date_time"), lambda rows: [(a, (int(p), int(t))) for a, p, t in rows]
    )

    # Bids wait for their auction; after it only the highest is kept.
    def add(state, values):
        auction, highest, waiting = state
        for value in values:
            if len(value) == 3:
                auction = value
                for price, _ in (bid for bid in waiting if auction[1] <= bid[1] <= auction[2]):
                    highest = max(highest, price)
                waiting = None
            elif auction is None:
                waiting.append(value)
            elif value[0] > highest and auction[1] <= value[1] <= auction[2]:
                highest = value[0]
        return auction, highest, waiting

    def answer(state):
        auction, highest, _ = state
        return [(auction[0], highest)] if auction is not None and highest >= 0 else []

    winning = final("winning", op.merge("both", auctions, bids), lambda: (None, -1, []), add, answer)
    by_category = op.key_rm("by_category", winning)

    # Sum and count instead of their quotient, which needn't be exact.
    def sum_up(state, values):
        return state[0] + sum(values), state[1] + len(values)

    averages = final("averages", by_category, lambda: (0, 0), sum_up, lambda state: [state])
    return op.map("flat", averages, lambda kv: (int(kv[0]), *kv[1]))


def q7():
    bids = op.flat_map_batch(
        "windows",
        rows("bid", "auction bidder price date_time"),
        lambda rows: [(str(int(t) // WINDOW_MS), (int(a), int(p), int(b), int(t))) for a, b, p, t in rows],
    )

    def add(state, values):
        highest, ties = state
        top = max(map(itemgetter(1), values))
        if top > highest:
            highest, ties = top, []
        if top == highest:
            ties.extend(value for value in values if value[1] == top)
        return highest, ties

    highest = final("highest", bids, lambda: (-1, []), add, itemgetter(1))
    return op.key_rm("values", highest)


def q8():
    persons = op.flat_map_batch(
        "persons",
        rows("person", "id name date_time"),
        lambda rows: [(f"{i} {int(t) // WINDOW_MS}", (int(i), n, int(t) // WINDOW_MS)) for i, n, t in rows],
    )
    auctions = op.flat_map_batch(
        "auctions",
        rows("auction", "date_time seller"),
        lambda rows: [(f"{s} {int(t) // WINDOW_MS}", None) for t, s in rows],
    )

    def add(state, values):
        state.update(values)
        return state

    def answer(state):
        return [value for value in state if value is not None] if None in state else []

    return op.key_rm("values", final("join", op.merge("both", persons, auctions), set, add, answer))


def q17():
    bids = op.flat_map_batch(
        "days",
        rows("bid", "auction price date_time"),
        lambda rows: [(f"{a} {int(t) // DAY_MS}", int(p)) for a, p, t in rows],
    )

    def add(state, values):
        low, high = min(values), max(values)
        if state is None:
            return len(values), low, high, sum(values)
        return state[0] + len(values), min(state[1], low), max(state[2], high), state[3] + sum(values)

    totals = final("totals", bids, lambda: None, add, lambda state: [state])
    return op.map("flat", totals, lambda kv: (*map(int, kv[0].split()), *kv[1]))


counts = []


class CountPart(StatelessSinkPartition):
    def __init__(self):
        self.rows = 0
        self.file = open(f"{out}.{len(counts)}", "w", encoding="utf-8") if out != "-" else None
        counts.append(self)

    def write_batch(self, items):
        self.rows += len(items)
        if self.file:
            self.file.writelines(json.dumps(item) + "\n" for item in items)

    def close(self):
        if self.file:
            self.file.close()


class Count(DynamicSink):
    """Counts the rows of the result, and writes them only if a path is given, which is for checks."""

    def build(self, step_id, worker_index, worker_count):
        return CountPart()


QUERIES = {"q0": q0, "q1": q1, "q2": q2, "q3": q3, "q4": q4, "q7": q7, "q8": q8, "q17": q17}
op.output("out", QUERIES[query](), Count())
if workers == 1:
    run_main(flow)
else:
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
print(sum(part.rows for part in counts))
