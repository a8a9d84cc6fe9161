//! What the compiler refuses, and what it says of a view besides its operators.

mod support;

use support::data::Tables;
use support::front;
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
