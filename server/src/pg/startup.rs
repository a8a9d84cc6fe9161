//! The first packets of a connection: encryption is declined, cancel requests are carried out, and
//! a session is opened.
//!
//! Invariant: nothing is allocated for a client before its startup packet is whole, and that is
//! bounded in size and time.

use std::time::Duration;

use bytes::BufMut;
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::startup::{GssEncRequest, SslRequest, Startup};
use pgwire::messages::{DecodeContext, Message as _, ProtocolVersion};
use tidemill_planner::SqlError;

use super::wire::{Stop, Wire};
use crate::session::backends::{Backend, Backends};
use crate::session::{Session, SessionFactory};

/// Longest startup packet, in bytes.
const STARTUP_BYTES_MAX: usize = 10_000;
/// How long a client may take for it.
pub const STARTUP_WAIT: Duration = Duration::from_secs(60);
/// What `server_version` says: clients look at the number only.
pub const SERVER_VERSION: &str = "15.12 (Tidemill)";

/// What a startup packet asks for.
pub struct Request {
    user: String,
    database: String,
    parameters: Vec<(String, String)>,
    /// The reply to a newer minor version or to protocol options.
    negotiate: Option<Vec<String>>,
}

/// Reads up to the startup packet. `None`: it was a cancel request, now done.
pub async fn request(wire: &mut Wire, backends: &Backends) -> Result<Option<Request>, Stop> {
    let context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
    loop {
        let mut frame = wire.startup_frame(STARTUP_BYTES_MAX).await?;
        if SslRequest::is_ssl_request_packet(&frame)
            || GssEncRequest::is_gss_enc_request_packet(&frame)
        {
            wire.decline().await?;
        } else if CancelRequest::is_cancel_request_packet(&frame) {
            if let Ok(Some(cancel)) = CancelRequest::decode(&mut frame, &context)
                && let Some(secret) = cancel.secret_key.as_i32()
            {
                backends.cancel_request(cancel.pid, secret);
            }
            return Ok(None);
        } else {
            return match Startup::decode(&mut frame, &context) {
                Ok(Some(startup)) => asked(startup).map(Some),
                _ => Err(Stop::Fatal(SqlError::unsupported(
                    "unsupported frontend protocol: the server speaks 3.0",
                ))),
            };
        }
    }
}

fn asked(startup: Startup) -> Result<Request, Stop> {
    let (mut options, mut parameters) = (Vec::new(), Vec::new());
    let (mut user, mut database) = (String::new(), String::new());
    for (name, value) in startup.parameters {
        match name.as_str() {
            "user" => user = value,
            "database" => database = value,
            "options" => parameters.extend(switches(&value)),
            name if name.starts_with("_pq_.") => options.push(name.to_string()),
            _ => parameters.push((name, value)),
        }
    }
    if user.is_empty() {
        return Err(Stop::Fatal(SqlError::new(
            "28000",
            "no PostgreSQL user name specified in startup packet",
        )));
    }
    if database.is_empty() {
        database.clone_from(&user);
    }
    let negotiate = (startup.protocol_number_minor > 0 || !options.is_empty()).then_some(options);
    Ok(Request {
        user,
        database,
        parameters,
        negotiate,
    })
}

/// `-c name=value --name=value` of the `options` parameter.
fn switches(options: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut words = options.split_whitespace();
    while let Some(word) = words.next() {
        let setting = match word {
            "-c" => words.next(),
            _ => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")),
        };
        if let Some((name, value)) = setting.and_then(|s| s.split_once('=')) {
            found.push((name.replace('-', "_"), value.to_string()));
        }
    }
    found
}

/// Opens the session and greets the client, all but ReadyForQuery.
pub async fn open(
    wire: &mut Wire,
    request: Request,
    factory: &dyn SessionFactory,
    backend: &Backend,
) -> Result<Box<dyn Session>, Stop> {
    let parameters = request.parameters;
    let application = parameters
        .iter()
        .find(|(name, _)| name == "application_name")
        .map_or_else(String::new, |(_, value)| value.clone());
    backend.greeted(&request.user, wire.peer());
    backend.renamed(&application);
    if let Some(options) = request.negotiate {
        wire.negotiate_version(options)?;
    }
    let mut session = factory
        .open(&request.user, &request.database, parameters, backend)
        .await
        .map_err(Stop::Fatal)?;
    wire.authentication_ok()?;
    for (name, value) in [
        ("application_name", application.as_str()),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "on"),
        ("server_encoding", "UTF8"),
        ("server_version", SERVER_VERSION),
        ("session_authorization", request.user.as_str()),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ] {
        wire.parameter(name, value)?;
    }
    for notice in session.take_notices() {
        wire.notice(&notice)?;
    }
    wire.backend_key(backend.pid, backend.secret)?;
    Ok(session)
}

impl Wire {
    /// `N`: no encryption here.
    async fn decline(&mut self) -> Result<(), Stop> {
        self.put(|out| {
            out.put_u8(b'N');
            Ok::<(), SqlError>(())
        })?;
        self.flush_unless(std::future::pending()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parameters() {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        assert_eq!(
            switches("-c search_path=a --statement-timeout=5 -cTimeZone=UTC junk"),
            [
                pair("search_path", "a"),
                pair("statement_timeout", "5"),
                pair("TimeZone", "UTC")
            ]
        );
    }
}
