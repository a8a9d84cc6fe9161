//! Messages of the client, decoded from exactly one frame each.
//!
//! Invariant: whatever bytes a frame holds, decoding ends in a message or in [`Malformed`]; it
//! never reads beyond its frame. (pgwire's own decoders do, and panic on short ones.)

use bytes::{Buf, Bytes};

/// A message of a connection that is past its startup.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// Simple query.
    Query(String),
    /// Prepare `sql` under a name; `types` are oids, 0: infer.
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    /// Make a portal of a prepared statement.
    Bind(Bind),
    /// Describe a statement or portal.
    Describe(Target),
    /// Run a portal; `max_rows` 0: all.
    Execute { portal: String, max_rows: u32 },
    /// Forget a statement or portal.
    Close(Target),
    /// Send what there is.
    Flush,
    /// End of an extended-query group.
    Sync,
    /// Good bye.
    Terminate,
    /// COPY data.
    CopyData(Bytes),
    /// End of COPY data.
    CopyDone,
    /// The client gives up its COPY.
    CopyFail(String),
    /// A frame that isn't what its type byte says.
    Invalid(u8, Malformed),
    /// A type byte that means nothing here.
    Unknown(u8),
}

/// What Describe and Close name.
#[derive(Debug, PartialEq)]
pub enum Target {
    /// A prepared statement.
    Statement(String),
    /// A portal.
    Portal(String),
}

/// Parameters and formats for a portal.
#[derive(Debug, PartialEq)]
pub struct Bind {
    /// Name of the portal; empty: unnamed.
    pub portal: String,
    /// Name of the statement; empty: unnamed.
    pub statement: String,
    /// Formats of the parameters: none (text), one for all, or one each.
    pub formats: Vec<i16>,
    /// Parameters; `None` is NULL.
    pub parameters: Vec<Option<Bytes>>,
    /// Formats of the result's columns, likewise.
    pub results: Vec<i16>,
}

/// What is wrong with a frame.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Lengths or counts don't fit.
    #[error("invalid message format")]
    Format,
    /// Text in another encoding.
    #[error("invalid byte sequence for encoding \"UTF8\"")]
    Encoding,
}

/// The message of a frame's type byte and body.
pub fn decode(kind: u8, body: Bytes) -> Message {
    decode_body(kind, body).unwrap_or_else(|error| Message::Invalid(kind, error))
}

fn decode_body(kind: u8, mut body: Bytes) -> Result<Message, Malformed> {
    let message = match kind {
        b'Q' => Message::Query(string(&mut body)?),
        b'P' => {
            let (name, sql) = (string(&mut body)?, string(&mut body)?);
            let types = array(&mut body, 4, Buf::get_u32)?;
            Message::Parse { name, sql, types }
        }
        b'B' => Message::Bind(bind(&mut body)?),
        b'D' => Message::Describe(target(&mut body)?),
        b'C' => Message::Close(target(&mut body)?),
        b'E' => {
            let portal = string(&mut body)?;
            need(&body, 4)?;
            // Zero and negative numbers mean no limit.
            let max_rows = u32::try_from(body.get_i32()).unwrap_or(0);
            Message::Execute { portal, max_rows }
        }
        b'H' => Message::Flush,
        b'S' => Message::Sync,
        b'X' => Message::Terminate,
        b'd' => return Ok(Message::CopyData(body)),
        b'c' => Message::CopyDone,
        b'f' => Message::CopyFail(string(&mut body)?),
        other => return Ok(Message::Unknown(other)),
    };
    match body.is_empty() {
        true => Ok(message),
        false => Err(Malformed::Format),
    }
}

fn bind(body: &mut Bytes) -> Result<Bind, Malformed> {
    let (portal, statement) = (string(body)?, string(body)?);
    let formats = array(body, 2, Buf::get_i16)?;
    need(body, 2)?;
    let count = usize::from(body.get_u16());
    need(body, count * 4)?;
    let mut parameters = Vec::with_capacity(count);
    for _ in 0..count {
        need(body, 4)?;
        parameters.push(match usize::try_from(body.get_i32()) {
            Err(_) => None,
            Ok(length) => {
                need(body, length)?;
                Some(body.split_to(length))
            }
        });
    }
    let results = array(body, 2, Buf::get_i16)?;
    Ok(Bind {
        portal,
        statement,
        formats,
        parameters,
        results,
    })
}

fn target(body: &mut Bytes) -> Result<Target, Malformed> {
    need(body, 1)?;
    match body.get_u8() {
        b'S' => Ok(Target::Statement(string(body)?)),
        b'P' => Ok(Target::Portal(string(body)?)),
        _ => Err(Malformed::Format),
    }
}

fn need(body: &Bytes, bytes: usize) -> Result<(), Malformed> {
    match body.len() >= bytes {
        true => Ok(()),
        false => Err(Malformed::Format),
    }
}

/// A counted array of numbers.
fn array<T>(
    body: &mut Bytes,
    width: usize,
    get: impl Fn(&mut Bytes) -> T,
) -> Result<Vec<T>, Malformed> {
    need(body, 2)?;
    let count = usize::from(body.get_u16());
    need(body, count * width)?;
    Ok((0..count).map(|_| get(body)).collect())
}

/// A string that ends with a zero byte.
fn string(body: &mut Bytes) -> Result<String, Malformed> {
    let end = body.iter().position(|b| *b == 0).ok_or(Malformed::Format)?;
    let text = body.split_to(end);
    body.advance(1);
    match text.is_empty() {
        true => Ok(String::new()),
        false => String::from_utf8(text.to_vec()).map_err(|_| Malformed::Encoding),
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn messages() {
        let decode = |kind, body: &'static [u8]| decode_body(kind, Bytes::from_static(body));
        assert_eq!(
            decode(b'Q', b"SELECT 1\0"),
            Ok(Message::Query("SELECT 1".into()))
        );
        assert_eq!(decode(b'Q', b"SELECT 1"), Err(Malformed::Format));
        assert_eq!(decode(b'Q', b"a\0b\0"), Err(Malformed::Format));
        assert_eq!(
            decode(b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17"),
            Ok(Message::Parse {
                name: "s".into(),
                sql: "SELECT $1".into(),
                types: vec![23]
            })
        );
        assert_eq!(
            decode(
                b'B',
                b"\0s\0\0\0\0\x02\xff\xff\xff\xff\0\0\0\x01a\0\x01\0\x01"
            ),
            Ok(Message::Bind(Bind {
                portal: String::new(),
                statement: "s".into(),
                formats: vec![],
                parameters: vec![None, Some(Bytes::from_static(b"a"))],
                results: vec![1],
            }))
        );
        assert_eq!(
            decode(b'E', b"\0\xff\xff\xff\xff"),
            Ok(Message::Execute {
                portal: String::new(),
                max_rows: 0
            })
        );
        assert_eq!(decode(b'D', b"Xa\0"), Err(Malformed::Format));
        assert_eq!(decode(b'?', b"junk"), Ok(Message::Unknown(b'?')));
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..100_000 {
            let kind = b"QPBDCEHSXdcf"[rng.random_range(0..12)];
            let length = rng.random_range(0..40);
            let body: Vec<u8> = (0..length)
                .map(|_| match rng.random_range(0..3) {
                    0 => 0,
                    1 => rng.random_range(1..8),
                    _ => rng.random(),
                })
                .collect();
            let _ = decode(kind, Bytes::from(body));
        }
    }
}
