"""A Nexmark query as one DuckDB batch: nexmark_duckdb.py QUERY DATA_DIR OUT.csv|- THREADS

The result becomes a table in memory, like the view that it is compared with; the last line is its number of rows.
"""

import sys

import duckdb

query, data, out, threads = sys.argv[1:5]
COLUMNS = {
    "person": "id BIGINT, name VARCHAR, email_address VARCHAR, credit_card VARCHAR, city VARCHAR, state VARCHAR, "
    "date_time BIGINT, extra VARCHAR",
    "auction": "id BIGINT, item_name VARCHAR, description VARCHAR, initial_bid BIGINT, reserve BIGINT, date_time BIGINT, "
    "expires BIGINT, seller BIGINT, category BIGINT, extra VARCHAR",
    "bid": "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time BIGINT, extra VARCHAR",
}
QUERIES = {
    "q0": "SELECT auction, bidder, price, date_time FROM bid",
    "q1": "SELECT auction, bidder, 0.908 * price AS price, date_time FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": """
        SELECT p.name, p.city, p.state, a.id FROM auction AS a JOIN person AS p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca')""",
    # avg adds integers up exactly, in 128 bits, and divides once.
    "q4": """
        SELECT category, avg(final) AS price FROM (
            SELECT a.id, a.category, max(b.price) AS final FROM auction AS a JOIN bid AS b ON a.id = b.auction
            WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) AS w
        GROUP BY category""",
    "q5": """
        WITH c AS (SELECT auction, w, count(*) AS num FROM (
            SELECT auction, unnest(generate_series(date_time // 2000 - 4, date_time // 2000)) AS w FROM bid) AS e GROUP BY auction, w)
        SELECT c.auction, c.num, c.w FROM c JOIN (SELECT w, max(num) AS m FROM c GROUP BY w) AS x ON c.w = x.w AND c.num >= x.m""",
    "q7": """
        SELECT b.auction, b.price, b.bidder, b.date_time FROM bid AS b
        JOIN (SELECT max(price) AS price, date_time // 10000 AS w FROM bid GROUP BY date_time // 10000) AS m
        ON b.price = m.price AND b.date_time // 10000 = m.w""",
    "q8": """
        SELECT p.id, p.name, p.w
        FROM (SELECT id, name, date_time // 10000 AS w FROM person GROUP BY id, name, date_time // 10000) AS p
        JOIN (SELECT seller, date_time // 10000 AS w FROM auction GROUP BY seller, date_time // 10000) AS a
        ON p.id = a.seller AND p.w = a.w""",
    "q9": """
        SELECT id, seller, bidder, price, bid_time FROM (
            SELECT a.id, a.seller, b.bidder, b.price, b.date_time AS bid_time,
            row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS r
            FROM auction AS a JOIN bid AS b ON a.id = b.auction WHERE b.date_time BETWEEN a.date_time AND a.expires) AS x
        WHERE r = 1""",
    "q16": """
        SELECT channel, date_time // 86400000 AS day, max(date_time // 60000) AS minute,
        count(*) AS bids, count(*) FILTER (WHERE price < 10000) AS low,
        count(DISTINCT bidder) AS bidders, count(DISTINCT bidder) FILTER (WHERE price < 10000) AS low_bidders,
        count(DISTINCT auction) AS auctions, count(DISTINCT auction) FILTER (WHERE price < 10000) AS low_auctions
        FROM bid GROUP BY channel, date_time // 86400000""",
    "q18": """
        SELECT auction, bidder, price, channel, date_time FROM (
            SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS r FROM bid) AS x
        WHERE r <= 1""",
    "q19": """
        SELECT auction, bidder, price, channel, date_time, r FROM (
            SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS r FROM bid) AS x
        WHERE r <= 10""",
    "q17": """
        SELECT auction, date_time // 86400000 AS day, count(*) AS bids, min(price) AS lo, max(price) AS hi, sum(price) AS total
        FROM bid GROUP BY auction, date_time // 86400000""",
}
connection = duckdb.connect()
connection.execute(f"SET threads = {threads}")
connection.execute("SET preserve_insertion_order = false")
for source, columns in COLUMNS.items():
    types = ", ".join("'{}': '{}'".format(*column.split()) for column in columns.split(", "))
    # Types are given, so nothing is sniffed, and a view reads only the columns that its query names.
    connection.execute(
        f"CREATE VIEW {source} AS FROM read_csv('{data}/{source}/*.csv', header = true, auto_detect = false, "
        f"delim = ',', quote = '\"', columns = {{{types}}})"
    )
connection.execute(f"CREATE TABLE result AS {QUERIES[query]}")
if out != "-":
    connection.execute(f"COPY result TO '{out}' (FORMAT csv)")
print(connection.execute("SELECT count(*) FROM result").fetchone()[0])
