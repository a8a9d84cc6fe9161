//! Programs of the general operator: planned once, run often, from several threads, in and out of a runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion_expr::{LogicalPlanBuilder, col, lit};
use tidemill_dataflow::plan::BatchProgram;
use tidemill_planner::program::{InputTable, Program};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("c0", DataType::Int64, true)]))
}

fn rows(values: Vec<i64>) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(values))]).expect("one column")
}

fn leaf(index: usize) -> LogicalPlanBuilder {
    let table: Arc<dyn TableProvider> = Arc::new(InputTable::new(index, schema()));
    LogicalPlanBuilder::scan(format!("input_{index}"), provider_as_source(table), None)
        .expect("a scan")
}

fn output() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("sum", DataType::Int64, true)]))
}

/// The sum over both inputs of the pairs' products: a join without keys, which keeps a side in memory.
fn products() -> Program {
    let plan = leaf(0)
        .cross_join(leaf(1).build().expect("a scan"))
        .and_then(|b| {
            b.aggregate(
                Vec::<datafusion_expr::Expr>::new(),
                [sum(col("input_0.c0") * col("input_1.c0"))],
            )
        })
        .and_then(|b| b.build())
        .expect("a plan");
    Program::try_new(plan, vec![schema(), schema()], output()).expect("a program")
}

fn run(program: &Program, a: Vec<i64>, b: Vec<i64>) -> Option<i64> {
    let out = program
        .run(vec![vec![rows(a)], vec![rows(b)]], &Arc::default())
        .expect("no row fails");
    let column = out[0].column(0).as_primitive::<Int64Type>().clone();
    column.iter().next().expect("one row")
}

#[test]
fn a_program_keeps_nothing_of_a_run() {
    let program = products();
    assert_eq!(run(&program, vec![1, 2], vec![10, 20]), Some(90));
    assert_eq!(run(&program, vec![3], vec![1]), Some(3));
    assert_eq!(run(&program, vec![], vec![1]), None);
    assert_eq!(run(&program, vec![1, 2], vec![10, 20]), Some(90));
}

/// Hours of work end soon after they were told to.
#[test]
fn a_run_can_be_stopped() {
    let program = products();
    let many = || {
        let piece = |i: i64| rows(((i * 8192)..(i + 1) * 8192).collect());
        (0..128).map(piece).collect::<Vec<_>>()
    };
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| program.run(vec![many(), many()], &stop));
        stop.store(true, Ordering::Relaxed);
        assert!(running.join().expect("no panic").is_err());
    });
}

#[test]
fn threads_share_a_program() {
    let program = products();
    std::thread::scope(|scope| {
        for thread in 1..=4i64 {
            let program = &program;
            scope.spawn(move || {
                for i in 0..50 {
                    assert_eq!(
                        run(program, vec![thread, i], vec![1, 1]),
                        Some(2 * (thread + i))
                    );
                }
            });
        }
    });
}

#[tokio::test]
async fn a_runtime_around_is_no_hindrance() {
    assert_eq!(run(&products(), vec![4], vec![5]), Some(20));
}

#[test]
fn a_failing_row_gives_an_error_and_no_panic() {
    let plan = leaf(0)
        .project([lit(1i64) / col("c0")])
        .and_then(|b| b.build())
        .expect("a plan");
    let program = Program::try_new(plan, vec![schema()], output()).expect("a program");
    let stop = Arc::new(AtomicBool::new(false));
    assert!(program.run(vec![vec![rows(vec![1, 0])]], &stop).is_err());
    assert!(program.run(vec![vec![rows(vec![1])]], &stop).is_ok());
}

#[test]
fn descriptions_name_no_addresses() {
    assert_eq!(products().describe(), products().describe());
    assert!(products().describe().contains("input_1"));
}
