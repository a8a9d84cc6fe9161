"""A Nexmark query on Pathway: nexmark_pathway.py QUERY DATA_DIR OUT.jsonl|- ; PATHWAY_THREADS are its workers

Static mode: the whole input is one transaction, which costs Pathway least. Everything is native, without a call of Python
per row, and the result goes to the null sink. The last line is its number of rows.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pathway as pw

query, data, out = sys.argv[1:4]
WINDOW_MS = 10_000
DAY_MS = 86_400_000
renamed = tempfile.TemporaryDirectory()


def read(source, **types):
    """A source with the columns that its query uses."""
    dir = Path(data) / source
    if f"{source}_id" in types:
        # A table of Pathway can't have a column `id`, so it reads copies with another header.
        dir = Path(renamed.name) / source
        dir.mkdir()
        for path in (Path(data) / source).glob("*.csv"):
            with open(path, "rb") as old, open(dir / path.name, "wb") as new:
                new.write(f"{source}_".encode() + old.readline())
                shutil.copyfileobj(old, new)
    return pw.io.csv.read(f"{dir}/", schema=pw.schema_from_types(**types), mode="static")


def q0():
    return read("bid", auction=int, bidder=int, price=int, date_time=int)


def q1():
    # There is no decimal type; thousandths are exact.
    bid = q0()
    return bid.select(bid.auction, bid.bidder, price=908 * bid.price, date_time=bid.date_time)


def q2():
    bid = read("bid", auction=int, price=int)
    return bid.filter(bid.auction % 123 == 0)


def q3():
    person = read("person", person_id=int, name=str, city=str, state=str)
    auction = read("auction", auction_id=int, seller=int, category=int)
    local = person.filter((person.state == "or") | (person.state == "id") | (person.state == "ca"))
    sold = auction.filter(auction.category == 10)
    return sold.join(local, sold.seller == local.person_id).select(local.name, local.city, local.state, sold.auction_id)


def q4():
    auction = read("auction", auction_id=int, date_time=int, expires=int, category=int)
    bid = read("bid", auction=int, price=int, date_time=int)
    joined = auction.join(bid, auction.auction_id == bid.auction).select(
        auction.auction_id, auction.category, bid.price, start=auction.date_time, end=auction.expires, time=bid.date_time
    )
    valid = joined.filter((joined.time >= joined.start) & (joined.time <= joined.end))
    winning = valid.groupby(valid.auction_id, valid.category).reduce(valid.category, final=pw.reducers.max(valid.price))
    # Sum and count instead of the average, which is a float.
    return winning.groupby(winning.category).reduce(
        winning.category, total=pw.reducers.sum(winning.final), count=pw.reducers.count()
    )


def q7():
    bid = q0()
    bid = bid.select(*bid, w=bid.date_time // WINDOW_MS)
    highest = bid.groupby(bid.w).reduce(bid.w, top=pw.reducers.max(bid.price))
    return bid.join(highest, bid.w == highest.w, bid.price == highest.top).select(
        bid.auction, bid.price, bid.bidder, bid.date_time
    )


def q8():
    person = read("person", person_id=int, name=str, date_time=int)
    auction = read("auction", seller=int, date_time=int)
    person = person.select(person.person_id, person.name, w=person.date_time // WINDOW_MS)
    auction = auction.select(auction.seller, w=auction.date_time // WINDOW_MS)
    persons = person.groupby(person.person_id, person.name, person.w).reduce(person.person_id, person.name, person.w)
    sellers = auction.groupby(auction.seller, auction.w).reduce(auction.seller, auction.w)
    return persons.join(sellers, persons.person_id == sellers.seller, persons.w == sellers.w).select(
        persons.person_id, persons.name, persons.w
    )


def q17():
    bid = read("bid", auction=int, price=int, date_time=int)
    bid = bid.select(bid.auction, bid.price, day=bid.date_time // DAY_MS)
    return bid.groupby(bid.auction, bid.day).reduce(
        bid.auction,
        bid.day,
        bids=pw.reducers.count(),
        lo=pw.reducers.min(bid.price),
        hi=pw.reducers.max(bid.price),
        total=pw.reducers.sum(bid.price),
    )


QUERIES = {"q0": q0, "q1": q1, "q2": q2, "q3": q3, "q4": q4, "q7": q7, "q8": q8, "q17": q17}
result = QUERIES[query]()
if out == "-":
    pw.io.null.write(result)
else:
    pw.io.jsonlines.write(result, out)

rows = 0


def on_change(key, row, time, is_addition):
    global rows
    if is_addition:
        rows = row["n"]


# A count inside the engine, of which Python sees one row.
pw.io.subscribe(result.reduce(n=pw.reducers.count()), on_change=on_change)
pw.run(monitoring_level=pw.MonitoringLevel.NONE)
print(rows)
