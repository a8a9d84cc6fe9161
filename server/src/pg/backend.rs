//! Messages of the server. pgwire encodes all but rows and their description, which are written
//! straight from Arrow.
//!
//! Invariant: text that came from users holds no zero byte when it is sent.

use arrow::datatypes::Schema;
use bytes::{BufMut, BytesMut};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyDone, CopyInResponse, CopyOutResponse};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery,
    TransactionStatus as WireStatus,
};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};
use tidemill_planner::SqlError;
use tidemill_planner::origins::origin_of;

use super::types::wire_type;
use super::wire::Wire;
use crate::session::{Notice, TransactionStatus};

/// The protocol version that the server speaks: 3.0.
const PROTOCOL_3_0: i32 = 3 << 16;
/// Columns that one row can have; the protocol's count is an `i16`.
pub const COLUMNS_MAX: usize = i16::MAX as usize;

impl Wire {
    fn send(&mut self, message: PgWireBackendMessage) -> Result<(), SqlError> {
        self.put(|out| message.encode(out))
            .map_err(|error| SqlError::new("54000", error.to_string()))
    }

    /// AuthenticationOk.
    pub fn authentication_ok(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::Authentication(Authentication::Ok))
    }

    /// The client asked for a newer minor version or for options `_pq_.*` that aren't known.
    pub fn negotiate_version(&mut self, options: Vec<String>) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::NegotiateProtocolVersion(
            NegotiateProtocolVersion::new(PROTOCOL_3_0, options),
        ))
    }

    /// What a CancelRequest must bring.
    pub fn backend_key(&mut self, pid: i32, secret: i32) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::BackendKeyData(BackendKeyData::new(
            pid,
            SecretKey::I32(secret),
        )))
    }

    /// A run-time parameter's value.
    pub fn parameter(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::ParameterStatus(ParameterStatus::new(
            clean(name),
            clean(value),
        )))
    }

    /// The server waits for a statement.
    pub fn ready(&mut self, status: TransactionStatus) -> Result<(), SqlError> {
        let status = match status {
            TransactionStatus::Idle => WireStatus::Idle,
            TransactionStatus::Open => WireStatus::Transaction,
            TransactionStatus::Failed => WireStatus::Error,
        };
        self.send(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(
            status,
        )))
    }

    /// A statement is done.
    pub fn complete(&mut self, tag: String) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::CommandComplete(CommandComplete::new(
            tag,
        )))
    }

    /// The statement was empty.
    pub fn empty_query(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::EmptyQueryResponse(
            EmptyQueryResponse::new(),
        ))
    }

    /// Parse is done.
    pub fn parse_complete(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::ParseComplete(ParseComplete::new()))
    }

    /// Bind is done.
    pub fn bind_complete(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::BindComplete(BindComplete::new()))
    }

    /// Close is done.
    pub fn close_complete(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::CloseComplete(CloseComplete::new()))
    }

    /// The row limit of Execute is reached.
    pub fn portal_suspended(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::PortalSuspended(PortalSuspended::new()))
    }

    /// The statement gives no rows.
    pub fn no_data(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::NoData(NoData::new()))
    }

    /// Oids of a statement's parameters.
    pub fn parameter_description(&mut self, oids: Vec<u32>) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::ParameterDescription(
            ParameterDescription::new(oids),
        ))
    }

    /// COPY data follow.
    pub fn copy_out(&mut self, columns: usize, binary: bool) -> Result<(), SqlError> {
        let format = i16::from(binary);
        self.send(PgWireBackendMessage::CopyOutResponse(CopyOutResponse::new(
            format as i8,
            columns as i16,
            vec![format; columns],
        )))
    }

    /// COPY data are expected.
    pub fn copy_in(&mut self, columns: usize, binary: bool) -> Result<(), SqlError> {
        let format = i16::from(binary);
        self.send(PgWireBackendMessage::CopyInResponse(CopyInResponse::new(
            format as i8,
            columns as i16,
            vec![format; columns],
        )))
    }

    /// No more COPY data.
    pub fn copy_done(&mut self) -> Result<(), SqlError> {
        self.send(PgWireBackendMessage::CopyDone(CopyDone::new()))
    }

    /// An error, `ERROR` or `FATAL`, with all that is known of it.
    pub fn error(&mut self, severity: &str, error: &SqlError) -> Result<(), SqlError> {
        let mut fields = fields(severity, error.sqlstate, &error.message);
        if let Some(detail) = &error.detail {
            fields.push((b'D', clean(detail)));
        }
        if let Some(hint) = &error.hint {
            fields.push((b'H', clean(hint)));
        }
        if let Some(position) = error.position {
            fields.push((b'P', position.to_string()));
        }
        if let Some(about) = &error.about {
            let named = [
                (b's', &about.schema),
                (b't', &about.table),
                (b'c', &about.column),
                (b'n', &about.constraint),
                (b'R', &about.routine.map(String::from)),
            ];
            let known = named
                .into_iter()
                .filter_map(|(f, v)| Some((f, v.as_ref()?)));
            fields.extend(known.map(|(f, v)| (f, clean(v))));
        }
        self.send(PgWireBackendMessage::ErrorResponse(ErrorResponse::new(
            fields,
        )))
    }

    /// A notice.
    pub fn notice(&mut self, notice: &Notice) -> Result<(), SqlError> {
        let mut fields = fields(notice.severity, notice.sqlstate, &notice.message);
        if let Some(hint) = &notice.hint {
            fields.push((b'H', clean(hint)));
        }
        self.send(PgWireBackendMessage::NoticeResponse(NoticeResponse::new(
            fields,
        )))
    }
}

fn fields(severity: &str, sqlstate: &str, message: &str) -> Vec<(u8, String)> {
    vec![
        (b'S', severity.to_string()),
        (b'V', severity.to_string()),
        (b'C', sqlstate.to_string()),
        (b'M', clean(message)),
    ]
}

/// Zero bytes end strings on the wire.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// RowDescription. `formats` as in Bind.
pub fn row_description(
    schema: &Schema,
    formats: &[i16],
    out: &mut BytesMut,
) -> Result<(), SqlError> {
    let count = schema.fields().len();
    if count > COLUMNS_MAX {
        return Err(SqlError::new(
            "54011",
            format!("a result can have at most {COLUMNS_MAX} columns"),
        ));
    }
    let start = out.len();
    out.put_u8(b'T');
    out.put_i32(0);
    out.put_i16(count as i16);
    for (number, field) in schema.fields().iter().enumerate() {
        out.put_slice(clean(field.name()).as_bytes());
        out.put_u8(0);
        let origin = origin_of(field);
        out.put_u32(origin.map_or(0, |o| o.oid));
        out.put_i16(origin.map_or(0, |o| o.number));
        let wire = wire_type(field);
        out.put_u32(wire.oid);
        out.put_i16(wire.size);
        out.put_i32(wire.modifier);
        out.put_i16(i16::from(is_binary(formats, number)));
    }
    let length = (out.len() - start - 1) as i32;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// The format of a column or parameter: none given: text; one: for all.
pub fn is_binary(formats: &[i16], number: usize) -> bool {
    match formats {
        [] => false,
        [all] => *all == 1,
        each => each.get(number) == Some(&1),
    }
}
