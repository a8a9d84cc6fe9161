//! What clients are told besides rows: names that belong to errors, where columns come from, types of parameters.

use anyhow::{Context, Result, ensure};
use tidemill_tests::{Options, Scratch, Server, Sql, run};
use tokio_postgres::error::DbError;
use tokio_postgres::types::Type;

async fn error(sql: &Sql, statement: &str) -> Result<DbError> {
    let failed = sql.client().batch_execute(statement).await;
    let error = failed.err().context("it did not fail")?;
    error
        .as_db_error()
        .cloned()
        .context("not the server's error")
}

#[test]
fn errors_name_what_they_are_about() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE SCHEMA s").await?;
        sql.run("CREATE TABLE s.t (id int PRIMARY KEY, u int UNIQUE, n int NOT NULL, c int CHECK (c > 0))")
            .await?;
        sql.run("INSERT INTO s.t VALUES (1, 1, 1, 1)").await?;
        for (statement, column, constraint) in [
            ("INSERT INTO s.t VALUES (1, 2, 3, 4)", None, Some("t_pkey")),
            ("INSERT INTO s.t VALUES (2, 1, 3, 4)", None, Some("t_u_key")),
            ("INSERT INTO s.t VALUES (2, 2, NULL, 4)", Some("n"), None),
            (
                "INSERT INTO s.t VALUES (2, 2, 2, 0)",
                None,
                Some("t_c_check"),
            ),
            ("UPDATE s.t SET c = -1", None, Some("t_c_check")),
        ] {
            let e = error(&sql, statement).await?;
            ensure!(e.schema() == Some("s"), "{statement}: {e:?}");
            ensure!(e.table() == Some("t"), "{statement}: {e:?}");
            ensure!(e.column() == column, "{statement}: {e:?}");
            ensure!(e.constraint() == constraint, "{statement}: {e:?}");
        }
        let e = error(&sql, "SELECT 1 / 0").await?;
        ensure!(e.table().is_none() && e.constraint().is_none(), "{e:?}");

        // Drivers prepare a statement again when they are told this.
        let all = sql.client().prepare("SELECT * FROM s.t").await?;
        sql.run("ALTER TABLE s.t ADD COLUMN more int").await?;
        let e = sql
            .client()
            .query(&all, &[])
            .await
            .err()
            .context("it did not fail")?;
        let e = e.as_db_error().context("not the server's error")?;
        ensure!(e.routine() == Some("RevalidateCachedQuery"), "{e:?}");
        Ok(())
    });
}

#[test]
fn columns_say_where_they_come_from() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int, w int)")
            .await?;
        sql.run("CREATE VIEW v AS SELECT v AS first, id AS second FROM t")
            .await?;
        let oid = async |name: &str| -> Result<u32> {
            let oid = format!("SELECT oid FROM pg_class WHERE relname = '{name}'");
            Ok(sql.value(&oid).await?.parse()?)
        };
        let (t, u, v) = (oid("t").await?, oid("u").await?, oid("v").await?);
        let none = (None, None);
        let of = |table: u32, number: i16| (Some(table), Some(number));
        for (query, origins) in [
            (
                "SELECT v, id, id + 1 FROM t ORDER BY id LIMIT 1",
                vec![of(t, 2), of(t, 1), none],
            ),
            (
                "SELECT a.id, w AS x, count(*) FROM t a JOIN u USING (id) WHERE w > 0 GROUP BY a.id, w",
                vec![of(t, 1), of(u, 2), none],
            ),
            (
                "SELECT * FROM (SELECT DISTINCT v AS y FROM t) q",
                vec![of(t, 2)],
            ),
            // Of a view the view's, which is what can't be written to.
            ("SELECT second, first FROM v", vec![of(v, 2), of(v, 1)]),
            (
                "INSERT INTO t VALUES (1, 'a') RETURNING v, 1",
                vec![of(t, 2), none],
            ),
        ] {
            let statement = sql.client().prepare(query).await?;
            let told = statement.columns().iter();
            let told: Vec<_> = told.map(|c| (c.table_oid(), c.column_id())).collect();
            ensure!(told == origins, "{query}: {told:?}, wanted {origins:?}");
        }
        Ok(())
    });
}

#[test]
fn parameters_have_the_types_that_were_declared() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id int, a numeric(38, 18), s text)")
            .await?;
        let types = [Type::VARCHAR, Type::OID, Type::BPCHAR];
        let statement = sql
            .client()
            .prepare_typed(
                "SELECT id FROM t WHERE s = $1 AND id = $2 AND s = $3",
                &types,
            )
            .await?;
        ensure!(statement.params() == types, "{:?}", statement.params());

        // A numeric for one column has its digits, though others have ten.
        let exact = "54.234246451651234567";
        sql.run(&format!(
            "PREPARE p(int, numeric) AS INSERT INTO t VALUES ($1, $2); EXECUTE p(1, {exact})"
        ))
        .await?;
        sql.run(&format!(
            "PREPARE q(int, numeric) AS UPDATE t SET a = $2 WHERE id = $1; EXECUTE q(1, {exact})"
        ))
        .await?;
        ensure!(sql.value("SELECT a FROM t").await? == exact);
        Ok(())
    });
}
