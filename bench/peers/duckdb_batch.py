"""The same queries as one DuckDB batch: duckdb_batch.py words|bank|orders DATA_DIR OUT.json THREADS"""

import sys

import duckdb

workload, data, out, threads = sys.argv[1:5]
QUERIES = {
    "words": f"""
        SELECT word, count(*) AS n
        FROM read_csv('{data}/words/*.csv', header = true, columns = {{'word': 'VARCHAR'}})
        GROUP BY word""",
    "bank": f"""
        WITH events AS (
            SELECT unnest(events, recursive := true)
            FROM read_json('{data}/bank/*.jsonl', format = 'newline_delimited')),
        credits AS (SELECT account_id, sum(amount) AS s FROM events WHERE event_type = 'credit' GROUP BY account_id),
        debits AS (SELECT account_id, sum(amount) AS s FROM events WHERE event_type = 'debit' GROUP BY account_id)
        SELECT coalesce(c.account_id, d.account_id) AS account, (coalesce(c.s, 0) + coalesce(d.s, 0))::BIGINT AS balance
        FROM credits AS c FULL JOIN debits AS d ON c.account_id = d.account_id""",
    "orders": f"""
        SELECT region, count(*) AS n, sum(amount)::BIGINT AS total
        FROM read_csv('{data}/orders/*.csv', header = true) AS o
        JOIN read_csv('{data}/customers/*.csv', header = true) AS c USING (customer_id)
        GROUP BY region""",
}
connection = duckdb.connect()
connection.execute(f"SET threads = {threads}")
connection.execute(f"COPY ({QUERIES[workload]}) TO '{out}' (FORMAT json)")
