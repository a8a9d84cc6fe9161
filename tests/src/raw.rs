//! The wire protocol by hand: messages in pieces, and clients that don't read.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Result, bail};

/// A connection to a server on this machine.
pub fn startup(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let body = b"\0\x03\0\0user\0tidemill\0database\0tidemill\0\0";
    stream.write_all(&(body.len() as u32 + 4).to_be_bytes())?;
    stream.write_all(body)?;
    loop {
        match answer(&mut stream)? {
            (b'Z', _) => return Ok(stream),
            (b'E', body) => bail!("refused: {}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
}

/// Sends a message, whose texts end with a zero each.
pub fn message(stream: &mut TcpStream, kind: u8, body: &[u8]) -> Result<()> {
    let mut whole = vec![kind];
    whole.extend((body.len() as u32 + 4).to_be_bytes());
    whole.extend(body);
    stream.write_all(&whole)?;
    Ok(())
}

/// The next message: its kind and what is in it.
pub fn answer(stream: &mut TcpStream) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body)?;
    Ok((head[0], body))
}
