//! What the compiler refuses, and what it says of a view besides its operators.

mod support;

use std::collections::HashSet;

use support::data::Tables;
use support::front;
use tidemill_dataflow::plan::{Classes, Neighbourhood, Node, Op, OrderBy, Reach};
use tidemill_planner::SqlError;
use tidemill_planner::compile::CompiledView;

fn compile(sql: &str) -> Result<CompiledView, SqlError> {
    let mut tables = Tables::new();
    for r in &mut tables.relations {
        match r.name.as_str() {
            "customers" => r.primary_key = Some(vec![0]),
            "payments" => r.append_only = true,
            _ => {}
        }
    }
    let bound = front::bind(&tables, sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    front::view(&tables, &bound)
}

fn refused(sql: &str, word: &str) {
    let error = compile(sql).expect_err(sql);
    assert_eq!(error.sqlstate, "0A000", "{sql}");
    assert!(error.message.contains(word), "{sql}: {error}");
    assert!(error.hint.is_some(), "{sql}: a refusal has a hint");
}

#[test]
fn what_has_no_single_answer_is_refused() {
    refused("SELECT id, random() AS r FROM orders", "random");
    refused("SELECT id FROM orders WHERE at < now()", "now");
    refused(
        "SELECT count(*) FILTER (WHERE day = current_date) AS n FROM orders",
        "now",
    );
    refused(
        "SELECT id FROM customers WHERE id IN (SELECT customer FROM orders WHERE day < current_date)",
        "now",
    );
}

fn unique(sql: &str) -> Option<Vec<usize>> {
    compile(sql)
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"))
        .unique
}

#[test]
fn keys_of_views_are_known() {
    assert_eq!(
        unique("SELECT product, count(*) AS n FROM orders GROUP BY product"),
        Some(vec![0])
    );
    assert_eq!(
        unique("SELECT count(*) AS n, product FROM orders GROUP BY product"),
        Some(vec![1])
    );
    assert_eq!(
        unique("SELECT count(*) AS n FROM orders GROUP BY product"),
        None
    );
    assert_eq!(unique("SELECT count(*) AS n FROM orders"), Some(vec![]));
    assert_eq!(
        unique("SELECT DISTINCT product, paid FROM orders"),
        Some(vec![0, 1])
    );
    assert_eq!(unique("SELECT id, product FROM orders"), None);
    assert_eq!(
        unique("SELECT name, id FROM customers WHERE id > 3"),
        Some(vec![1])
    );
    assert_eq!(
        unique("SELECT * FROM customers UNION ALL SELECT * FROM customers"),
        None
    );
    // Each order meets at most one customer; a customer meets many orders.
    assert_eq!(
        unique("SELECT o.id, c.id AS c FROM orders o JOIN customers c ON o.customer = c.id"),
        None
    );
    let joined = "SELECT q.product, q.m, c.name FROM (SELECT product, max(customer) AS m FROM orders GROUP BY product) q \
                  LEFT JOIN customers c ON q.m = c.id";
    assert_eq!(unique(joined), Some(vec![0]));
    let many = "SELECT c.id, o.id AS o FROM customers c LEFT JOIN orders o ON o.customer = c.id";
    assert_eq!(unique(many), None);
    assert_eq!(
        unique(
            "SELECT id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)"
        ),
        Some(vec![0])
    );
}

fn append_only(sql: &str) -> bool {
    compile(sql)
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"))
        .append_only
}

#[test]
fn insertions_stay_insertions() {
    assert!(append_only(
        "SELECT amount * 2 AS a FROM payments WHERE method = 'x'"
    ));
    assert!(append_only("SELECT DISTINCT method FROM payments"));
    assert!(append_only(
        "SELECT a.amount FROM payments a JOIN payments b ON a.order_id = b.order_id"
    ));
    assert!(append_only(
        "SELECT method FROM payments UNION ALL SELECT method FROM payments"
    ));
    assert!(!append_only(
        "SELECT method, count(*) AS n FROM payments GROUP BY method"
    ));
    assert!(!append_only(
        "SELECT a.amount FROM payments a LEFT JOIN payments b ON a.order_id = b.order_id"
    ));
    assert!(!append_only(
        "SELECT method FROM payments WHERE order_id NOT IN (SELECT id FROM orders)"
    ));
    assert!(!append_only("SELECT id FROM orders"));
}

/// How far the window functions of a view are known to look.
fn neighbourhood(sql: &str) -> Option<Neighbourhood> {
    fn find(node: &Node) -> Option<Neighbourhood> {
        match &node.op {
            Op::Recompute { program, .. } => {
                let near = program.neighbourhood().cloned();
                let runs = near.as_ref().is_some_and(|n| n.runs);
                assert_eq!(program.running().is_some(), runs, "{}", program.describe());
                near
            }
            _ => node.inputs.iter().find_map(find),
        }
    }
    let compiled = compile(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    find(&compiled.plan.root)
}

fn reaches(sql: &str) -> Vec<Reach> {
    neighbourhood(sql).map_or(vec![], |n| n.reaches)
}

#[test]
fn windows_that_look_at_neighbours_are_known() {
    let rows = |before, after| Reach::Rows { before, after };
    let distance = |before, after| Reach::Distance { before, after };
    let over = |call: &str, window: &str| {
        reaches(&format!(
            "SELECT id, {call} OVER (PARTITION BY customer ORDER BY {window}) AS x FROM orders"
        ))
    };
    assert_eq!(over("lag(price)", "at"), [rows(1, 0)]);
    assert_eq!(over("lead(price, 3, 0)", "at DESC"), [rows(0, 3)]);
    assert_eq!(over("lag(price, -2)", "at"), [rows(0, 2)]);
    assert_eq!(
        over("sum(weight)", "at ROWS BETWEEN 5 PRECEDING AND 2 FOLLOWING"),
        [rows(5, 2)]
    );
    assert_eq!(
        over(
            "max(product)",
            "at ROWS BETWEEN 5 PRECEDING AND 2 PRECEDING"
        ),
        [rows(5, 0)]
    );
    assert_eq!(
        over("count(*)", "quantity RANGE 7 PRECEDING"),
        [distance(7, 0)]
    );
    assert_eq!(
        over(
            "avg(price)",
            "at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND INTERVAL '1 hour' FOLLOWING"
        ),
        [distance(86_400_000_001, 3_600_000_001)]
    );
    assert_eq!(
        over(
            "sum(price)",
            "price RANGE BETWEEN CURRENT ROW AND 0.5 FOLLOWING"
        ),
        [distance(0, 51)]
    );
    // Two windows over each other, and a filter above; the lower one first.
    assert_eq!(
        reaches(
            "SELECT * FROM (SELECT id, lead(step) OVER (PARTITION BY customer ORDER BY id) AS next FROM
             (SELECT *, quantity - lag(quantity, 2) OVER (PARTITION BY customer ORDER BY id) AS step FROM orders) AS o) AS p
             WHERE next > 0"
        ),
        [rows(2, 0), rows(0, 1)]
    );
    let whole = neighbourhood("SELECT id, lag(day) OVER (ORDER BY day DESC, id) AS x FROM orders");
    let order = whole.map_or(vec![], |n| n.order);
    let by = |column, descending| OrderBy {
        column,
        descending,
        nulls_first: descending,
    };
    assert_eq!(order[..1], [by(order[0].column, true)]);
    assert_eq!(order[1], by(order[1].column, false));
}

#[test]
fn windows_that_run_are_known() {
    let rows = |before, after| Reach::Rows { before, after };
    let runs = |sql: &str| {
        let near = neighbourhood(sql).unwrap_or_else(|| panic!("{sql}"));
        assert!(near.runs, "{sql}");
        near.reaches
    };
    let over = |call: &str, window: &str| {
        runs(&format!(
            "SELECT id, {call} OVER (PARTITION BY customer ORDER BY {window}) AS x FROM orders WHERE id > 3"
        ))
    };
    assert_eq!(over("sum(price)", "at"), []);
    assert_eq!(over("row_number()", "at DESC, id"), []);
    assert_eq!(over("avg(weight)", "at ROWS UNBOUNDED PRECEDING"), []);
    assert_eq!(over("count(*) FILTER (WHERE paid)", "at"), []);
    assert_eq!(
        over(
            "max(price)",
            "quantity RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
        ),
        []
    );
    assert_eq!(
        runs(
            "SELECT sum(price) OVER (ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 2 FOLLOWING) AS x,
             lag(price, 3) OVER (ORDER BY at) AS y FROM orders"
        ),
        [rows(3, 2)]
    );
    // Over and below what looks at neighbours.
    assert_eq!(
        runs(
            "SELECT id, sum(gap) OVER (PARTITION BY customer ORDER BY at) AS session FROM
             (SELECT *, lag(quantity) OVER (PARTITION BY customer ORDER BY at) - quantity AS gap FROM orders) AS o"
        ),
        [rows(1, 0)]
    );
    assert_eq!(
        runs(
            "SELECT id, lead(total) OVER (PARTITION BY customer ORDER BY at) AS x, sum(total) OVER (PARTITION BY customer ORDER BY at) AS y FROM
             (SELECT *, sum(quantity) OVER (PARTITION BY customer ORDER BY at) AS total FROM orders) AS o"
        ),
        [rows(0, 1)]
    );
}

#[test]
fn windows_that_may_look_at_all_rows_are_not() {
    for call in [
        "rank() OVER (PARTITION BY customer ORDER BY at)",
        "sum(price) OVER (PARTITION BY customer)",
        "sum(price) OVER (PARTITION BY customer ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)",
        "sum(price) OVER (PARTITION BY customer ORDER BY quantity RANGE BETWEEN UNBOUNDED PRECEDING AND 5 PRECEDING)",
        "string_agg(product, ',') OVER (PARTITION BY customer ORDER BY at)",
        "stddev(weight) OVER (PARTITION BY customer ORDER BY at)",
        "sum(price) OVER (PARTITION BY customer ORDER BY at GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING)",
        "sum(price) OVER (PARTITION BY customer ORDER BY at ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)",
        "first_value(price) OVER (PARTITION BY customer ORDER BY at)",
        // Months are longer and shorter.
        "sum(price) OVER (PARTITION BY customer ORDER BY at RANGE INTERVAL '1 month' PRECEDING)",
        "sum(price) OVER (PARTITION BY customer ORDER BY weight RANGE 1.5 PRECEDING)",
        // What it comes to may depend on what was in the frame before.
        "stddev(weight) OVER (PARTITION BY customer ORDER BY at ROWS 3 PRECEDING)",
        "sum(price) FILTER (WHERE paid) OVER (PARTITION BY customer ORDER BY at ROWS 3 PRECEDING)",
        "lag(price, quantity) OVER (PARTITION BY customer ORDER BY at)",
        "lag(price) OVER (PARTITION BY customer ORDER BY quantity + 1)",
    ] {
        let sql = format!("SELECT id, {call} AS x FROM orders");
        assert_eq!(neighbourhood(&sql), None, "{sql}");
    }
    for sql in [
        // By other orders, or keys; of rows of which some are left out; of numbers of rows.
        "SELECT lag(id) OVER (PARTITION BY customer ORDER BY at) AS x, lag(id) OVER (PARTITION BY customer ORDER BY price) AS y FROM orders",
        "SELECT lag(id) OVER (PARTITION BY customer, product ORDER BY at) AS x, lag(id) OVER (PARTITION BY customer ORDER BY at) AS y FROM orders",
        "SELECT lag(id) OVER (PARTITION BY customer ORDER BY at) AS x FROM (SELECT *, lag(price) OVER (PARTITION BY customer ORDER BY at) AS p FROM orders) AS o WHERE p > 1",
    ] {
        let far = neighbourhood(sql);
        assert!(far.is_none_or(|n| n.reaches.len() < 2), "{sql}");
    }
    let over = |call: &str| format!("{call} OVER (PARTITION BY customer ORDER BY at)");
    for (call, from) in [
        // Of rows of which some are left out below, all of a segment perhaps; what a running sum comes from must be right.
        (
            "sum(id)",
            format!(
                "SELECT * FROM (SELECT *, {} AS p FROM orders) AS o WHERE p > 1",
                over("sum(price)")
            ),
        ),
        (
            "lag(id)",
            format!(
                "SELECT * FROM (SELECT *, {} AS p FROM orders) AS o WHERE p > 1",
                over("sum(price)")
            ),
        ),
        (
            "sum(m)",
            format!(
                "SELECT *, {} AS m FROM (SELECT *, {} AS n FROM orders) AS o",
                over("lag(n)"),
                over("row_number()")
            ),
        ),
    ] {
        let sql = format!("SELECT customer, {} AS x FROM ({from}) AS q", over(call));
        let near = neighbourhood(&sql);
        assert!(near.is_none_or(|n| !n.runs), "{sql}");
    }
}

/// How many matches the program of a view is known to give each row.
fn matches(sql: &str) -> Option<u64> {
    neighbourhood(sql)?.matches
}

#[test]
fn joins_of_which_the_nearest_rows_are_wanted_are_known() {
    let last = |cond: &str, rest: &str| {
        matches(&format!(
            "SELECT p.id, o.product FROM orders AS p LEFT JOIN LATERAL
             (SELECT product, price FROM orders AS o WHERE {cond} {rest}) AS o ON true"
        ))
    };
    assert_eq!(last("o.at <= p.at", "ORDER BY o.at DESC LIMIT 1"), Some(1));
    assert_eq!(last("p.at < o.at", "ORDER BY o.at LIMIT 3"), Some(3));
    let of_key = "o.customer = p.customer AND o.at < p.at";
    assert_eq!(last(of_key, "ORDER BY o.at DESC LIMIT 1"), Some(1));
    // The other end of the range only leaves some of them out.
    let within = "o.at <= p.at AND o.at > p.at - INTERVAL '1 hour'";
    assert_eq!(last(within, "ORDER BY o.at DESC LIMIT 1"), Some(1));
    // In the other direction, by something else, of rows that something else chooses, by a limit that can fail, or too many.
    assert_eq!(last("o.at <= p.at", "ORDER BY o.at LIMIT 1"), None);
    assert_eq!(last("o.at <= p.at", "ORDER BY o.price LIMIT 1"), None);
    let chosen = "o.at <= p.at AND (o.price > p.price OR o.paid)";
    assert_eq!(last(chosen, "ORDER BY o.at DESC LIMIT 1"), None);
    let shifted = "o.at <= p.at + INTERVAL '1 day'";
    assert_eq!(last(shifted, "ORDER BY o.at DESC LIMIT 1"), None);
    assert_eq!(last("o.at <= p.at", "ORDER BY o.at DESC LIMIT 2000"), None);

    for (sql, known) in [
        (
            "SELECT DISTINCT ON (p.id) p.id, o.id FROM orders AS p LEFT JOIN orders AS o ON o.at <= p.at
             ORDER BY p.id, o.at DESC",
            Some(1),
        ),
        // What isn't on the left is kept too, and a range has two ends.
        (
            "SELECT DISTINCT ON (p.id) p.id, o.id FROM orders AS p LEFT JOIN orders AS o
             ON o.at <= p.at AND o.at > p.at - INTERVAL '1 hour' ORDER BY p.id, o.at DESC",
            None,
        ),
        (
            "SELECT p.id, (SELECT max(o.at) FROM orders AS o WHERE o.at <= p.at) AS m FROM orders AS p",
            Some(1),
        ),
        (
            "SELECT p.id, (SELECT min(o.at) FROM orders AS o WHERE o.at <= p.at) AS m FROM orders AS p",
            None,
        ),
        (
            "SELECT p.id, max(o.at) AS m, count(*) AS n FROM orders AS p JOIN orders AS o ON o.at <= p.at GROUP BY p.id",
            None,
        ),
        (
            "SELECT p.id, max(o.at) FILTER (WHERE o.paid) AS m FROM orders AS p JOIN orders AS o ON o.at <= p.at GROUP BY p.id",
            None,
        ),
    ] {
        assert_eq!(matches(sql), known, "{sql}");
    }
}

/// A query of WITH queries, each of which names the one before twice and has an expression that occurs twice; and how many joins its plan has, and how
/// many different ones.
fn joins_of_chain(links: usize) -> (usize, usize) {
    let mut sql =
        "WITH c0 AS (SELECT customer AS k, sum(id) AS v FROM orders GROUP BY customer)".to_owned();
    for link in 1..=links {
        sql += &format!(
            ", c{link} AS (SELECT a.k, max(a.v - coalesce(b.v, 0)) + {link} AS v FROM c{0} a LEFT JOIN c{0} b ON a.k = b.k + 1 GROUP BY a.k)",
            link - 1
        );
    }
    sql += &format!(" SELECT k, v FROM c{links}");
    let view = compile(&sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    fn joins<'n>(node: &'n Node, met: &mut Vec<&'n Node>) {
        if let Op::Join { .. } = node.op {
            met.push(node);
        }
        node.inputs.iter().for_each(|input| joins(input, met));
    }
    let mut all = vec![];
    joins(&view.plan.root, &mut all);
    let classes = Classes::of(&view.plan.root);
    let different: HashSet<usize> = all.iter().map(|node| classes.class(node)).collect();
    (all.len(), different.len())
}

#[test]
fn copies_of_a_part_are_equal() {
    assert_eq!(
        joins_of_chain(4),
        (15, 4),
        "one, two, four and eight of them"
    );
    // It is planned in parts.
    assert_eq!(joins_of_chain(10), (1023, 10));
}
