//! The wire against real clients, psql and tokio-postgres, with a mock of the session.

mod mock;

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{SinkExt, StreamExt, TryStreamExt};
use mock::{Server, all_types};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_postgres::types::Type;
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// Longest wait for something that must happen.
const WAIT: Duration = Duration::from_secs(30);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT, work)
        .await
        .expect("it happens in time")
}

async fn until(mut happened: impl FnMut() -> bool) {
    within(async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn psql(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/psql");
    command
        .args([
            "-X",
            "-h",
            "127.0.0.1",
            "-p",
            &server.port.to_string(),
            "-U",
            "me",
            "-d",
            "tidemill",
        ])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn psql_output(server: &Server, args: &[&str]) -> (String, String) {
    let output = within(psql(server, args).output())
        .await
        .expect("psql runs");
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test]
async fn psql_sees_values_as_text() {
    let server = Server::start().await;
    let (out, err) = psql_output(&server, &["-At", "-F", "|", "-c", "types"]).await;
    let expected: Vec<&str> = all_types().iter().map(|(_, text)| *text).collect();
    assert_eq!(out.trim_end(), expected.join("|"), "{err}");
    let (out, _) = psql_output(&server, &["-At", "-c", "set zone; types"]).await;
    assert!(out.contains("|2024-02-29 17:30:00.25+05:30|"), "{out}");
    let (out, _) = psql_output(&server, &["-c", "rows 3"]).await;
    assert_eq!(out, " n \n---\n 1\n 2\n 3\n(3 rows)\n\n");
}

#[tokio::test]
async fn an_error_has_all_its_fields_and_stops_the_rest() {
    let server = Server::start().await;
    let (out, err) = psql_output(&server, &["-At", "-c", "rows 1; fail; rows 2"]).await;
    assert_eq!(out, "1\n");
    assert!(err.contains("ERROR:  division by zero"), "{err}");
    assert!(err.contains("DETAIL:  A detail."), "{err}");
    assert!(err.contains("HINT:  A hint."), "{err}");
    assert!(err.contains("LINE 1:"), "{err}");
    let (_, err) = psql_output(&server, &["-c", "notice"]).await;
    assert!(err.contains("NOTICE:  be aware"), "{err}");
    assert_eq!(
        server.shared.log.lock().as_slice(),
        [
            "query implicit=true",
            "query implicit=true",
            "sync",
            "query implicit=false",
            "sync"
        ]
    );
    let refused = format!("host=127.0.0.1 port={} user=me dbname=nope", server.port);
    let error = tokio_postgres::connect(&refused, NoTls)
        .await
        .err()
        .expect("no such database");
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code().code(), "3D000");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn transaction_status_and_recovery_after_errors() {
    let server = Server::start().await;
    let (out, _) = psql_output(
        &server,
        &[
            "-At",
            "-v",
            "PROMPT1=%x",
            "-c",
            "begin",
            "-c",
            "fail",
            "-c",
            "commit",
            "-c",
            "rows 1",
        ],
    )
    .await;
    assert_eq!(out, "BEGIN\nROLLBACK\n1\n");
    let client = server.connect().await;
    for _ in 0..3 {
        assert!(client.query("fail", &[]).await.is_err());
        assert_eq!(client.query("rows 2", &[]).await.expect("rows").len(), 2);
        assert!(client.batch_execute("syntax error").await.is_err());
    }
}

#[tokio::test]
async fn binary_results_and_parameters() {
    let server = Server::start().await;
    let client = server.connect().await;
    let row = client.query_one("types", &[]).await.expect("a row");
    assert!(row.get::<_, bool>(0));
    assert_eq!(row.get::<_, i16>(1), -7);
    assert_eq!(row.get::<_, i32>(2), 70_000);
    assert_eq!(row.get::<_, i64>(3), -7_000_000_000);
    assert_eq!(row.get::<_, f32>(4), 1.5);
    assert_eq!(row.get::<_, f64>(5), 1e20);
    assert_eq!(row.columns()[6].type_(), &Type::NUMERIC);
    assert_eq!(row.get::<_, &str>(7), "it's");
    assert_eq!(row.columns()[8].type_(), &Type::VARCHAR);
    assert_eq!(row.get::<_, &[u8]>(9), [0, 255]);
    assert_eq!(row.columns()[15].type_(), &Type::UUID);
    assert_eq!(
        row.get::<_, Vec<Option<String>>>(18),
        [Some("a".into()), None, Some("b c".into())]
    );

    let types = [
        Type::INT8,
        Type::TEXT,
        Type::FLOAT8,
        Type::BOOL,
        Type::INT4_ARRAY,
        Type::BYTEA,
    ];
    let statement = client
        .prepare_typed("echo", &types)
        .await
        .expect("prepares");
    let rows = client
        .query(
            &statement,
            &[
                &-5i64,
                &"x",
                &0.1f64,
                &None::<bool>,
                &vec![Some(1), None],
                &&b"\x01"[..],
            ],
        )
        .await
        .expect("echoes");
    let values: Vec<Option<&str>> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        values,
        [
            Some("-5"),
            Some("x"),
            Some("0.1"),
            None,
            Some("{1,NULL}"),
            Some("\\x01")
        ]
    );
}

#[tokio::test]
async fn portals_are_suspended_and_go_on() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.batch_execute("begin").await.expect("begins");
    client.batch_execute("commit").await.expect("commits");
    let transaction = client.transaction().await.expect("begins");
    let statement = transaction.prepare("rows 2500").await.expect("prepares");
    let portal = transaction.bind(&statement, &[]).await.expect("binds");
    let mut sizes = Vec::new();
    let mut last = 0;
    loop {
        let rows = transaction
            .query_portal(&portal, 1_000)
            .await
            .expect("fetches");
        sizes.push(rows.len());
        match rows.last() {
            Some(row) => last = row.get::<_, i64>(0),
            None => break,
        }
        if rows.len() < 1_000 {
            break;
        }
    }
    assert_eq!(sizes, [1_000, 1_000, 500]);
    assert_eq!(last, 2_500);
}

#[tokio::test]
async fn a_pipeline_is_one_group_only_without_a_sync_between() {
    let server = Server::start().await;
    let client = server.connect().await;
    let statement = client.prepare("insert").await.expect("prepares");
    server.shared.log.lock().clear();
    let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
    let (a, b) = tokio::join!(
        client.execute(&statement, &none),
        client.execute(&statement, &none)
    );
    a.and(b).expect("both run");
    assert_eq!(
        server.shared.log.lock().as_slice(),
        [
            "execute implicit=false",
            "sync",
            "execute implicit=false",
            "sync"
        ]
    );
}

#[tokio::test]
async fn many_rows_arrive_in_order() {
    let server = Server::start().await;
    let client = server.connect().await;
    let rows = client.query("rows 200000", &[]).await.expect("rows");
    let values: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert!(values.into_iter().eq(1..=200_000));
}

#[tokio::test]
async fn live_rows_arrive_one_by_one_in_every_form() {
    let server = Server::start().await;
    let client = server.connect().await;
    // Simple protocol.
    let (feed, receiver) = mpsc::unbounded_channel();
    *server.shared.live.lock() = Some(receiver);
    let mut rows = Box::pin(client.simple_query_raw("live").await.expect("starts"));
    for n in [1, 2] {
        feed.send(n).expect("the stream lives");
        let row = loop {
            match within(rows.next())
                .await
                .expect("no end yet")
                .expect("no error")
            {
                SimpleQueryMessage::Row(row) => break row,
                _ => continue,
            }
        };
        assert_eq!(row.get(0), Some(n.to_string().as_str()));
    }
    drop(feed);
    while within(rows.next()).await.is_some() {}
    // Extended protocol.
    let (feed, receiver) = mpsc::unbounded_channel();
    *server.shared.live.lock() = Some(receiver);
    let none: [i32; 0] = [];
    let mut rows = Box::pin(client.query_raw("live", none).await.expect("starts"));
    for n in [3, 4] {
        feed.send(n).expect("the stream lives");
        let row = within(rows.next())
            .await
            .expect("no end yet")
            .expect("no error");
        assert_eq!(row.get::<_, i64>(0), n);
    }
    drop(feed);
    assert!(within(rows.next()).await.is_none());
    // COPY, through psql.
    let (feed, receiver) = mpsc::unbounded_channel();
    *server.shared.live.lock() = Some(receiver);
    let mut child = Command::new("stdbuf")
        .args([
            "-oL",
            "/usr/bin/psql",
            "-X",
            "-h",
            "127.0.0.1",
            "-U",
            "me",
            "-d",
            "tidemill",
        ])
        .args(["-p", &server.port.to_string(), "-c", "copy live"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("psql runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    for n in [5, 6] {
        feed.send(n).expect("the stream lives");
        let line = within(lines.next_line())
            .await
            .expect("readable")
            .expect("no end yet");
        assert_eq!(line, n.to_string());
    }
    drop(feed);
    assert!(within(child.wait()).await.expect("psql ends").success());
    assert_eq!(server.shared.dropped.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn cancel_ends_slow_statements_and_live_streams() {
    let server = Server::start().await;
    let client = server.connect().await;
    let cancel = client.cancel_token();
    let slow = client.batch_execute("slow");
    let cancelled = async {
        until(|| server.shared.log.lock().contains(&"slow".to_string())).await;
        cancel.cancel_query(NoTls).await.expect("cancels");
    };
    let (result, ()) = within(async { tokio::join!(slow, cancelled) }).await;
    let error = result.expect_err("cancelled");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
    assert_eq!(
        error.as_db_error().map(|e| e.message()),
        Some("canceling statement due to user request")
    );
    assert_eq!(server.shared.dropped.load(Ordering::SeqCst), 1);

    let (feed, receiver) = mpsc::unbounded_channel();
    *server.shared.live.lock() = Some(receiver);
    let none: [i32; 0] = [];
    let mut rows = Box::pin(client.query_raw("live", none).await.expect("starts"));
    feed.send(1).expect("the stream lives");
    within(rows.next())
        .await
        .expect("no end yet")
        .expect("no error");
    cancel.cancel_query(NoTls).await.expect("cancels");
    let error = within(rows.next())
        .await
        .expect("an error")
        .expect_err("cancelled");
    assert_eq!(error.code().map(|code| code.code()), Some("57014"));
    assert!(feed.is_closed(), "the stream is dropped");
    // A cancel request for an idle connection means nothing for the next statement.
    cancel.cancel_query(NoTls).await.expect("cancels");
    assert_eq!(client.query("rows 1", &[]).await.expect("rows").len(), 1);
}

#[tokio::test]
async fn ctrl_c_in_psql_ends_a_copy() {
    let server = Server::start().await;
    let (feed, receiver) = mpsc::unbounded_channel();
    *server.shared.live.lock() = Some(receiver);
    let mut child = Command::new("stdbuf")
        .args([
            "-oL",
            "/usr/bin/psql",
            "-X",
            "-h",
            "127.0.0.1",
            "-U",
            "me",
            "-d",
            "tidemill",
        ])
        .args(["-p", &server.port.to_string(), "-c", "copy live"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("psql runs");
    feed.send(1).expect("the stream lives");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    within(lines.next_line())
        .await
        .expect("readable")
        .expect("a row");
    let pid = i32::try_from(child.id().expect("it runs")).expect("a process id");
    // SAFETY: the process is our child and still runs.
    unsafe { libc::kill(pid, libc::SIGINT) };
    let mut err = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    within(stderr.read_to_string(&mut err))
        .await
        .expect("readable");
    assert!(
        err.contains("canceling statement due to user request"),
        "{err}"
    );
    assert!(feed.is_closed());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_stream() {
    let server = Server::start().await;
    let (feed, receiver) = mpsc::unbounded_channel();
    *server.shared.live.lock() = Some(receiver);
    let (client, connection) = tokio_postgres::connect(&server.config(), NoTls)
        .await
        .expect("connects");
    let connection = tokio::spawn(connection);
    let mut rows = Box::pin(client.simple_query_raw("live").await.expect("starts"));
    feed.send(1).expect("the stream lives");
    within(rows.next())
        .await
        .expect("no end yet")
        .expect("no error");
    connection.abort();
    within(feed.closed()).await;
    assert_eq!(server.shared.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_stream_back() {
    let server = Server::start().await;
    let (feed, receiver) = mpsc::unbounded_channel();
    *server.shared.live.lock() = Some(receiver);
    let mut socket = greeted(&server).await;
    socket.write_all(b"Q\0\0\0\x09live\0").await.expect("sends");
    for n in 0..2_000_000 {
        feed.send(n).expect("the stream lives");
    }
    // Socket buffers fill up; the server must wait, not collect.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!feed.is_closed());
    drop(socket);
    within(feed.closed()).await;
}

/// A raw connection, after its first ReadyForQuery.
async fn greeted(server: &Server) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .expect("connects");
    let body = b"\0\x03\0\0user\0me\0database\0tidemill\0\0";
    let length = (body.len() as u32 + 4).to_be_bytes();
    socket
        .write_all(&[&length[..], body].concat())
        .await
        .expect("sends");
    let mut seen = Vec::new();
    let mut byte = [0u8; 1];
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        within(socket.read_exact(&mut byte))
            .await
            .expect("a greeting");
        seen.push(byte[0]);
    }
    socket
}

#[tokio::test]
async fn copy_out_and_in() {
    let server = Server::start().await;
    let client = server.connect().await;
    let copied = |statement: &'static str| {
        let client = &client;
        async move {
            let stream = client.copy_out(statement).await.expect("starts");
            let chunks: Vec<bytes::Bytes> = stream.try_collect().await.expect("no error");
            chunks.concat()
        }
    };
    let text = String::from_utf8(copied("copy out").await).expect("text");
    assert!(text.starts_with("t\t-7\t70000\t"), "{text}");
    assert!(text.contains("\t\\\\x00ff\t"), "{text}");
    let csv = String::from_utf8(copied("copy out csv").await).expect("text");
    assert!(csv.starts_with("c0,c1,"), "{csv}");
    assert!(csv.contains("\"{\"\"a\"\":1}\""), "{csv}");
    let binary = copied("copy out binary").await;
    assert!(binary.starts_with(b"PGCOPY\n\xff\r\n\0"));
    assert!(binary.ends_with(&[0xff, 0xff]));

    let sink = client.copy_in("copy in").await.expect("starts");
    let mut sink = Box::pin(sink);
    sink.send(bytes::Bytes::from_static(b"1\n2\n3"))
        .await
        .expect("sends");
    sink.send(bytes::Bytes::from_static(b"\n"))
        .await
        .expect("sends");
    assert_eq!(sink.as_mut().finish().await.expect("copies"), 3);
    assert_eq!(server.shared.copied.lock().as_slice(), b"1\n2\n3\n");

    let mut sink = Box::pin(client.copy_in("copy in").await.expect("starts"));
    sink.send(bytes::Bytes::from_static(b"bad\n"))
        .await
        .expect("sends");
    assert!(sink.as_mut().finish().await.is_err());
    assert_eq!(
        server.shared.copy_failure.lock().as_deref(),
        Some("bad row")
    );
    assert_eq!(client.query("rows 1", &[]).await.expect("rows").len(), 1);

    // psql, simple protocol; the client gives up in the second.
    let mut child = psql(&server, &["-c", "copy in"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("psql runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"7\n8\n").await.expect("writes");
    drop(stdin);
    let output = within(child.wait_with_output()).await.expect("psql ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "COPY 5\n");
}

#[tokio::test]
async fn a_panic_hurts_only_its_own_connection() {
    let server = Server::start().await;
    let (other, broken) = (server.connect().await, server.connect().await);
    let error = broken.batch_execute("panic").await.expect_err("panics");
    assert_eq!(error.code().map(|code| code.code()), Some("XX000"));
    until(|| broken.is_closed()).await;
    assert_eq!(other.query("rows 1", &[]).await.expect("rows").len(), 1);
    assert_eq!(
        server
            .connect()
            .await
            .query("rows 1", &[])
            .await
            .expect("rows")
            .len(),
        1
    );
}

#[tokio::test]
async fn malformed_messages_are_refused() {
    let server = Server::start().await;
    // A Query that isn't UTF-8, and a Bind whose counts lie: errors, and the connection goes on.
    let mut socket = greeted(&server).await;
    socket
        .write_all(b"Q\0\0\0\x07\xff\xfe\0")
        .await
        .expect("sends");
    let answer = ready(&mut socket).await;
    assert!(answer.contains("C22021"), "{answer}");
    socket
        .write_all(b"B\0\0\0\x0a\0\0\x7f\xff\0\0S\0\0\0\x04")
        .await
        .expect("sends");
    let answer = ready(&mut socket).await;
    assert!(answer.contains("C08P01"), "{answer}");
    // A length that can't be: the connection ends.
    socket.write_all(b"Q\xff\xff\xff\xff").await.expect("sends");
    let mut rest = Vec::new();
    within(socket.read_to_end(&mut rest))
        .await
        .expect("the server closes");
    assert!(String::from_utf8_lossy(&rest).contains("C08P01"));
    // Not a startup packet.
    let mut socket = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .expect("connects");
    socket
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sends");
    let mut rest = Vec::new();
    let _ = within(socket.read_to_end(&mut rest)).await;
    assert_eq!(
        server
            .connect()
            .await
            .query("rows 1", &[])
            .await
            .expect("rows")
            .len(),
        1
    );
}

/// Everything up to the next ReadyForQuery.
async fn ready(socket: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    let mut byte = [0u8; 1];
    while !seen.ends_with(b"Z\0\0\0\x05I") {
        within(socket.read_exact(&mut byte))
            .await
            .expect("an answer");
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn shutdown_tells_idle_and_busy_clients() {
    let server = Server::start().await;
    let idle = server.connect().await;
    let busy = server.connect().await;
    let slow = tokio::spawn(async move { busy.batch_execute("slow").await });
    until(|| server.shared.log.lock().contains(&"slow".to_string())).await;
    server.stop.send(true).expect("the server listens");
    let error = within(slow).await.expect("no panic").expect_err("ended");
    assert_eq!(error.code().map(|code| code.code()), Some("57P01"));
    within(server.task)
        .await
        .expect("no panic")
        .expect("no error");
    until(|| idle.is_closed()).await;
    assert_eq!(server.shared.dropped.load(Ordering::SeqCst), 1);
}
