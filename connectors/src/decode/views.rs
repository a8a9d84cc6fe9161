//! Text columns: Arrow string views that point into the chunk where the text stands there as it should.
//!
//! A view of at most 12 bytes holds its text; a longer one names one of three buffers: the chunk, the
//! side buffer of unescaped fields, and the column's own bytes, for text that the type rewrites.

use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder, StringViewArray};
use arrow::buffer::{Buffer, ScalarBuffer};

use super::field::{Block, Texts};
use super::json::{self, Met};
use crate::text::{self, ValueError};

/// Longest text that a view holds itself, in bytes.
const INLINE_BYTES: usize = 12;

/// Index of the column's own bytes among its buffers.
const OWN: u32 = 2;

/// What a text column checks and rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// Nothing.
    Text,
    /// The length in characters; only spaces may be cut off.
    Varchar(u32),
    /// The length in characters without spaces at the end, which go.
    Char(u32),
    /// The form, written canonically.
    Uuid,
    /// The grammar.
    Json,
    /// The grammar and the escapes; insignificant space goes.
    Jsonb,
}

/// A text column under construction.
pub struct Views {
    kind: TextKind,
    views: Vec<u128>,
    nulls: NullBufferBuilder,
    own: Vec<u8>,
    uses_chunk: bool,
    uses_side: bool,
}

/// A view of `text`, which lies at `start` of buffer `buffer`.
#[inline]
pub fn view_of(text: &[u8], buffer: u32, start: usize) -> u128 {
    let len = text.len();
    if len <= INLINE_BYTES {
        let mut bytes = [0u8; 16];
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[4..4 + len].copy_from_slice(text);
        return u128::from_le_bytes(bytes);
    }
    let prefix = u32::from_le_bytes([text[0], text[1], text[2], text[3]]);
    len as u128 | (prefix as u128) << 32 | (buffer as u128) << 64 | (start as u128) << 96
}

/// [`view_of`] for `from[start..start + len]`: copies short text without a loop where 16 bytes can be read.
#[inline]
fn view_in(from: &[u8], buffer: u32, start: usize, len: usize) -> u128 {
    if len <= INLINE_BYTES
        && let Some(wide) = from.get(start..start + 16)
    {
        let wide = u128::from_le_bytes(wide.try_into().expect("16 bytes"));
        let kept = wide & ((1u128 << (len * 8)) - 1);
        return len as u128 | kept << 32;
    }
    view_of(&from[start..start + len], buffer, start)
}

impl Views {
    /// An empty column.
    pub fn new(kind: TextKind) -> Self {
        Views {
            kind,
            views: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            own: Vec::new(),
            uses_chunk: false,
            uses_side: false,
        }
    }

    /// Whether it holds JSON.
    pub fn is_json(&self) -> bool {
        matches!(self.kind, TextKind::Json | TextKind::Jsonb)
    }

    /// Whether every text is one of the column as it stands. `checked_json`: JSON texts have been scanned.
    pub fn takes_any(&self, checked_json: bool) -> bool {
        match self.kind {
            TextKind::Text => true,
            TextKind::Json | TextKind::Jsonb => checked_json,
            TextKind::Varchar(_) | TextKind::Char(_) | TextKind::Uuid => false,
        }
    }

    /// Whether a view points into the chunk.
    pub fn uses_chunk(&self) -> bool {
        self.uses_chunk
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values so far.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Adds field `index` of every row; see [`Column::append`](super::column::Column::append).
    pub fn append(
        &mut self,
        block: &Block,
        index: usize,
        texts: Texts<'_>,
        nullable: bool,
        checked_json: bool,
        fail: &mut dyn FnMut(usize, ValueError, &[u8]),
    ) {
        let plain = self.takes_any(checked_json);
        self.views.reserve(block.len());
        let mut longest = [0usize; 2];
        for row in 0..block.len() {
            let field = block.fields[row * block.width + index];
            if field.is_null() {
                self.views.push(0);
                self.nulls.append_null();
                if !nullable {
                    let e = "null value violates the not-null constraint";
                    fail(row, ValueError::Other(e.into()), b"");
                }
            } else if plain {
                let (buffer, start, len) = field.place();
                let from = if buffer == 0 { texts.main } else { texts.side };
                longest[buffer as usize] = longest[buffer as usize].max(len);
                self.views.push(view_in(from, buffer, start, len));
                self.nulls.append_non_null();
            } else {
                let text = texts.get(field);
                if let Err(e) = self.push(Some(text)) {
                    fail(row, e, text);
                }
            }
        }
        self.uses_chunk |= longest[0] > INLINE_BYTES;
        self.uses_side |= longest[1] > INLINE_BYTES;
    }

    /// Adds one value by copying it; a placeholder on error.
    pub fn push(&mut self, text: Option<&[u8]>) -> Result<(), ValueError> {
        let Some(text) = text else {
            self.views.push(0);
            self.nulls.append_null();
            return Ok(());
        };
        self.nulls.append_non_null();
        let start = self.own.len();
        let result = self.rewrite(text);
        if result.is_err() {
            self.own.truncate(start);
        }
        let view = view_of(&self.own[start..], OWN, start);
        if self.own.len() - start <= INLINE_BYTES {
            self.own.truncate(start);
        }
        self.views.push(view);
        result
    }

    /// Appends to `own` what the kind makes of `text`.
    fn rewrite(&mut self, text: &[u8]) -> Result<(), ValueError> {
        match self.kind {
            TextKind::Text => self.own.extend_from_slice(text),
            TextKind::Varchar(max) => self.own.extend_from_slice(cut_to(text, max)?),
            TextKind::Char(max) => {
                let unpadded = text.iter().rposition(|b| *b != b' ').map_or(0, |i| i + 1);
                let text = cut_to(&text[..unpadded], max).map_err(|e| match e {
                    ValueError::Other(_) => {
                        ValueError::Other(format!("value too long for type character({max})"))
                    }
                    e => e,
                })?;
                self.own.extend_from_slice(text);
            }
            TextKind::Uuid => {
                let mut canonical = [0; 36];
                text::parse_uuid(text, &mut canonical)?;
                self.own.extend_from_slice(&canonical);
            }
            TextKind::Json | TextKind::Jsonb => {
                let error = |e: json::JsonError| ValueError::Other(e.to_string());
                let mut met = Met::default();
                let start = json::skip_space(text, 0);
                let end = json::skip_value(text, start, &mut met).map_err(error)?;
                if json::skip_space(text, end) != text.len() {
                    return Err(error(json::JsonError::Token(end)));
                }
                if self.kind == TextKind::Json {
                    self.own.extend_from_slice(text);
                    return Ok(());
                }
                if met.escape {
                    json::check_escapes(text).map_err(error)?;
                }
                json::compact(&text[start..end], &mut self.own);
            }
        }
        Ok(())
    }

    /// Makes the column an empty one.
    pub fn forget(&mut self) {
        self.views.clear();
        self.nulls.finish();
        self.own.clear();
        self.uses_chunk = false;
        self.uses_side = false;
    }

    /// The array, with everything forgotten.
    pub fn finish(&mut self, chunk: &Buffer, side: &Buffer) -> ArrayRef {
        let capacity = self.views.len();
        let views = std::mem::replace(&mut self.views, Vec::with_capacity(capacity));
        let own = std::mem::take(&mut self.own);
        let empty = || Buffer::from_vec(Vec::<u8>::new());
        let buffers = if !own.is_empty() || self.uses_side || self.uses_chunk {
            vec![
                if self.uses_chunk {
                    chunk.clone()
                } else {
                    empty()
                },
                if self.uses_side {
                    side.clone()
                } else {
                    empty()
                },
                Buffer::from_vec(own),
            ]
        } else {
            vec![]
        };
        self.uses_chunk = false;
        self.uses_side = false;
        let views: ScalarBuffer<u128> = views.into();
        // SAFETY: a view of more than 12 bytes was made from a slice of the buffer that it names, at the
        // place that it names, and these buffers are handed over here. The text is UTF-8: the decoder
        // checks a chunk (or each of its lines) before it looks for fields and cuts only at ASCII bytes,
        // and what is rewritten is made from such text.
        let array = unsafe { StringViewArray::new_unchecked(views, buffers, self.nulls.finish()) };
        Arc::new(array)
    }
}

/// `text` cut to `max` characters if only spaces are cut off.
fn cut_to(text: &[u8], max: u32) -> Result<&[u8], ValueError> {
    if text.len() <= max as usize {
        return Ok(text);
    }
    let string = std::str::from_utf8(text).map_err(|_| ValueError::Syntax)?;
    let Some((at, _)) = string.char_indices().nth(max as usize) else {
        return Ok(text);
    };
    if text[at..].iter().all(|b| *b == b' ') {
        Ok(&text[..at])
    } else {
        Err(ValueError::Other(format!(
            "value too long for type character varying({max})"
        )))
    }
}
