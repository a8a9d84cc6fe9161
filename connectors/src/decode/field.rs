//! Where the text of a value lies, before it is a value.
//!
//! Decoding a block of rows has two steps: the format finds the fields, then each column converts
//! its fields in a loop of its own. A [`Field`] is what they hand over.

/// Rows that are split before their fields are converted, at most, and at least where they are long.
pub const BLOCK_ROWS: usize = 1024;
/// See [`BLOCK_ROWS`].
pub const BLOCK_ROWS_MIN: usize = 32;
/// Bytes of text that a block has, about: each column reads them again, from the first-level cache.
pub const BLOCK_BYTES: usize = 16 << 10;

const SIDE: u32 = 1 << 31;

/// A slice of the chunk, or of the side buffer, which holds text that had to be unescaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    start: u32,
    len: u32,
}

impl Field {
    /// NULL.
    pub const NULL: Field = Field {
        start: u32::MAX,
        len: 0,
    };

    /// Bytes `start..end` of the chunk.
    #[inline]
    pub fn main(start: usize, end: usize) -> Field {
        Field {
            start: start as u32,
            len: (end - start) as u32,
        }
    }

    /// Bytes `start..end` of the chunk; NULL if there are none.
    #[inline]
    pub fn of_text(start: u32, end: u32) -> Field {
        Field {
            start: if start == end { u32::MAX } else { start },
            len: end - start,
        }
    }

    /// Bytes `start..end` of the side buffer.
    #[inline]
    pub fn side(start: usize, end: usize) -> Field {
        Field {
            start: start as u32 | SIDE,
            len: (end - start) as u32,
        }
    }

    /// Whether it is NULL.
    #[inline]
    pub fn is_null(self) -> bool {
        self.start == u32::MAX
    }

    /// Buffer (0: the chunk, 1: the side buffer), start and length.
    #[inline]
    pub fn place(self) -> (u32, usize, usize) {
        (
            self.start >> 31,
            (self.start & !SIDE) as usize,
            self.len as usize,
        )
    }
}

/// The two buffers that fields lie in.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    /// The chunk.
    pub main: &'a [u8],
    /// Unescaped text.
    pub side: &'a [u8],
}

impl<'a> Texts<'a> {
    /// The bytes of a field that isn't NULL.
    #[inline]
    pub fn get(self, field: Field) -> &'a [u8] {
        let (from, start, len) = self.place(field);
        &from[start..start + len]
    }

    /// The buffer that a field which isn't NULL lies in, its start there and its length.
    #[inline]
    pub fn place(self, field: Field) -> (&'a [u8], usize, usize) {
        let (buffer, start, len) = field.place();
        (if buffer == 0 { self.main } else { self.side }, start, len)
    }
}

/// Up to [`BLOCK_ROWS`] rows whose fields have been found.
pub struct Block {
    /// Row by row, `width` fields each.
    pub fields: Vec<Field>,
    /// Fields of a row.
    pub width: usize,
    /// Where each row's text starts in the chunk.
    pub starts: Vec<u32>,
    /// Where each row's text ends in the chunk, without the line end.
    pub ends: Vec<u32>,
    /// Each row's first line, from 1.
    pub lines: Vec<i64>,
}

impl Block {
    /// An empty block for `rows` rows of `width` fields, and one that is being filled.
    pub fn new(width: usize, rows: usize) -> Self {
        Block {
            fields: vec![Field::NULL; width * (rows + 1)],
            width,
            starts: Vec::with_capacity(BLOCK_ROWS),
            ends: Vec::with_capacity(BLOCK_ROWS),
            lines: Vec::with_capacity(BLOCK_ROWS),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows that are complete.
    #[inline]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.starts.clear();
        self.ends.clear();
        self.lines.clear();
    }

    /// The fields of the row that is being filled; there is always room for one.
    #[inline]
    pub fn open_row(&mut self) -> &mut [Field] {
        let at = self.len() * self.width;
        &mut self.fields[at..at + self.width]
    }

    /// Completes the row that was filled.
    #[inline]
    pub fn close_row(&mut self, start: usize, end: usize, line: u64) {
        self.starts.push(start as u32);
        self.ends.push(end as u32);
        self.lines.push(line as i64);
    }
}
