"""A Nexmark query on Flink SQL: nexmark_flink.py QUERY DATA_DIR OUT|count|- batch|stream PARALLELISM

The result goes to the blackhole connector. With `count`, a second, small sink of the same job counts it, over all its columns, and the last line
is the number of its rows; that costs some CPU seconds, mostly for more code to generate and compile, so without it the query is
measured. With a path, which is for checks, the changes go there too.
"""

import os
import re
import sys
import tempfile

from pyflink.table import EnvironmentSettings, TableDescriptor, TableEnvironment

query, data, out, mode, parallelism = sys.argv[1:6]
data = os.path.abspath(data)
SOURCES = {
    "person": "id BIGINT, name STRING, email_address STRING, credit_card STRING, city STRING, state STRING, "
    "date_time BIGINT, extra STRING",
    "auction": "id BIGINT, item_name STRING, description STRING, initial_bid BIGINT, reserve BIGINT, date_time BIGINT, "
    "expires BIGINT, seller BIGINT, category BIGINT, extra STRING",
    "bid": "auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, date_time BIGINT, extra STRING",
}
QUERIES = {
    "q0": "SELECT auction, bidder, price, date_time FROM bid",
    "q1": "SELECT auction, bidder, 0.908 * price AS price, date_time FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": """
        SELECT p.name, p.city, p.state, a.id FROM auction AS a JOIN person AS p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('or', 'id', 'ca')""",
    # The average of a BIGINT would be one too.
    "q4": """
        SELECT category, avg(CAST(`final` AS DECIMAL(20, 0))) AS price FROM (
            SELECT a.id, a.category, max(b.price) AS `final` FROM auction AS a JOIN bid AS b ON a.id = b.auction
            WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category) AS w
        GROUP BY category""",
    "q7": """
        SELECT b.auction, b.price, b.bidder, b.date_time FROM bid AS b
        JOIN (SELECT max(price) AS price, date_time / 10000 AS w FROM bid GROUP BY date_time / 10000) AS m
        ON b.price = m.price AND b.date_time / 10000 = m.w""",
    "q8": """
        SELECT p.id, p.name, p.w
        FROM (SELECT id, name, date_time / 10000 AS w FROM person GROUP BY id, name, date_time / 10000) AS p
        JOIN (SELECT seller, date_time / 10000 AS w FROM auction GROUP BY seller, date_time / 10000) AS a
        ON p.id = a.seller AND p.w = a.w""",
    "q17": """
        SELECT auction, date_time / 86400000 AS `day`, count(*) AS bids, min(price) AS lo, max(price) AS hi, sum(price) AS total
        FROM bid GROUP BY auction, date_time / 86400000""",
}

# The print connector writes to the output of the JVM, which is this process's at the time it starts.
stdout = os.dup(1)
printed = tempfile.TemporaryFile("w+") if out in ("count", "-") else open(out, "w+")
os.dup2(printed.fileno(), 1)

if mode == "batch":
    settings = EnvironmentSettings.in_batch_mode()
else:
    settings = EnvironmentSettings.in_streaming_mode()
t = TableEnvironment.create(settings)
config = t.get_config()
config.set("parallelism.default", parallelism)
# Rows aren't copied between the operators of a chain.
config.set("pipeline.object-reuse", "true")
# Hash joins and sorts of a batch stay in memory.
config.set("taskmanager.memory.managed.size", "1g")
if mode == "stream":
    # As in the settings that Flink's own Nexmark is run with.
    config.set("table.exec.mini-batch.enabled", "true")
    config.set("table.exec.mini-batch.allow-latency", "2 s")
    config.set("table.exec.mini-batch.size", "50000")
for source, columns in SOURCES.items():
    # The format knows no header: its numbers don't parse and become NULL.
    t.execute_sql(
        f"CREATE TEMPORARY TABLE {source}_files ({columns}) WITH ('connector' = 'filesystem', 'path' = 'file://{data}/{source}', "
        "'format' = 'csv', 'csv.ignore-parse-errors' = 'true')"
    )
    t.execute_sql(f"CREATE TEMPORARY VIEW {source} AS SELECT * FROM {source}_files WHERE date_time IS NOT NULL")

result = t.sql_query(QUERIES[query])
t.create_temporary_view("result", result)
sinks = t.create_statement_set()
connector = "blackhole" if out in ("count", "-") else "print"
sinks.add_insert(TableDescriptor.for_connector(connector).build(), result)
if out != "-":
    counter = TableDescriptor.for_connector("print").option("print-identifier", "rows").build()
    sinks.add_insert(counter, t.sql_query("SELECT count(*) FROM `result`"))
sinks.execute().wait()

if out != "-":
    printed.seek(0)
    counts = [line for line in printed if line.startswith("rows")]
    rows = re.search(r"\[(\d+)\]", counts[-1]).group(1) if counts else "0"
    os.write(stdout, f"{rows}\n".encode())
