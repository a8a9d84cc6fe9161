//! The bytes of a file, unpacked.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::entry::Packing;

/// Compressed bytes read at a time.
const PACKED_STEP_BYTES: usize = 128 << 10;
/// Bytes thrown away at a time to reach an offset in a packed file.
const SKIP_STEP_BYTES: usize = 256 << 10;

/// How a read ended.
#[derive(Debug)]
pub enum Ending {
    /// The buffer is full.
    More,
    /// There is nothing more.
    End,
    /// The packed data is damaged or cut.
    Damaged(String),
}

/// A file being read from some offset.
pub struct Input {
    reader: Box<dyn Read + Send>,
}

impl Input {
    /// Opens `file` at `offset` (of the unpacked bytes), to be read up to `limit`. Of a packed file only the first `size` bytes are looked at:
    /// what comes behind them meanwhile belongs to another read.
    pub fn open(
        mut file: File,
        packing: Packing,
        offset: u64,
        limit: u64,
        size: u64,
    ) -> io::Result<Input> {
        let packed = |file: File| io::BufReader::with_capacity(PACKED_STEP_BYTES, file.take(size));
        let reader: Box<dyn Read + Send> = match packing {
            Packing::Plain => {
                file.seek(SeekFrom::Start(offset))?;
                Box::new(file.take(limit.saturating_sub(offset)))
            }
            Packing::Gzip => {
                file.seek(SeekFrom::Start(0))?;
                Box::new(MultiGzDecoder::new(packed(file)).take(limit))
            }
            Packing::Zstd => {
                file.seek(SeekFrom::Start(0))?;
                let decoder = zstd::Decoder::with_buffer(packed(file))?;
                Box::new(decoder.take(limit))
            }
        };
        let mut input = Input { reader };
        if packing != Packing::Plain {
            let mut left = offset;
            let mut sink = vec![0; SKIP_STEP_BYTES.min(offset as usize)];
            while left > 0 {
                let step = sink.len().min(left as usize);
                let (n, ending) = input.fill(&mut sink[..step])?;
                left -= n as u64;
                if n == 0 || matches!(ending, Ending::Damaged(_)) {
                    break;
                }
            }
        }
        Ok(input)
    }

    /// Reads until `buffer` is full or the input ends. An `Err` is the environment's.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Ending)> {
        let mut have = 0;
        while have < buffer.len() {
            match self.reader.read(&mut buffer[have..]) {
                Ok(0) => return Ok((have, Ending::End)),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => match damage(&e) {
                    Some(what) => return Ok((have, Ending::Damaged(what))),
                    None => return Err(e),
                },
            }
        }
        Ok((have, Ending::More))
    }
}

/// What an unpacker complains about, as far as the data is to blame.
fn damage(e: &io::Error) -> Option<String> {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            Some("unexpected end of compressed data: the file is cut".into())
        }
        // zstd's own errors are of kind Other; those of the system have a number.
        _ if e.raw_os_error().is_none() => Some(format!("damaged compressed data: {e}")),
        _ => None,
    }
}

/// The first line of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstLine {
    /// All its bytes with a byte-order mark and the line end.
    Line(Vec<u8>),
    /// There is no line end yet.
    Incomplete,
    /// None within the limit; its beginning.
    TooLong(Vec<u8>),
    /// The packing is damaged or cut before it.
    Damaged(String),
}

/// Bytes read first to find the first line.
const FIRST_LINE_STEP_BYTES: usize = 4096;

/// The first line of the file at `path`, which is at most `bytes_max` long. `last`: the file ends where it ends now.
pub fn first_line(
    file: File,
    packing: Packing,
    bytes_max: usize,
    last: bool,
) -> io::Result<FirstLine> {
    let mut input = Input::open(file, packing, 0, u64::MAX, u64::MAX)?;
    let mut line = Vec::new();
    loop {
        let from = line.len();
        let step = from.max(FIRST_LINE_STEP_BYTES);
        line.resize(from + step, 0);
        let (n, ending) = input.fill(&mut line[from..])?;
        line.truncate(from + n);
        if let Some(end) = memchr::memchr(b'\n', &line[from..]) {
            line.truncate(from + end + 1);
            return Ok(FirstLine::Line(line));
        }
        if line.len() > bytes_max {
            return Ok(FirstLine::TooLong(line));
        }
        match ending {
            Ending::More => {}
            Ending::End if last && !line.is_empty() => return Ok(FirstLine::Line(line)),
            Ending::End => return Ok(FirstLine::Incomplete),
            Ending::Damaged(what) => return Ok(FirstLine::Damaged(what)),
        }
    }
}

/// The byte-order mark that a UTF-8 file may begin with.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Opens a file for reading, without waiting where it is a named pipe.
pub fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A read that began before a packed file was finished sees it cut, whatever has come since.
    #[test]
    fn of_a_packed_file_that_grows_nothing_more_is_seen() {
        let lines = "a,1\nb,2\n".repeat(10_000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(lines.as_bytes()).expect("packed");
        let gzip = gzip.finish().expect("packed");
        let zstd = zstd::encode_all(lines.as_bytes(), 1).expect("packed");
        for (packing, bytes) in [(Packing::Gzip, gzip), (Packing::Zstd, zstd)] {
            let mut file = tempfile::tempfile().expect("a temporary file");
            file.write_all(&bytes).expect("written");
            let read = |size: usize| {
                let file = file.try_clone().expect("a second handle");
                let mut input =
                    Input::open(file, packing, 0, u64::MAX, size as u64).expect("a packed file");
                input.fill(&mut vec![0; 2 * lines.len()]).expect("read")
            };
            let (len, ending) = read(bytes.len());
            assert!(matches!(ending, Ending::End), "{ending:?}");
            assert_eq!(len, lines.len());
            for missing in [1, 5, bytes.len() / 2] {
                let (_, ending) = read(bytes.len() - missing);
                assert!(matches!(ending, Ending::Damaged(_)), "{ending:?}");
            }
        }
    }
}
