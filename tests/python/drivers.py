"""Sessions with asyncpg, psycopg2, psycopg and SQLAlchemy: what each does that the others don't.

drivers.py PORT DRIVER; prints `ok` at the end. Run by tests/tests/drivers.rs.
"""

import asyncio
import datetime
import decimal
import io
import sys
import uuid

PORT = int(sys.argv[1])
HOST = "127.0.0.1"
DSN = f"host={HOST} port={PORT} user=tidemill dbname=tidemill"

COLUMNS = """id bigint PRIMARY KEY, n numeric(12,3), s text, at timestamptz, t timestamp, d date, tm time,
    i interval, u uuid, j jsonb, b bytea, a integer[], f double precision, ok boolean, names text[], small smallint,
    r real, code varchar(10)"""
ROW = (
    1,
    decimal.Decimal("1.250"),
    "it's",
    datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc),
    datetime.datetime(2024, 2, 29, 12, 0, 0, 500000),
    datetime.date(1999, 12, 31),
    datetime.time(1, 2, 3),
    datetime.timedelta(days=1, seconds=3),
    uuid.UUID(int=5),
    '{"a": 1}',
    b"\x00\xff",
    [1, None, 3],
    1.5,
    True,
    ["a", None],
    3,
    1.25,
    "code",
)


async def with_asyncpg():
    import asyncpg

    where = dict(host=HOST, port=PORT, user="tidemill", database="tidemill")
    conn = await asyncpg.connect(**where, server_settings={"application_name": "one"})
    await conn.execute(f"CREATE TABLE t ({COLUMNS})")
    marks = ", ".join(f"${n + 1}" for n in range(len(ROW)))
    insert = f"INSERT INTO t VALUES ({marks})"
    await conn.execute(insert, *ROW)
    assert tuple(await conn.fetchrow("SELECT * FROM t WHERE id = $1", 1)) == ROW
    await conn.execute(insert, 2, *[None] * (len(ROW) - 1))
    assert tuple(await conn.fetchrow("SELECT * FROM t WHERE id = 2"))[1:] == (None,) * (len(ROW) - 1)
    await conn.executemany(insert, [(n, *ROW[1:]) for n in range(10, 60)])
    assert await conn.fetchval("SELECT count(*) FROM t WHERE id = ANY($1::bigint[])", [1, 2, 10, 99]) == 3

    # COPY, in the binary format both ways.
    await conn.copy_records_to_table("t", records=[(n, *ROW[1:]) for n in range(100, 5100)])
    await conn.copy_records_to_table("t", columns=["id", "s"], records=[(9000, "x"), (9001, None)])
    data = io.BytesIO()
    assert await conn.copy_from_table("t", output=data, format="binary") == "COPY 5054"
    data.seek(0)
    await conn.execute(f"CREATE TABLE again ({COLUMNS})")
    assert await conn.copy_to_table("again", source=data, format="binary") == "COPY 5054"
    both = "SELECT count(*) FROM (SELECT * FROM t INTERSECT SELECT * FROM again) AS same"
    assert await conn.fetchval(both) == 5054
    try:
        await conn.copy_records_to_table("t", columns=["id", "s"], records=[(9002, "x"), (1, "twice")])
        raise AssertionError("a key twice")
    except asyncpg.UniqueViolationError:
        pass
    assert await conn.fetchval("SELECT count(*) FROM t WHERE id = 9002") == 0

    # MOVE and CLOSE mean the driver's portals as well.
    async with conn.transaction():
        cursor = await conn.cursor("SELECT g FROM generate_series(1, 10) g")
        assert [r["g"] for r in await cursor.fetch(2)] == [1, 2]
        await cursor.forward(3)
        assert [r["g"] for r in await cursor.fetch(2)] == [6, 7]
        await cursor.forward(100)
        assert await cursor.fetch(2) == []
        cursor = await conn.cursor("SELECT g FROM generate_series(1, 10) g")
        await cursor.forward(9)
        assert [r["g"] for r in await cursor.fetch(2)] == [10]
    # A cursor, transactions inside transactions, a timeout, and the same session afterwards.
    async with conn.transaction():
        ids = [row["id"] async for row in conn.cursor("SELECT id FROM t WHERE id < 60 ORDER BY id", prefetch=7)]
        assert ids == [1, 2, *range(10, 60)], ids
        await conn.execute("DELETE FROM t WHERE id = 1")
        try:
            async with conn.transaction():
                await conn.execute("DELETE FROM t WHERE id = 2")
                await conn.execute("INSERT INTO t (id) VALUES (10)")
        except asyncpg.UniqueViolationError:
            pass
        assert await conn.fetchval("SELECT count(*) FROM t WHERE id < 3") == 1
    assert await conn.fetchval("SELECT min(id) FROM t") == 2
    endless = "SELECT count(*) FROM generate_series(1, 5000000) AS a, generate_series(1, 5000) AS b"
    try:
        await conn.fetch(endless, timeout=0.2)
        raise AssertionError("no timeout")
    except asyncio.TimeoutError:
        pass
    async with conn.transaction(isolation="serializable", readonly=True):
        assert await conn.fetchval("SHOW transaction_read_only") == "on"

    # What it asks about a type that it meets first within a transaction mustn't end that.
    other = await asyncpg.connect(**where)
    async with other.transaction():
        assert await other.fetchval("SELECT a FROM t WHERE id = 2 OR a = $1 ORDER BY id DESC LIMIT 1", ROW[11]) == ROW[11]
        assert await other.fetchval("SELECT indkey FROM pg_index WHERE indrelid = 't'::regclass") == [1]

    # Others see what it is doing, and can end it.
    seen = await other.fetch("SELECT pid, application_name, state FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert [tuple(row)[1:] for row in seen] == [("one", "idle")], seen
    assert seen[0]["pid"] == conn.get_server_pid()
    running = asyncio.ensure_future(conn.fetch(endless))
    active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid = $1"
    while await other.fetchval(active, conn.get_server_pid()) == 0:
        await asyncio.sleep(0.01)
    assert await other.fetchval("SELECT pg_cancel_backend($1)", conn.get_server_pid()) is True
    try:
        await running
        raise AssertionError("not cancelled")
    except asyncpg.QueryCanceledError:
        pass
    assert await conn.fetchval("SELECT 1") == 1
    assert await other.fetchval("SELECT pg_terminate_backend($1)", conn.get_server_pid()) is True
    try:
        while True:
            await conn.fetchval("SELECT 1")
            await asyncio.sleep(0.01)
    # asyncpg says it in several ways; one is that the server's last word came while it asked nothing.
    except (asyncpg.AdminShutdownError, asyncpg.InterfaceError, asyncpg.InternalClientError,
            asyncpg.ConnectionDoesNotExistError, OSError):
        pass
    # A session hears of its end before it is gone from the list, as in PostgreSQL.
    while await other.fetchval("SELECT count(*) FROM pg_stat_activity") != 1:
        await asyncio.sleep(0.01)
    await other.close()


def with_psycopg2():
    import psycopg2
    import psycopg2.extras

    conn = psycopg2.connect(DSN)
    cur = conn.cursor()
    cur.execute("CREATE TABLE t (id integer PRIMARY KEY, n numeric(10,2), s text, j jsonb, b bytea)")
    conn.commit()
    psycopg2.extras.execute_values(cur, "INSERT INTO t (id, n, s) VALUES %s", [(i, 1.5, "x") for i in range(500)])
    values = (1000, decimal.Decimal("1.50"), "it's %", psycopg2.extras.Json({"a": 1}), psycopg2.Binary(b"\0\1\\"))
    cur.execute("INSERT INTO t VALUES (%s, %s, %s, %s, %s)", values)
    conn.commit()
    cur.execute("SELECT * FROM t WHERE id = 1000")
    row = cur.fetchone()
    assert row[:4] == (1000, decimal.Decimal("1.50"), "it's %", {"a": 1}) and bytes(row[4]) == b"\0\1\\", row
    named = conn.cursor("named")
    named.itersize = 50
    named.execute("SELECT id FROM t ORDER BY id")
    assert sum(1 for _ in named) == 501
    named.close()
    conn.commit()
    cur.copy_from(io.StringIO("3000\tx\n3001\t\\N\n"), "t", columns=("id", "s"))
    out = io.StringIO()
    cur.copy_expert("COPY (SELECT id, s FROM t WHERE id >= 3000 ORDER BY id) TO STDOUT WITH CSV HEADER", out)
    assert out.getvalue() == "id,s\n3000,x\n3001,\n", out.getvalue()
    cur.execute("SAVEPOINT a")
    try:
        cur.execute("INSERT INTO t (id) VALUES (1000)")
        raise AssertionError("a key twice")
    except psycopg2.errors.UniqueViolation:
        cur.execute("ROLLBACK TO SAVEPOINT a")
    conn.commit()
    conn.set_session(isolation_level="SERIALIZABLE", readonly=True)
    try:
        cur.execute("DELETE FROM t")
        raise AssertionError("read only")
    except psycopg2.errors.ReadOnlySqlTransaction:
        conn.rollback()
    conn.close()


def with_psycopg():
    import psycopg
    import psycopg.types.numeric

    conn = psycopg.connect(DSN)
    conn.execute("CREATE TABLE t (id integer PRIMARY KEY, s text, n numeric)")
    conn.commit()
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO t VALUES (%s, %s, %s)", [(i, f"s{i}", i) for i in range(100)])
    conn.commit()
    # FETCH, which the driver comes to prepare by itself, has the columns of the cursor that there is.
    for query, rows in [("SELECT 1 AS a", [(1,)])] * 8 + [("SELECT 'x' AS b, 2 AS c", [("x", 2)])] * 2:
        with conn.transaction():
            conn.execute("DECLARE page CURSOR FOR " + query)
            assert conn.execute("FETCH 10 FROM page").fetchall() == rows
    # A cursor on the server: the driver asks for the columns of its portal, moves, and fetches in the binary format.
    with conn.cursor(name="on server", binary=True) as cur:
        cur.execute("SELECT id, s FROM t WHERE id >= %s ORDER BY id", (10,))
        assert [column.name for column in cur.description] == ["id", "s"]
        assert cur.fetchone() == (10, "s10")
        cur.scroll(5)
        assert cur.fetchmany(2) == [(16, "s16"), (17, "s17")]
        assert len(cur.fetchall()) == 82
    conn.commit()
    # An oid has four bytes, in binary too.
    oid = psycopg.types.numeric.Oid(conn.execute("SELECT 't'::regclass::oid").fetchone()[0])
    assert conn.execute("SELECT relname FROM pg_class WHERE oid = %b", (oid,)).fetchone() == ("t",)
    assert conn.execute("SELECT %b::oid", (oid,)).fetchone() == (oid,)
    conn.commit()
    # A pipeline is answered in order; an error skips the rest up to the next synchronisation.
    with conn.pipeline() as pipeline:
        one = conn.execute("SELECT %s::integer + 1", (1,))
        two = conn.execute("INSERT INTO t VALUES (500, 'p', 1.5)")
        pipeline.sync()
        assert one.fetchone() == (2,) and two.rowcount == 1
    conn.commit()
    try:
        with conn.pipeline():
            conn.execute("SELECT 1")
            conn.execute("SELECT 1 / 0")
            conn.execute("INSERT INTO t VALUES (501, 'never', 0)")
        raise AssertionError("no error")
    except psycopg.errors.DivisionByZero:
        conn.rollback()
    assert conn.execute("SELECT count(*) FROM t WHERE id >= 500").fetchone() == (1,)
    with conn.transaction():
        conn.execute("UPDATE t SET s = 'kept' WHERE id = 0")
        try:
            with conn.transaction():
                conn.execute("UPDATE t SET s = 'gone' WHERE id = 0")
                raise ValueError
        except ValueError:
            pass
    assert conn.execute("SELECT s FROM t WHERE id = 0").fetchone() == ("kept",)
    conn.commit()
    with conn.cursor().copy("COPY t (id, s, n) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "text", "numeric"])
        for i in range(1000, 1100):
            copy.write_row((i, None if i % 2 else "b", decimal.Decimal(i) / 8))
    conn.commit()
    assert conn.execute("SELECT count(s), sum(n) FROM t WHERE id >= 1000").fetchone() == (50, decimal.Decimal("13118.75"))
    # Times as parameters.
    with conn.cursor() as cur:
        now = cur.execute("SELECT upper - 1 FROM tidemill.commits").fetchone()[0]
        rows = cur.execute("SELECT count(*) FROM t WHERE id < %s AS OF %s", (10, now)).fetchall()
        assert rows == [(10,)], rows
    conn.commit()
    conn.autocommit = True
    rows = conn.execute("SUBSCRIBE t WITH (SNAPSHOT = false) AS OF %s UP TO %s", (now, now + 1)).fetchall()
    assert rows == [], rows

    # Limits of time: of a statement, of a transaction that waits, of a client that waits.
    def fails(sqlstate, *statements, waits=False):
        told = []
        limited = psycopg.connect(DSN, autocommit=True)
        # What the server says while it is asked nothing comes as a notice.
        limited.add_notice_handler(lambda notice: told.append(notice.sqlstate))
        try:
            for statement in statements:
                limited.execute(statement)
            if waits:
                limited.wait(psycopg.generators.notifies(limited.pgconn), 10)
                limited.execute("SELECT 1")
            raise AssertionError(f"{statements} end without {sqlstate}")
        except psycopg.Error as error:
            assert sqlstate in (error.sqlstate, *told), (error, told)
        limited.close()

    endless = "SELECT count(*) FROM generate_series(1, 5000000) AS a, generate_series(1, 5000) AS b"
    fails("57014", "SET statement_timeout = '200ms'", endless)
    with psycopg.connect(DSN, autocommit=True) as patient:
        patient.execute("SET statement_timeout = 200")
        # A subscription is not a statement that takes too long: the third progress row comes after more than a second.
        rows = patient.cursor().stream("SUBSCRIBE t WITH (PROGRESS)")
        progress = (row[0] for row in rows if row[1])
        assert next(progress) <= next(progress) < next(progress)
        rows.close()
    fails("25P03", "SET idle_in_transaction_session_timeout = 100", "BEGIN", waits=True)
    fails("57P05", "SET idle_session_timeout = 100", waits=True)
    conn.close()


def with_sqlalchemy():
    import sqlalchemy
    from sqlalchemy.orm import Session, declarative_base

    engine = sqlalchemy.create_engine(f"postgresql+psycopg://tidemill@{HOST}:{PORT}/tidemill")
    Base = declarative_base()

    class Item(Base):
        __tablename__ = "items"
        id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True, autoincrement=False)
        name = sqlalchemy.Column(sqlalchemy.String, nullable=False)
        price = sqlalchemy.Column(sqlalchemy.Numeric(10, 2))
        at = sqlalchemy.Column(sqlalchemy.DateTime(timezone=True))

    Base.metadata.create_all(engine)
    with engine.begin() as conn:
        conn.exec_driver_sql("COMMENT ON TABLE items IS 'what there is'")
    with engine.begin() as conn:
        conn.exec_driver_sql("CREATE MATERIALIZED VIEW names AS SELECT name, count(*) AS n FROM items GROUP BY name")
    inspector = sqlalchemy.inspect(engine)
    assert inspector.get_table_names() == ["items"]
    assert inspector.get_materialized_view_names() == ["names"]
    columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns("items")}
    assert columns == {
        "id": ("INTEGER", False),
        "name": ("VARCHAR", False),
        "price": ("NUMERIC(10, 2)", True),
        "at": ("TIMESTAMP", True),
    }, columns
    assert inspector.get_pk_constraint("items")["constrained_columns"] == ["id"]
    assert inspector.get_table_comment("items") == {"text": "what there is"}
    assert "count(*)" in inspector.get_view_definition("names")
    assert not inspector.get_indexes("items") and not inspector.get_foreign_keys("items")
    with engine.begin() as conn:
        conn.execute(sqlalchemy.text("CREATE TABLE numbered (id integer GENERATED ALWAYS AS IDENTITY (START 5), n integer)"))
    numbered = sqlalchemy.Table("numbered", sqlalchemy.MetaData(), autoload_with=engine)
    assert numbered.c.id.identity.always and numbered.c.id.identity.start == 5
    numbered.drop(engine)
    with Session(engine) as session:
        price = decimal.Decimal("9.50")
        session.add_all([Item(id=i, name=f"n{i % 3}", price=price) for i in range(10)])
        session.commit()
        session.get(Item, 3).name = "changed"
        session.delete(session.get(Item, 4))
        session.commit()
        with session.begin_nested():
            session.add(Item(id=100, name="nested"))
        session.commit()
        query = sqlalchemy.select(sqlalchemy.func.count(), sqlalchemy.func.sum(Item.price)).where(Item.id.in_([1, 2, 3]))
        assert session.execute(query).one() == (3, decimal.Decimal("28.50"))
        names = sqlalchemy.Table("names", sqlalchemy.MetaData(), autoload_with=engine)
        counts = dict(session.execute(sqlalchemy.select(names)).all())
        assert counts == {"n0": 3, "n1": 2, "n2": 3, "changed": 1, "nested": 1}, counts
    engine.dispose()


{
    "asyncpg": lambda: asyncio.run(with_asyncpg()),
    "psycopg2": with_psycopg2,
    "psycopg": with_psycopg,
    "sqlalchemy": with_sqlalchemy,
}[sys.argv[2]]()
print("ok")
