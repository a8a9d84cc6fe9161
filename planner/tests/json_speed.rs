//! Speed of the JSON functions on messages of two events. Prints rows per second; asserts results only.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::cast::AsArray;
use arrow::array::types::Int64Type;
use arrow::array::{Array, ArrayRef, StringViewArray};
use tidemill_planner::functions::cast::{Context, cast_array};
use tidemill_planner::functions::{Args, json};
use tidemill_zset::schema::SqlType;

/// Messages per batch and batches.
const ROWS: usize = 8192;
const BATCHES: usize = 4;

#[test]
fn events_of_messages() {
    let texts: Vec<String> = (0..ROWS)
        .map(|i| {
            format!(
                r#"[{{"account_id":{},"amount":{},"kind":"debit"}},{{"account_id":{},"amount":-{},"kind":"credit"}}]"#,
                i % 1000, i % 77, (i + 1) % 1000, i % 77
            )
        })
        .collect();
    let events: ArrayRef = Arc::new(StringViewArray::from_iter_values(&texts));
    let list = SqlType::Array(Box::new(SqlType::Jsonb));
    let key = |k: &str| -> ArrayRef { Arc::new(StringViewArray::from_iter_values([k])) };
    let (account, amount) = (key("account_id"), key("amount"));
    let start = Instant::now();
    let mut total = 0i64;
    for _ in 0..BATCHES {
        let args = Args {
            arrays: vec![events.clone()],
            rows: ROWS,
        };
        let lists = json::items(&args, json::Items::Elements, true, &list).expect("arrays");
        let elements = lists.as_list::<i32>().values().clone();
        assert_eq!(elements.len(), ROWS * 2);
        for k in [&account, &amount] {
            let args = Args {
                arrays: vec![elements.clone(), k.clone()],
                rows: elements.len(),
            };
            let text = json::by_key(&args, true, true).expect("objects");
            let n = cast_array(
                &text,
                &SqlType::Text,
                &SqlType::Int8,
                Context::Explicit,
                "UTC",
            )
            .expect("numbers");
            total += n.as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{:.0} messages/s, two events of two fields each",
        (ROWS * BATCHES) as f64 / seconds
    );
    let accounts: i64 = (0..ROWS as i64).map(|i| i % 1000 + (i + 1) % 1000).sum();
    assert_eq!(total, accounts * BATCHES as i64);
}
