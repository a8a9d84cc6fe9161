//! The views of the tests: every kind of plan that the compiler knows, and those that it leaves to the
//! general operator. Results never depend on the order of rows.

/// (name, query)
pub const QUERIES: &[(&str, &str)] = &[
    // Row by row.
    ("columns", "SELECT id, product FROM orders"),
    ("all_columns", "SELECT * FROM customers"),
    (
        "filter",
        "SELECT id, quantity FROM orders WHERE quantity > 5 AND paid",
    ),
    (
        "filter_null",
        "SELECT id FROM orders WHERE price IS NULL OR product IS NULL",
    ),
    (
        "expressions",
        "SELECT id, quantity * 2 + 1 AS twice, price * quantity AS total, upper(product) AS p FROM orders",
    ),
    (
        "case",
        "SELECT id, CASE WHEN quantity > 7 THEN 'many' WHEN quantity > 3 THEN 'some' ELSE 'few' END AS n FROM orders",
    ),
    (
        "in_list",
        "SELECT id FROM orders WHERE product IN ('apple', 'pear') OR quantity NOT IN (1, 2, 3)",
    ),
    (
        "like",
        "SELECT id, product FROM orders WHERE product LIKE '%p%'",
    ),
    (
        "between_dates",
        "SELECT id, day FROM orders WHERE day BETWEEN DATE '2024-01-03' AND DATE '2024-01-20'",
    ),
    (
        "coalesce",
        "SELECT coalesce(product, 'none') AS p, coalesce(quantity, 0) AS q FROM orders",
    ),
    (
        "nested_selects",
        "SELECT a + 1 AS b FROM (SELECT quantity * 3 AS a FROM orders WHERE quantity < 8) s WHERE a > 6",
    ),
    (
        "no_columns_needed",
        "SELECT 1 AS one, 'x' AS x FROM payments",
    ),
    (
        "date_parts",
        "SELECT extract(year FROM day) AS y, extract(day FROM day) AS d FROM orders",
    ),
    (
        "common_expression",
        "SELECT quantity * 7 + 1 AS a, (quantity * 7 + 1) * 2 AS b FROM orders WHERE quantity * 7 + 1 > 10",
    ),
    // Constants.
    ("constant", "SELECT 1 AS a, 'b' AS b, NULL AS c"),
    (
        "values",
        "SELECT * FROM (VALUES (1, 'a'), (2, NULL), (2, NULL)) AS v (n, s)",
    ),
    (
        "values_join",
        "SELECT o.id, v.s FROM orders o JOIN (VALUES (1, 'a'), (2, 'b')) AS v (n, s) ON o.quantity = v.n",
    ),
    ("nothing", "SELECT id FROM orders WHERE false"),
    // Aggregates.
    ("count_star", "SELECT count(*) AS n FROM orders"),
    (
        "global_aggregates",
        "SELECT count(*) AS n, count(price) AS c, sum(quantity) AS s, min(day) AS lo, max(product) AS hi FROM orders",
    ),
    (
        "group",
        "SELECT product, count(*) AS n, sum(quantity) AS s FROM orders GROUP BY product",
    ),
    (
        "group_two",
        "SELECT product, paid, count(*) AS n, sum(price) AS s FROM orders GROUP BY product, paid",
    ),
    (
        "group_expression",
        "SELECT quantity % 3 AS m, count(*) AS n FROM orders GROUP BY quantity % 3",
    ),
    ("group_only", "SELECT product FROM orders GROUP BY product"),
    (
        "sum_types",
        "SELECT customer, sum(kind) AS s FROM (SELECT customer, quantity AS kind FROM orders) q GROUP BY customer",
    ),
    (
        "sum_bigint",
        "SELECT product, sum(id) AS s, avg(id) AS a FROM orders GROUP BY product",
    ),
    (
        "avg",
        "SELECT product, avg(quantity) AS a, avg(price) AS b FROM orders GROUP BY product",
    ),
    (
        "min_max",
        "SELECT customer, min(price) AS a, max(price) AS b, min(day) AS c, max(at) AS d, min(product) AS e FROM orders GROUP BY customer",
    ),
    (
        "min_max_global",
        "SELECT min(weight) AS a, max(weight) AS b FROM orders",
    ),
    (
        "bools",
        "SELECT product, bool_and(paid) AS a, bool_or(paid) AS b FROM orders GROUP BY product",
    ),
    (
        "having",
        "SELECT product, count(*) AS n FROM orders GROUP BY product HAVING count(*) > 2",
    ),
    (
        "having_other",
        "SELECT product FROM orders GROUP BY product HAVING sum(quantity) > 10 AND min(price) IS NOT NULL",
    ),
    (
        "aggregate_filter",
        "SELECT product, count(*) FILTER (WHERE paid) AS n, sum(quantity) FILTER (WHERE price > 10) AS s FROM orders GROUP BY product",
    ),
    (
        "aggregate_expression",
        "SELECT product, sum(quantity * price) AS s, max(quantity + 1) AS m FROM orders GROUP BY product",
    ),
    (
        "aggregate_of_aggregate",
        "SELECT n, count(*) AS products FROM (SELECT product, count(*) AS n FROM orders GROUP BY product) q GROUP BY n",
    ),
    (
        "count_distinct",
        "SELECT product, count(DISTINCT customer) AS n FROM orders GROUP BY product",
    ),
    (
        "count_distinct_global",
        "SELECT count(DISTINCT product) AS n FROM orders",
    ),
    (
        "distinct_beside_plain",
        "SELECT product, count(*) AS n, count(DISTINCT customer) AS c, sum(DISTINCT quantity) AS s, max(price) AS m FROM orders GROUP BY product",
    ),
    (
        "distinct_filter",
        "SELECT product, count(DISTINCT customer) FILTER (WHERE paid) AS c FROM orders GROUP BY product",
    ),
    (
        "distinct_global_beside",
        "SELECT count(*) AS n, count(DISTINCT product) AS p, sum(DISTINCT quantity) AS q FROM orders",
    ),
    (
        "avg_distinct",
        "SELECT customer, avg(DISTINCT quantity) AS a FROM orders GROUP BY customer",
    ),
    (
        "array_agg",
        "SELECT product, array_agg(quantity) AS q FROM orders GROUP BY product",
    ),
    (
        "array_agg_ordered",
        "SELECT product, array_agg(id ORDER BY quantity DESC) AS q FROM orders GROUP BY product",
    ),
    (
        "string_agg",
        "SELECT customer, string_agg(product, ',' ORDER BY product) AS p FROM orders GROUP BY customer",
    ),
    (
        "string_agg_beside",
        "SELECT customer, count(*) AS n, string_agg(product, ',') AS p FROM orders GROUP BY customer",
    ),
    (
        "array_agg_global",
        "SELECT array_agg(quantity) AS q FROM orders WHERE quantity < 4",
    ),
    (
        "array_agg_by_expression",
        "SELECT quantity % 2 AS m, array_agg(id) AS q FROM orders GROUP BY quantity % 2",
    ),
    (
        "grouping_sets",
        "SELECT product, paid, count(*) AS n FROM orders GROUP BY GROUPING SETS ((product), (paid), (product, paid))",
    ),
    (
        "rollup",
        "SELECT product, paid, sum(quantity) AS s FROM orders GROUP BY ROLLUP (product, paid)",
    ),
    (
        "cube",
        "SELECT product, paid, count(*) AS n FROM orders GROUP BY CUBE (product, paid)",
    ),
    (
        "float_groups",
        "SELECT weight, count(*) AS n FROM orders GROUP BY weight",
    ),
    // DISTINCT and set operations.
    ("distinct", "SELECT DISTINCT product, paid FROM orders"),
    (
        "distinct_expression",
        "SELECT DISTINCT quantity % 4 AS m FROM orders",
    ),
    ("distinct_floats", "SELECT DISTINCT weight FROM orders"),
    (
        "distinct_on",
        "SELECT DISTINCT ON (product) product, id, quantity FROM orders ORDER BY product, quantity DESC",
    ),
    (
        "union_all",
        "SELECT id, product FROM orders UNION ALL SELECT id, name FROM customers",
    ),
    (
        "union",
        "SELECT product AS x FROM orders UNION SELECT method FROM payments",
    ),
    (
        "union_types",
        "SELECT quantity AS x FROM orders UNION ALL SELECT amount FROM payments",
    ),
    (
        "except",
        "SELECT customer AS x FROM orders EXCEPT SELECT id FROM customers",
    ),
    (
        "intersect",
        "SELECT customer AS x FROM orders INTERSECT SELECT id FROM customers",
    ),
    // Joins.
    (
        "inner",
        "SELECT o.id, c.name FROM orders o JOIN customers c ON o.customer = c.id",
    ),
    (
        "inner_filter",
        "SELECT o.id, c.name FROM orders o JOIN customers c ON o.customer = c.id AND o.price > c.credit",
    ),
    (
        "inner_expression_key",
        "SELECT o.id, c.id AS c FROM orders o JOIN customers c ON o.customer + 1 = c.id",
    ),
    (
        "inner_types",
        "SELECT o.quantity, p.amount FROM orders o JOIN payments p ON o.id = p.order_id AND o.quantity = p.amount",
    ),
    (
        "inner_two_keys",
        "SELECT o.id, p.method FROM orders o JOIN payments p ON o.id = p.order_id AND o.product = p.method",
    ),
    (
        "left",
        "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON o.customer = c.id",
    ),
    (
        "left_filter",
        "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON o.customer = c.id AND c.region = 'north'",
    ),
    (
        "right",
        "SELECT o.id, c.name, c.id AS c FROM orders o RIGHT JOIN customers c ON o.customer = c.id",
    ),
    (
        "right_expression",
        "SELECT o.id, c.name FROM orders o RIGHT JOIN customers c ON o.customer * 2 = c.id * 2 AND o.paid",
    ),
    (
        "full",
        "SELECT o.id, c.id AS c FROM orders o FULL JOIN customers c ON o.customer = c.id",
    ),
    (
        "full_coalesce",
        "SELECT coalesce(a.x, b.x) AS x, a.n, b.n AS m FROM (SELECT customer AS x, count(*) AS n FROM orders GROUP BY customer) a FULL JOIN (SELECT id AS x, count(*) AS n FROM customers GROUP BY id) b ON a.x = b.x",
    ),
    (
        "cross",
        "SELECT c.id, p.method FROM customers c CROSS JOIN payments p",
    ),
    (
        "theta",
        "SELECT o.id, c.id AS c FROM orders o JOIN customers c ON o.quantity < c.id",
    ),
    (
        "theta_left",
        "SELECT o.id, p.amount FROM orders o LEFT JOIN payments p ON o.price < p.amount",
    ),
    (
        "self_join",
        "SELECT a.id, b.id AS other FROM customers a JOIN customers b ON a.region = b.region AND a.id < b.id",
    ),
    (
        "not_distinct",
        "SELECT o.id, p.amount FROM orders o JOIN payments p ON o.product IS NOT DISTINCT FROM p.method",
    ),
    (
        "three",
        "SELECT c.region, sum(p.amount) AS s, count(*) AS n FROM orders o JOIN customers c ON o.customer = c.id JOIN payments p ON p.order_id = o.id GROUP BY c.region",
    ),
    (
        "join_group",
        "SELECT c.name, count(o.id) AS n FROM customers c LEFT JOIN orders o ON o.customer = c.id GROUP BY c.name",
    ),
    (
        "using",
        "SELECT id, o.product, c.name FROM orders o JOIN customers c USING (id)",
    ),
    (
        "float_join",
        "SELECT a.id, b.id AS other FROM orders a JOIN orders b ON a.weight = b.weight",
    ),
    // Subqueries.
    (
        "exists",
        "SELECT c.id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)",
    ),
    (
        "not_exists",
        "SELECT c.id FROM customers c WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id AND o.paid)",
    ),
    (
        "exists_theta",
        "SELECT c.id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.quantity > c.id)",
    ),
    (
        "in_subquery",
        "SELECT id FROM orders WHERE customer IN (SELECT id FROM customers WHERE region = 'north')",
    ),
    (
        "not_in",
        "SELECT id FROM orders WHERE customer NOT IN (SELECT id FROM customers)",
    ),
    (
        "not_in_values",
        "SELECT id FROM orders WHERE product NOT IN (SELECT method FROM payments WHERE method IS NOT NULL)",
    ),
    (
        "exists_or",
        "SELECT c.id FROM customers c WHERE c.region = 'south' OR EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)",
    ),
    (
        "scalar_subquery",
        "SELECT id FROM orders WHERE quantity > (SELECT avg(quantity) FROM orders)",
    ),
    (
        "scalar_in_list",
        "SELECT id, quantity - (SELECT min(quantity) FROM orders) AS above FROM orders",
    ),
    (
        "scalar_limit",
        "SELECT id, (SELECT max(id) FROM customers WHERE region = 'west') AS m FROM payments JOIN customers ON true",
    ),
    (
        "correlated_scalar",
        "SELECT c.id, (SELECT sum(o.quantity) FROM orders o WHERE o.customer = c.id) AS s FROM customers c",
    ),
    (
        "correlated_count",
        "SELECT c.id, (SELECT count(*) FROM orders o WHERE o.customer = c.id) AS n FROM customers c",
    ),
    (
        "correlated_filter",
        "SELECT o.id FROM orders o WHERE o.quantity = (SELECT max(i.quantity) FROM orders i WHERE i.product = o.product)",
    ),
    (
        "cte_twice",
        "WITH t AS (SELECT customer, sum(quantity) AS s FROM orders GROUP BY customer) SELECT a.customer, b.s FROM t a JOIN t b ON a.customer = b.customer",
    ),
    (
        "recursive",
        "WITH RECURSIVE r AS (SELECT min(id) AS n FROM customers UNION ALL SELECT n + 1 FROM r WHERE n < 6) SELECT n FROM r",
    ),
    (
        "recursive_join",
        "WITH RECURSIVE r AS (SELECT id, 1 AS depth FROM customers WHERE id = 1 UNION SELECT c.id, r.depth + 1 FROM r JOIN customers c ON c.id = r.id + 1 WHERE r.depth < 4) SELECT id, depth FROM r",
    ),
    // Windows, limits, order.
    (
        "row_number",
        "SELECT product, id, row_number() OVER (PARTITION BY product ORDER BY quantity) AS r FROM orders",
    ),
    (
        "rank",
        "SELECT product, quantity, rank() OVER (PARTITION BY product ORDER BY quantity DESC) AS r FROM orders",
    ),
    (
        "top_per_key",
        "SELECT product, id, quantity FROM (SELECT product, id, quantity, row_number() OVER (PARTITION BY product ORDER BY quantity DESC) AS r FROM orders) q WHERE r <= 2",
    ),
    (
        "running_sum",
        "SELECT customer, id, sum(quantity) OVER (PARTITION BY customer ORDER BY id) AS s FROM orders",
    ),
    (
        "window_whole",
        "SELECT id, count(*) OVER (PARTITION BY product) AS n FROM orders",
    ),
    (
        "window_expression_key",
        "SELECT id, count(*) OVER (PARTITION BY quantity % 2) AS n FROM orders",
    ),
    (
        "window_global",
        "SELECT id, row_number() OVER (ORDER BY quantity, id) AS r FROM orders",
    ),
    (
        "lag",
        "SELECT customer, id, lag(quantity) OVER (PARTITION BY customer ORDER BY day) AS before FROM orders",
    ),
    (
        "two_windows",
        "SELECT id, rank() OVER (PARTITION BY product ORDER BY quantity) AS a, count(*) OVER (PARTITION BY customer) AS b FROM orders",
    ),
    (
        "window_rows",
        "SELECT customer, sum(quantity) OVER (PARTITION BY customer ORDER BY quantity ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS s FROM orders",
    ),
    (
        "limit",
        "SELECT id, quantity FROM orders ORDER BY quantity DESC LIMIT 3",
    ),
    (
        "limit_offset",
        "SELECT product, quantity FROM orders ORDER BY product LIMIT 4 OFFSET 2",
    ),
    ("limit_unordered", "SELECT product FROM orders LIMIT 5"),
    (
        "limit_hidden_key",
        "SELECT product FROM orders ORDER BY day, quantity LIMIT 3",
    ),
    (
        "order_without_limit",
        "SELECT id FROM orders ORDER BY price",
    ),
    (
        "limit_inside",
        "SELECT q.product, count(*) AS n FROM (SELECT product FROM orders ORDER BY quantity LIMIT 6) q GROUP BY q.product",
    ),
    // Lists.
    ("unnest", "SELECT id, unnest(tags) AS tag FROM orders"),
    (
        "unnest_group",
        "SELECT tag, count(*) AS n FROM (SELECT unnest(tags) AS tag FROM orders) q GROUP BY tag",
    ),
    (
        "table_function",
        "SELECT o.id, g.n FROM orders o JOIN (SELECT * FROM generate_series(1, 5)) AS g (n) ON o.quantity = g.n",
    ),
];
