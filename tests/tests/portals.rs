//! Portals and cursors, and prepared statements whose tables change.

use anyhow::{Context, Result, ensure};
use tidemill_tests::{Options, Scratch, Server, raw, run};
use tokio_postgres::{Client, Error, NoTls};

async fn client(server: &Server) -> Result<Client> {
    let config = format!("host=127.0.0.1 port={} user=tidemill", server.port());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn code<T>(result: Result<T, Error>) -> Result<String> {
    let error = result.err().context("it fails")?;
    let code = error.code().context("an error of the server")?;
    Ok(code.code().to_string())
}

#[test]
fn a_portal_ends_with_its_transaction_or_savepoint() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let mut client = client(&server).await?;
        client.batch_execute("CREATE TABLE a (x int)").await?;
        let numbers = client
            .prepare("SELECT g FROM generate_series(1, 4) AS g")
            .await?;
        let insert = "INSERT INTO a SELECT g FROM generate_series(1, 3) AS g RETURNING x";
        let insert = client.prepare(insert).await?;

        let transaction = client.transaction().await?;
        let before = transaction.bind(&numbers, &[]).await?;
        ensure!(transaction.query_portal(&before, 1).await?.len() == 1);
        transaction.batch_execute("SAVEPOINT s").await?;
        let after = transaction.bind(&insert, &[]).await?;
        ensure!(transaction.query_portal(&after, 1).await?.len() == 1);
        transaction.batch_execute("ROLLBACK TO s").await?;
        ensure!(code(transaction.query_portal(&after, 0).await)? == "34000");
        transaction.batch_execute("ROLLBACK TO s").await?;
        ensure!(transaction.query_portal(&before, 0).await?.len() == 3);
        let open = transaction.bind(&numbers, &[]).await?;
        ensure!(transaction.query_portal(&open, 1).await?.len() == 1);
        ensure!(code(transaction.batch_execute("SELECT 1 / 0").await)? == "22012");
        ensure!(code(transaction.query_portal(&open, 0).await)? == "25P02");
        transaction.batch_execute("ROLLBACK TO s").await?;
        ensure!(code(transaction.query_portal(&open, 0).await)? == "34000");
        transaction.batch_execute("ROLLBACK TO s").await?;
        // One that ends and begins within a string of statements is another one.
        let open = transaction.bind(&numbers, &[]).await?;
        transaction.batch_execute("COMMIT; BEGIN").await?;
        ensure!(code(transaction.query_portal(&open, 0).await)? == "34000");
        transaction.rollback().await?;
        ensure!(client.query("SELECT x FROM a", &[]).await?.is_empty());
        Ok(())
    });
}

#[test]
fn rows_of_other_columns_are_refused() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let client = client(&server).await?;
        let create = "CREATE TABLE sw (lo int, hi int); INSERT INTO sw VALUES (1, 100)";
        client.batch_execute(create).await?;
        let select = client.prepare("SELECT * FROM sw").await?;
        let insert = "INSERT INTO sw VALUES (2, 200) RETURNING *";
        let insert = client.prepare(insert).await?;
        ensure!(client.query(&select, &[]).await?.len() == 1);
        let swap = "ALTER TABLE sw RENAME lo TO t; ALTER TABLE sw RENAME hi TO lo; ALTER TABLE sw RENAME t TO hi";
        client.batch_execute(swap).await?;
        ensure!(code(client.query(&select, &[]).await)? == "0A000");
        ensure!(code(client.query(&insert, &[]).await)? == "0A000");
        let rows = client.query("SELECT lo, hi FROM sw", &[]).await?;
        ensure!(rows.len() == 1 && rows[0].get::<_, i32>("lo") == 100);
        Ok(())
    });
}

#[test]
fn what_fails_forgets_no_statement() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let client = client(&server).await?;
        let statement = client.prepare("SELECT 7").await?;
        let names =
            "SELECT 'DEALLOCATE ALL' UNION SELECT 'DISCARD ALL' UNION SELECT 'DEALLOCATE s0'";
        for row in client.query(names, &[]).await? {
            let forgets: &str = row.get(0);
            client.batch_execute("BEGIN").await?;
            ensure!(code(client.batch_execute("SELECT 1 / 0").await)? == "22012");
            ensure!(
                code(client.batch_execute(forgets).await)? == "25P02",
                "{forgets}"
            );
            client.batch_execute("ROLLBACK").await?;
            ensure!(client.query(&statement, &[]).await?.len() == 1, "{forgets}");
        }
        client.batch_execute("BEGIN").await?;
        ensure!(code(client.batch_execute("DISCARD ALL").await)? == "25001");
        client.batch_execute("ROLLBACK").await?;
        ensure!(client.query(&statement, &[]).await?.len() == 1);
        client.batch_execute("DISCARD ALL").await?;
        ensure!(code(client.query(&statement, &[]).await)? == "26000");
        Ok(())
    });
}

#[test]
fn a_fetch_that_is_taken_bit_by_bit_has_moved_the_cursor() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let mut client = client(&server).await?;
        let transaction = client.transaction().await?;
        let declare = "DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 30000) AS g";
        transaction.batch_execute(declare).await?;
        let all = transaction.prepare("FETCH ALL FROM c").await?;
        let all = transaction.bind(&all, &[]).await?;
        ensure!(transaction.query_portal(&all, 2).await?.len() == 2);
        let next = transaction.prepare("FETCH 2 FROM c").await?;
        ensure!(transaction.query(&next, &[]).await?.is_empty());
        let rest = transaction.query_portal(&all, 0).await?;
        ensure!(rest.len() == 29_998 && rest[0].get::<_, i32>(0) == 3);
        transaction.rollback().await?;
        Ok(())
    });
}

#[test]
fn a_cursor_that_takes_the_name_of_another_ends_with_its_savepoint() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("BEGIN; DECLARE c CURSOR FOR SELECT 1; DECLARE d CURSOR FOR SELECT 3; SAVEPOINT s; CLOSE c; DECLARE c CURSOR FOR SELECT 2; ROLLBACK TO s")
            .await?;
        ensure!(sql.lines("FETCH d").await? == ["3"]);
        sql.fails("34000", "FETCH c").await?;
        sql.run("ROLLBACK").await
    });
}

/// A change whose RETURNING is read with a limit of rows, as by asyncpg's `fetchval`, is a statement by itself like any other: what it conflicts with is
/// the server's to try again.
#[test]
fn changes_with_a_row_limit_are_tried_again() {
    fn work(port: u16) -> Result<()> {
        let mut stream = raw::startup(port)?;
        for _ in 0..40 {
            let sql = "INSERT INTO c VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = c.n + 1 RETURNING n";
            raw::message(&mut stream, b'P', format!("\0{sql}\0\0\0").as_bytes())?;
            raw::message(&mut stream, b'B', &[0; 8])?;
            // One row at most.
            raw::message(&mut stream, b'E', &[0, 0, 0, 0, 1])?;
            raw::message(&mut stream, b'S', &[])?;
            loop {
                match raw::answer(&mut stream)? {
                    (b'E', error) => anyhow::bail!("{}", String::from_utf8_lossy(&error)),
                    (b'Z', _) => break,
                    _ => {}
                }
            }
        }
        Ok(())
    }
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let client = client(&server).await?;
        client
            .batch_execute("CREATE TABLE c (id int PRIMARY KEY, n int)")
            .await?;
        let port = server.port();
        let workers: Vec<_> = (0..4)
            .map(|_| tokio::task::spawn_blocking(move || work(port)))
            .collect();
        for worker in workers {
            worker.await??;
        }
        let n: i32 = client.query_one("SELECT n FROM c", &[]).await?.get(0);
        ensure!(n == 160, "{n} of 160");
        Ok(())
    });
}
