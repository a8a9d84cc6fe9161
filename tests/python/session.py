"""A small session with psycopg: typed queries, a change stream through COPY and through a cursor, resume, cancel.

session.py PORT; prints `ok` at the end. Run by tests/tests/clients.rs.
"""

import sys
import threading

import psycopg

PORT = int(sys.argv[1])
DSN = f"host=127.0.0.1 port={PORT} user=tidemill dbname=tidemill"


def connect():
    return psycopg.connect(DSN, autocommit=True)


def changes(conn, subscribe, enough):
    """Rows of a COPY of the subscription until `enough(rows)` says so; the stream is then cancelled."""
    rows = []
    try:
        with conn.cursor().copy(f"COPY ({subscribe}) TO STDOUT") as copy:
            for row in copy.rows():
                rows.append(row)
                if enough(rows):
                    conn.cancel()
                    break
            for _ in copy.rows():  # drain what was under way
                pass
    except psycopg.errors.QueryCanceled:
        pass
    return rows


conn = connect()
conn.execute("CREATE TABLE p (id integer PRIMARY KEY, name text, price numeric(8,2), at timestamp, tags text[])")
conn.execute("CREATE MATERIALIZED VIEW p_names AS SELECT name, count(*) AS n FROM p GROUP BY name")
with conn.cursor() as cur:
    cur.executemany(
        "INSERT INTO p VALUES (%s, %s, %s, %s, %s)",
        [(1, "a", "1.50", "2024-02-29 12:00:00", ["x", "y"]), (2, "b", None, None, None), (3, "a", "2.25", None, [])],
    )
    cur.execute("SELECT id, name, price, at, tags FROM p WHERE id >= %s ORDER BY id", (1,))
    rows = cur.fetchall()
assert [r[0] for r in rows] == [1, 2, 3], rows
assert str(rows[0][2]) == "1.50" and rows[1][2] is None, rows
assert rows[0][3].isoformat() == "2024-02-29T12:00:00", rows
assert rows[0][4] == ["x", "y"] and rows[2][4] == [], rows
with conn.cursor(binary=True) as cur:
    row = cur.execute("SELECT id, name, price FROM p WHERE id = %s", (1,)).fetchone()
    assert row[:2] == (1, "a") and str(row[2]) == "1.50", row

# COPY: the snapshot, then a change made meanwhile; the stream is cancelled.
writer = connect()
timer = threading.Timer(0.2, lambda: writer.execute("INSERT INTO p VALUES (4, 'c', 1, NULL, NULL)"))
timer.start()
rows = changes(connect(), "SUBSCRIBE TO p_names WITH (SNAPSHOT, PROGRESS)", lambda rows: any(r[3] == "c" for r in rows))
timer.join()
data = [(r[3], int(r[2])) for r in rows if r[1] == "f"]
assert sorted(data[:2]) == [("a", 1), ("b", 1)] and ("c", 1) in data, rows
progress = max((int(r[0]) for r in rows if r[1] == "t"), default=None)

# Resume after progress p, as documented: nothing lost, nothing twice.
assert progress is not None, rows
known = [(r[3], r[4], int(r[2])) for r in rows if r[1] == "f" and int(r[0]) < progress]
writer.execute("INSERT INTO p VALUES (5, 'a', 1, NULL, NULL)")
rest = changes(
    connect(),
    f"SUBSCRIBE TO p_names WITH (SNAPSHOT = false, PROGRESS) AS OF {progress - 1}",
    lambda rows: any(r[3] == "a" and r[4] == "3" for r in rows),
)
total = {}
for name, n, diff in known + [(r[3], r[4], int(r[2])) for r in rest if r[1] == "f"]:
    total[(name, n)] = total.get((name, n), 0) + diff
assert {k for k, v in total.items() if v} == {("a", "3"), ("b", "1"), ("c", "1")}, total

# A cursor in a transaction.
conn.autocommit = False
cur = conn.cursor()
cur.execute("DECLARE c CURSOR FOR SUBSCRIBE p_names")
first = cur.execute("FETCH 3 c").fetchall()
assert len(first) == 3 and {r[2] for r in first} == {"a", "b", "c"}, first
writer.execute("DELETE FROM p WHERE id = 2")
more = cur.execute("FETCH ALL c WITH (timeout = '5s')").fetchall()
assert [(r[1], r[2]) for r in more] == [(-1, "b")], more
cur.execute("CLOSE c")
conn.commit()

# A transaction that is rolled back, an error with its SQLSTATE, a cancelled query.
conn.execute("INSERT INTO p VALUES (9, 'z', 1, NULL, NULL)")
conn.rollback()
assert conn.execute("SELECT count(*) FROM p WHERE id = 9").fetchone() == (0,)
conn.commit()
try:
    conn.execute("SELECT nope FROM p")
    raise AssertionError("no error")
except psycopg.errors.UndefinedColumn:
    conn.rollback()
print("ok")
