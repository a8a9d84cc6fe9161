//! The views of the tests: every kind of plan that the compiler knows, and those that it leaves to the
//! general operator. Results never depend on the order of rows.

/// (topic, name, query)
pub const QUERIES: &[(&str, &str, &str)] = &[
    // Row by row.
    ("rows", "columns", "SELECT id, product FROM orders"),
    ("rows", "all_columns", "SELECT * FROM customers"),
    (
        "rows",
        "filter",
        "SELECT id, quantity FROM orders WHERE quantity > 5 AND paid",
    ),
    (
        "rows",
        "filter_null",
        "SELECT id FROM orders WHERE price IS NULL OR product IS NULL",
    ),
    (
        "rows",
        "expressions",
        "SELECT id, quantity * 2 + 1 AS twice, price * quantity AS total, upper(product) AS p FROM orders",
    ),
    (
        "rows",
        "case",
        "SELECT id, CASE WHEN quantity > 7 THEN 'many' WHEN quantity > 3 THEN 'some' ELSE 'few' END AS n FROM orders",
    ),
    (
        "rows",
        "in_list",
        "SELECT id FROM orders WHERE product IN ('apple', 'pear') OR quantity NOT IN (1, 2, 3)",
    ),
    (
        "rows",
        "like",
        "SELECT id, product FROM orders WHERE product LIKE '%p%'",
    ),
    (
        "rows",
        "between_dates",
        "SELECT id, day FROM orders WHERE day BETWEEN DATE '2024-01-03' AND DATE '2024-01-20'",
    ),
    (
        "rows",
        "coalesce",
        "SELECT coalesce(product, 'none') AS p, coalesce(quantity, 0) AS q FROM orders",
    ),
    (
        "rows",
        "nested_selects",
        "SELECT a + 1 AS b FROM (SELECT quantity * 3 AS a FROM orders WHERE quantity < 8) s WHERE a > 6",
    ),
    (
        "rows",
        "no_columns_needed",
        "SELECT 1 AS one, 'x' AS x FROM payments",
    ),
    (
        "rows",
        "date_parts",
        "SELECT extract(year FROM day) AS y, extract(day FROM day) AS d FROM orders",
    ),
    (
        "rows",
        "common_expression",
        "SELECT quantity * 7 + 1 AS a, (quantity * 7 + 1) * 2 AS b FROM orders WHERE quantity * 7 + 1 > 10",
    ),
    // Constants.
    (
        "constants",
        "constant",
        "SELECT 1 AS a, 'b' AS b, NULL AS c",
    ),
    (
        "constants",
        "values",
        "SELECT * FROM (VALUES (1, 'a'), (2, NULL), (2, NULL)) AS v (n, s)",
    ),
    (
        "constants",
        "values_join",
        "SELECT o.id, v.s FROM orders o JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, s) ON o.quantity = v.n",
    ),
    ("constants", "nothing", "SELECT id FROM orders WHERE false"),
    // Aggregates.
    (
        "aggregates",
        "count_star",
        "SELECT count(*) AS n FROM orders",
    ),
    (
        "aggregates",
        "global_aggregates",
        "SELECT count(*) AS n, count(price) AS c, sum(quantity) AS s, min(day) AS lo, max(product) AS hi FROM orders",
    ),
    (
        "aggregates",
        "group",
        "SELECT product, count(*) AS n, sum(quantity) AS s FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "group_two",
        "SELECT product, paid, count(*) AS n, sum(price) AS s FROM orders GROUP BY product, paid",
    ),
    (
        "aggregates",
        "group_expression",
        "SELECT quantity % 3 AS m, count(*) AS n FROM orders GROUP BY quantity % 3",
    ),
    (
        "aggregates",
        "group_only",
        "SELECT product FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "sum_types",
        "SELECT customer, sum(kind) AS s FROM (SELECT customer, quantity AS kind FROM orders) q GROUP BY customer",
    ),
    (
        "aggregates",
        "sum_bigint",
        "SELECT product, sum(id) AS s, avg(id) AS a FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "avg",
        "SELECT product, avg(quantity) AS a FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "min_max",
        "SELECT customer, min(price) AS a, max(price) AS b, min(day) AS c, max(at) AS d, min(product) AS e FROM orders GROUP BY customer",
    ),
    (
        "aggregates",
        "min_max_global",
        "SELECT min(weight) AS a, max(weight) AS b FROM orders",
    ),
    (
        "aggregates",
        "bools",
        "SELECT product, bool_and(paid) AS a, bool_or(paid) AS b FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "having",
        "SELECT product, count(*) AS n FROM orders GROUP BY product HAVING count(*) > 2",
    ),
    (
        "aggregates",
        "having_other",
        "SELECT product FROM orders GROUP BY product HAVING sum(quantity) > 10 AND min(price) IS NOT NULL",
    ),
    (
        "aggregates",
        "aggregate_filter",
        "SELECT product, count(*) FILTER (WHERE paid) AS n, sum(quantity) FILTER (WHERE price > 10) AS s FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "aggregate_expression",
        "SELECT product, sum(quantity * price) AS s, max(quantity + 1) AS m FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "aggregate_of_aggregate",
        "SELECT n, count(*) AS products FROM (SELECT product, count(*) AS n FROM orders GROUP BY product) q GROUP BY n",
    ),
    (
        "aggregates",
        "count_distinct",
        "SELECT product, count(DISTINCT customer) AS n FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "count_distinct_global",
        "SELECT count(DISTINCT product) AS n FROM orders",
    ),
    (
        "aggregates",
        "distinct_beside_plain",
        "SELECT product, count(*) AS n, count(DISTINCT customer) AS c, sum(DISTINCT quantity) AS s, max(price) AS m FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "distinct_filter",
        "SELECT product, count(DISTINCT customer) FILTER (WHERE paid) AS c FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "distinct_global_beside",
        "SELECT count(*) AS n, count(DISTINCT product) AS p, sum(DISTINCT quantity) AS q FROM orders",
    ),
    (
        "aggregates",
        "avg_distinct",
        "SELECT customer, avg(DISTINCT quantity) AS a FROM orders GROUP BY customer",
    ),
    (
        "aggregates",
        "array_agg",
        "SELECT product, array_agg(quantity) AS q FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "array_agg_ordered",
        "SELECT product, array_agg(id ORDER BY quantity DESC) AS q FROM orders GROUP BY product",
    ),
    (
        "aggregates",
        "string_agg",
        "SELECT customer, string_agg(product, ',' ORDER BY product) AS p FROM orders GROUP BY customer",
    ),
    (
        "aggregates",
        "string_agg_beside",
        "SELECT customer, count(*) AS n, string_agg(product, ',') AS p FROM orders GROUP BY customer",
    ),
    (
        "aggregates",
        "array_agg_global",
        "SELECT array_agg(quantity) AS q FROM orders WHERE quantity < 4",
    ),
    (
        "aggregates",
        "array_agg_by_expression",
        "SELECT quantity % 2 AS m, array_agg(id) AS q FROM orders GROUP BY quantity % 2",
    ),
    (
        "aggregates",
        "grouping_sets",
        "SELECT product, paid, count(*) AS n FROM orders GROUP BY GROUPING SETS ((product), (paid), (product, paid))",
    ),
    (
        "aggregates",
        "rollup",
        "SELECT product, paid, sum(quantity) AS s FROM orders GROUP BY ROLLUP (product, paid)",
    ),
    (
        "aggregates",
        "cube",
        "SELECT product, paid, count(*) AS n FROM orders GROUP BY CUBE (product, paid)",
    ),
    (
        "aggregates",
        "constant_key",
        "SELECT 'all' AS a, product, count(*) AS n FROM orders GROUP BY 1, 2",
    ),
    (
        "aggregates",
        "constant_keys_only",
        "SELECT 'all' AS a, count(*) AS n FROM orders GROUP BY 1",
    ),
    (
        "aggregates",
        "float_groups",
        "SELECT weight, count(*) AS n FROM orders GROUP BY weight",
    ),
    // DISTINCT and set operations.
    (
        "sets",
        "distinct",
        "SELECT DISTINCT product, paid FROM orders",
    ),
    (
        "sets",
        "distinct_expression",
        "SELECT DISTINCT quantity % 4 AS m FROM orders",
    ),
    (
        "sets",
        "distinct_floats",
        "SELECT DISTINCT weight FROM orders",
    ),
    (
        "sets",
        "distinct_on",
        "SELECT DISTINCT ON (product) product, id, quantity FROM orders ORDER BY product, quantity DESC",
    ),
    (
        "sets",
        "union_all",
        "SELECT id, product FROM orders UNION ALL SELECT id, name FROM customers",
    ),
    (
        "sets",
        "union",
        "SELECT product AS x FROM orders UNION SELECT method FROM payments",
    ),
    (
        "sets",
        "union_types",
        "SELECT quantity AS x FROM orders UNION ALL SELECT amount FROM payments",
    ),
    (
        "sets",
        "except",
        "SELECT customer AS x FROM orders EXCEPT SELECT id FROM customers",
    ),
    (
        "sets",
        "intersect",
        "SELECT customer AS x FROM orders INTERSECT SELECT id FROM customers",
    ),
    // Joins.
    (
        "joins",
        "inner",
        "SELECT o.id, c.name FROM orders o JOIN customers c ON o.customer = c.id",
    ),
    (
        "joins",
        "inner_filter",
        "SELECT o.id, c.name FROM orders o JOIN customers c ON o.customer = c.id AND o.price > c.credit",
    ),
    (
        "joins",
        "inner_expression_key",
        "SELECT o.id, c.id AS c FROM orders o JOIN customers c ON o.customer + 1 = c.id",
    ),
    (
        "joins",
        "inner_types",
        "SELECT o.quantity, p.amount FROM orders o JOIN payments p ON o.id = p.order_id AND o.quantity = p.amount",
    ),
    (
        "joins",
        "inner_two_keys",
        "SELECT o.id, p.method FROM orders o JOIN payments p ON o.id = p.order_id AND o.product = p.method",
    ),
    (
        "joins",
        "left",
        "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON o.customer = c.id",
    ),
    (
        "joins",
        "left_filter",
        "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON o.customer = c.id AND c.region = 'north'",
    ),
    (
        "joins",
        "right",
        "SELECT o.id, c.name, c.id AS c FROM orders o RIGHT JOIN customers c ON o.customer = c.id",
    ),
    (
        "joins",
        "right_expression",
        "SELECT o.id, c.name FROM orders o RIGHT JOIN customers c ON o.customer * 2 = c.id * 2 AND o.paid",
    ),
    (
        "joins",
        "full",
        "SELECT o.id, c.id AS c FROM orders o FULL JOIN customers c ON o.customer = c.id",
    ),
    (
        "joins",
        "full_coalesce",
        "SELECT coalesce(a.x, b.x) AS x, a.n, b.n AS m FROM (SELECT customer AS x, count(*) AS n FROM orders GROUP BY customer) a FULL JOIN (SELECT id AS x, count(*) AS n FROM customers GROUP BY id) b ON a.x = b.x",
    ),
    (
        "joins",
        "cross",
        "SELECT c.id, p.method FROM customers c CROSS JOIN payments p",
    ),
    (
        "joins",
        "theta",
        "SELECT o.id, c.id AS c FROM orders o JOIN customers c ON o.quantity < c.id",
    ),
    (
        "joins",
        "theta_left",
        "SELECT o.id, p.amount FROM orders o LEFT JOIN payments p ON o.price < p.amount",
    ),
    (
        "joins",
        "self_join",
        "SELECT a.id, b.id AS other FROM customers a JOIN customers b ON a.region = b.region AND a.id < b.id",
    ),
    (
        "joins",
        "not_distinct",
        "SELECT o.id, p.amount FROM orders o JOIN payments p ON o.product IS NOT DISTINCT FROM p.method",
    ),
    (
        "joins",
        "three",
        "SELECT c.region, sum(p.amount) AS s, count(*) AS n FROM orders o JOIN customers c ON o.customer = c.id JOIN payments p ON p.order_id = o.id GROUP BY c.region",
    ),
    (
        "joins",
        "join_group",
        "SELECT c.name, count(o.id) AS n FROM customers c LEFT JOIN orders o ON o.customer = c.id GROUP BY c.name",
    ),
    (
        "joins",
        "using",
        "SELECT id, o.product, c.name FROM orders o JOIN customers c USING (id)",
    ),
    (
        "joins",
        "float_join",
        "SELECT a.id, b.id AS other FROM orders a JOIN orders b ON a.weight = b.weight",
    ),
    // Subqueries.
    (
        "subqueries",
        "exists",
        "SELECT c.id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)",
    ),
    (
        "subqueries",
        "not_exists",
        "SELECT c.id FROM customers c WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id AND o.paid)",
    ),
    (
        "subqueries",
        "exists_theta",
        "SELECT c.id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.quantity > c.id)",
    ),
    (
        "subqueries",
        "in_subquery",
        "SELECT id FROM orders WHERE customer IN (SELECT id FROM customers WHERE region = 'north')",
    ),
    (
        "subqueries",
        "not_in",
        "SELECT id FROM orders WHERE customer NOT IN (SELECT id FROM customers)",
    ),
    (
        "subqueries",
        "not_in_values",
        "SELECT id FROM orders WHERE product NOT IN (SELECT method FROM payments WHERE method IS NOT NULL)",
    ),
    (
        "subqueries",
        "exists_or",
        "SELECT c.id FROM customers c WHERE c.region = 'south' OR EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)",
    ),
    (
        "subqueries",
        "scalar_subquery",
        "SELECT id FROM orders WHERE quantity > (SELECT avg(quantity) FROM orders)",
    ),
    (
        "subqueries",
        "scalar_in_list",
        "SELECT id, quantity - (SELECT min(quantity) FROM orders) AS above FROM orders",
    ),
    (
        "subqueries",
        "scalar_limit",
        "SELECT id, (SELECT max(id) FROM customers WHERE region = 'west') AS m FROM payments JOIN customers ON true",
    ),
    (
        "subqueries",
        "correlated_scalar",
        "SELECT c.id, (SELECT sum(o.quantity) FROM orders o WHERE o.customer = c.id) AS s FROM customers c",
    ),
    (
        "subqueries",
        "correlated_count",
        "SELECT c.id, (SELECT count(*) FROM orders o WHERE o.customer = c.id) AS n FROM customers c",
    ),
    (
        "subqueries",
        "correlated_filter",
        "SELECT o.id FROM orders o WHERE o.quantity = (SELECT max(i.quantity) FROM orders i WHERE i.product = o.product)",
    ),
    (
        "subqueries",
        "cte_twice",
        "WITH t AS (SELECT customer, sum(quantity) AS s FROM orders GROUP BY customer) SELECT a.customer, b.s FROM t a JOIN t b ON a.customer = b.customer",
    ),
    (
        "subqueries",
        "recursive",
        "WITH RECURSIVE r AS (SELECT min(id) AS n FROM customers UNION ALL SELECT n + 1 FROM r WHERE n < 6) SELECT n FROM r",
    ),
    (
        "subqueries",
        "recursive_join",
        "WITH RECURSIVE r AS (SELECT id, 1 AS depth FROM customers WHERE id = 1 UNION SELECT c.id, r.depth + 1 FROM r JOIN customers c ON c.id = r.id + 1 WHERE r.depth < 4) SELECT id, depth FROM r",
    ),
    // Windows, limits, order.
    (
        "order",
        "row_number",
        "SELECT product, id, row_number() OVER (PARTITION BY product ORDER BY quantity) AS r FROM orders",
    ),
    (
        "order",
        "rank",
        "SELECT product, quantity, rank() OVER (PARTITION BY product ORDER BY quantity DESC) AS r FROM orders",
    ),
    (
        "order",
        "top_per_key",
        "SELECT product, id, quantity FROM (SELECT product, id, quantity, row_number() OVER (PARTITION BY product ORDER BY quantity DESC) AS r FROM orders) q WHERE r <= 2",
    ),
    (
        "order",
        "running_sum",
        "SELECT customer, id, sum(quantity) OVER (PARTITION BY customer ORDER BY id) AS s FROM orders",
    ),
    (
        "order",
        "window_whole",
        "SELECT id, count(*) OVER (PARTITION BY product) AS n FROM orders",
    ),
    (
        "order",
        "window_expression_key",
        "SELECT id, count(*) OVER (PARTITION BY quantity % 2) AS n FROM orders",
    ),
    (
        "order",
        "window_global",
        "SELECT id, row_number() OVER (ORDER BY quantity, id) AS r FROM orders",
    ),
    (
        "order",
        "lag",
        "SELECT customer, id, lag(quantity) OVER (PARTITION BY customer ORDER BY day) AS before FROM orders",
    ),
    (
        "order",
        "two_windows",
        "SELECT id, rank() OVER (PARTITION BY product ORDER BY quantity) AS a, count(*) OVER (PARTITION BY customer) AS b FROM orders",
    ),
    (
        "order",
        "window_rows",
        "SELECT customer, sum(quantity) OVER (PARTITION BY customer ORDER BY quantity ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s FROM orders",
    ),
    (
        "order",
        "limit",
        "SELECT id, quantity FROM orders ORDER BY quantity DESC LIMIT 3",
    ),
    (
        "order",
        "limit_offset",
        "SELECT product, quantity FROM orders ORDER BY product LIMIT 4 OFFSET 2",
    ),
    (
        "order",
        "limit_unordered",
        "SELECT product FROM orders LIMIT 5",
    ),
    (
        "order",
        "limit_hidden_key",
        "SELECT product FROM orders ORDER BY day, quantity LIMIT 3",
    ),
    (
        "order",
        "order_without_limit",
        "SELECT id FROM orders ORDER BY price",
    ),
    (
        "order",
        "limit_inside",
        "SELECT q.product, count(*) AS n FROM (SELECT product FROM orders ORDER BY quantity LIMIT 6) q GROUP BY q.product",
    ),
    // Lists.
    (
        "lists",
        "unnest",
        "SELECT id, unnest(tags) AS tag FROM orders",
    ),
    (
        "lists",
        "unnest_group",
        "SELECT tag, count(*) AS n FROM (SELECT unnest(tags) AS tag FROM orders) q GROUP BY tag",
    ),
    (
        "lists",
        "table_function",
        "SELECT o.id, g.n FROM orders o JOIN (SELECT * FROM generate_series(1, 5)) AS g (n) ON o.quantity = g.n",
    ),
];

/// Queries in words that only the dialect knows.
pub const DIALECT: &[(&str, &str, &str)] = &[
    (
        "dialect",
        "json_elements",
        "SELECT e.kind, j.value FROM events e, jsonb_array_elements(CASE WHEN jsonb_typeof(e.payload) = 'array' THEN e.payload ELSE '[]' END) AS j (value)",
    ),
    (
        "dialect",
        "json_access",
        "SELECT kind, payload->'a' AS a, payload->>'b' AS b FROM events",
    ),
    (
        "dialect",
        "json_group",
        "SELECT j.value->>'account' AS account, sum((j.value->>'amount')::int) AS s FROM events e, jsonb_array_elements(CASE WHEN jsonb_typeof(e.payload) = 'array' THEN e.payload ELSE '[]' END) AS j (value) GROUP BY j.value->>'account'",
    ),
    (
        "dialect",
        "except_all",
        "SELECT customer AS x FROM orders EXCEPT ALL SELECT id FROM customers",
    ),
    (
        "dialect",
        "intersect_all",
        "SELECT customer AS x FROM orders INTERSECT ALL SELECT id FROM customers",
    ),
    (
        "dialect",
        "exists_in_list",
        "SELECT c.id, EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id) AS e FROM customers c",
    ),
    (
        "dialect",
        "lateral",
        "SELECT c.id, q.id AS o FROM customers c, LATERAL (SELECT o.id FROM orders o WHERE o.customer = c.id ORDER BY o.quantity DESC, o.id LIMIT 2) q",
    ),
    (
        "dialect",
        "float_sum",
        "SELECT product, sum(weight) AS s, avg(weight) AS a FROM orders GROUP BY product",
    ),
    (
        "dialect",
        "real_sum",
        "SELECT kind, sum(score) AS s, avg(score) AS a FROM events GROUP BY kind",
    ),
    (
        "dialect",
        "smallint_sum",
        "SELECT sum(kind) AS s, avg(kind) AS a FROM events",
    ),
    (
        "dialect",
        "decimal_avg",
        "SELECT product, avg(price) AS a, sum(price) AS s FROM orders GROUP BY product",
    ),
    (
        "dialect",
        "in_or",
        "SELECT id FROM orders WHERE quantity > 8 OR customer IN (SELECT id FROM customers)",
    ),
    (
        "dialect",
        "not_in_or",
        "SELECT id FROM orders WHERE quantity > 8 OR customer NOT IN (SELECT id FROM customers)",
    ),
    (
        "dialect",
        "any",
        "SELECT id FROM orders WHERE quantity < ANY (SELECT id FROM customers WHERE region = 'north')",
    ),
    (
        "dialect",
        "all",
        "SELECT id FROM orders WHERE quantity > ALL (SELECT id FROM customers WHERE region = 'north')",
    ),
    (
        "dialect",
        "from_unnest",
        "SELECT o.id, t.tag FROM orders o, unnest(o.tags) AS t (tag)",
    ),
    (
        "dialect",
        "left_unnest",
        "SELECT o.id, t.tag FROM orders o LEFT JOIN LATERAL unnest(o.tags) AS t (tag) ON true",
    ),
    (
        "dialect",
        "jsonb_agg",
        "SELECT product, jsonb_agg(quantity) AS q FROM orders GROUP BY product",
    ),
    (
        "dialect",
        "array_subquery",
        "SELECT c.id, ARRAY(SELECT o.id FROM orders o WHERE o.customer = c.id ORDER BY o.id) AS a FROM customers c",
    ),
    (
        "dialect",
        "text_casts",
        "SELECT id::text || ':' || coalesce(product, '-') AS t, price::text AS p, weight::text AS w FROM orders",
    ),
    (
        "dialect",
        "intervals",
        "SELECT id, at + interval '1 day' AS later, at - timestamp '2024-01-01' AS since FROM orders",
    ),
    (
        "dialect",
        "guarded_division",
        "SELECT id, 100 / quantity AS q FROM orders WHERE quantity <> 0",
    ),
    (
        "dialect",
        "filter_in_window",
        "SELECT id, count(*) FILTER (WHERE paid) OVER (PARTITION BY product) AS n FROM orders",
    ),
    (
        "dialect",
        "qualify_like",
        "SELECT * FROM (SELECT id, product, rank() OVER (PARTITION BY product ORDER BY price DESC) AS r FROM orders) q WHERE r = 1",
    ),
    (
        "dialect",
        "two_scalars",
        "SELECT (SELECT count(*) FROM orders) AS o, (SELECT count(*) FROM customers) AS c",
    ),
    (
        "dialect",
        "scalar_empty",
        "SELECT id, (SELECT name FROM customers WHERE id = 3 ORDER BY name LIMIT 1) AS n FROM orders",
    ),
    (
        "dialect",
        "having_subquery",
        "SELECT product, sum(quantity) AS s FROM orders GROUP BY product HAVING sum(quantity) > (SELECT avg(quantity) FROM orders)",
    ),
    (
        "dialect",
        "bank",
        "SELECT coalesce(d.a, c.a) AS account, coalesce(c.s, 0) - coalesce(d.s, 0) AS balance FROM (SELECT customer AS a, sum(price) AS s FROM orders WHERE paid GROUP BY customer) d FULL JOIN (SELECT customer AS a, sum(price) AS s FROM orders WHERE NOT paid GROUP BY customer) c ON d.a = c.a",
    ),
];

/// Queries that fail on some rows.
pub const FAILING: &[(&str, &str, &str)] = &[
    (
        "failing",
        "division",
        "SELECT id, 100 / quantity AS q FROM orders",
    ),
    (
        "failing",
        "filter",
        "SELECT id FROM orders WHERE 100 / quantity > 20",
    ),
    (
        "failing",
        "argument",
        "SELECT product, sum(100 / quantity) AS s FROM orders GROUP BY product",
    ),
    (
        "failing",
        "key",
        "SELECT 100 / quantity AS k, count(*) AS n FROM orders GROUP BY 100 / quantity",
    ),
    (
        "failing",
        "having",
        "SELECT product, 12 / count(DISTINCT customer) AS n FROM orders GROUP BY product HAVING 10 / (count(*) - 2) >= 0",
    ),
    (
        "failing",
        "join_filter",
        "SELECT o.id, c.id AS c FROM orders o JOIN customers c ON o.customer = c.id AND 10 / (o.quantity - length(c.name)) > 0",
    ),
    (
        "failing",
        "join_key",
        "SELECT o.id, c.id AS c FROM orders o LEFT JOIN customers c ON 10 / o.quantity = c.id",
    ),
    (
        "failing",
        "window",
        "SELECT id, sum(10 / quantity) OVER (PARTITION BY product ORDER BY id) AS s FROM orders",
    ),
    (
        "failing",
        "array",
        "SELECT product, array_agg(10 / quantity) AS a FROM orders GROUP BY product",
    ),
    (
        "failing",
        "limit",
        "SELECT id, 10 / quantity AS q FROM orders ORDER BY 10 / quantity LIMIT 3",
    ),
];
