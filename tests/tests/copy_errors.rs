//! What COPY refuses, with PostgreSQL's SQLSTATEs and messages.

use anyhow::{Result, ensure};
use futures::SinkExt;
use tidemill_tests::client::SqlFailure;
use tidemill_tests::{Options, Server, Sql, run};

async fn copy(sql: &Sql, statement: &str, data: &'static [u8]) -> Result<u64, SqlFailure> {
    let sink = sql.client().copy_in(statement).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes::Bytes::from_static(data)).await?;
    Ok(sink.finish().await?)
}

#[test]
fn bad_values_and_options() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id bigint PRIMARY KEY, text text, n numeric(10, 2), d date)")
            .await?;
        let cases: [(&str, &[u8], &str, &str); 12] = [
            (
                "",
                b"1\ta\0b\t1\t2020-01-01\n",
                "22021",
                "invalid byte sequence for encoding \"UTF8\": 0x00",
            ),
            (
                "",
                b"1\ta\\000b\t1\t2020-01-01\n",
                "22021",
                "invalid byte sequence for encoding \"UTF8\": 0x00",
            ),
            (
                "",
                b"1\t\xff\t1\t2020-01-01\n",
                "22021",
                "invalid byte sequence for encoding \"UTF8\": 0xff",
            ),
            (
                "",
                b"1\ta\t123456789012\t2020-01-01\n",
                "22003",
                "numeric field overflow",
            ),
            (
                "",
                b"1\ta\t1\t2020-13-01\n",
                "22008",
                "date/time field value out of range: \"2020-13-01\"",
            ),
            (
                "(id, id)",
                b"1\t1\n",
                "42701",
                "column \"id\" specified more than once",
            ),
            (
                "WITH (delimiter 'a')",
                b"",
                "22023",
                "COPY delimiter cannot be \"a\"",
            ),
            (
                "WITH (delimiter '\\')",
                b"",
                "22023",
                "COPY delimiter cannot be \"\\\"",
            ),
            (
                "WITH (delimiter E'\\n')",
                b"",
                "22023",
                "COPY delimiter cannot be newline or carriage return",
            ),
            (
                "WITH (null E'\\n')",
                b"",
                "22023",
                "COPY null representation cannot use newline or carriage return",
            ),
            (
                "WITH (format csv, delimiter '\"')",
                b"",
                "22023",
                "COPY delimiter and quote must be different",
            ),
            (
                "DELIMITER '|' NULL 'a|'",
                b"",
                "0A000",
                "COPY delimiter must not appear in the NULL specification",
            ),
        ];
        for (rest, data, sqlstate, message) in cases {
            let statement = match rest.strip_prefix('(') {
                Some(_) => format!("COPY t {rest} FROM STDIN"),
                None => format!("COPY t FROM STDIN {rest}"),
            };
            // A session each: the driver loses step after a COPY that is refused.
            let failure = copy(&sql.another().await?, &statement, data).await;
            let failure = failure.expect_err(&statement);
            ensure!(
                failure.sqlstate == sqlstate,
                "{statement} {data:?}: {failure}"
            );
            ensure!(
                failure.message.starts_with(message),
                "{statement} {data:?}: {failure}"
            );
        }
        ensure!(sql.number("SELECT count(*) FROM t").await? == 0);
        ensure!(copy(&sql, "COPY t FROM STDIN", b"1\ta\t1\t2020-01-01\n").await? == 1);
        Ok(())
    });
}
