//! Columns of texts that are slices of another column's values: views into that column's buffers.
//!
//! Only what is no slice of anything, as a text whose escapes are resolved, is copied, to bytes of the new column's own.

use arrow::array::{ByteView, NullBufferBuilder, StringViewArray};
use arrow::buffer::Buffer;

/// Longest text that a view holds itself.
const INLINE_MAX: usize = 12;

/// Bytes after which the new column's own texts go to a further buffer: a view's offset has 32 bits.
const OWN_BYTES_MAX: usize = 1 << 30;

/// A value of a column of texts, and where it lies.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The value.
    pub text: &'a str,
    source: &'a StringViewArray,
    buffer: u32,
    offset: u32,
}

impl<'a> Place<'a> {
    /// The value at `row`, which isn't NULL.
    #[inline]
    pub fn new(source: &'a StringViewArray, row: usize) -> Self {
        let view = ByteView::from(source.views()[row]);
        Place {
            text: source.value(row),
            source,
            // Meaningless if the view holds the text itself, but then so does one of any slice.
            buffer: view.buffer_index,
            offset: view.offset,
        }
    }
}

/// A column of slices of the values of `source`.
pub(super) struct Slices<'a> {
    source: &'a StringViewArray,
    views: Vec<u128>,
    nulls: NullBufferBuilder,
    /// Buffers of the source that a view points into: only those are kept alive.
    used: Vec<bool>,
    /// Full buffers of texts that are no slices, and the open one.
    full: Vec<Buffer>,
    own: Vec<u8>,
}

impl<'a> Slices<'a> {
    /// An empty column with room for `rows`.
    pub fn new(source: &'a StringViewArray, rows: usize) -> Self {
        Slices {
            source,
            views: Vec::with_capacity(rows),
            nulls: NullBufferBuilder::new(rows),
            used: vec![false; source.data_buffers().len()],
            full: Vec::new(),
            own: Vec::new(),
        }
    }

    #[inline]
    pub fn push_null(&mut self) {
        self.views.push(0);
        self.nulls.append_null();
    }

    /// Appends `part`, a slice of the text at `place`.
    #[inline]
    pub fn push(&mut self, place: Place, part: &str) {
        let start = (part.as_ptr() as usize).wrapping_sub(place.text.as_ptr() as usize);
        let len = part.len();
        let view = if len <= INLINE_MAX {
            inline_view(place.text.as_bytes(), start, part.as_bytes())
        } else if start
            .checked_add(len)
            .is_some_and(|end| end <= place.text.len())
            && std::ptr::eq(place.source, self.source)
        {
            self.used[place.buffer as usize] = true;
            long_view(part.as_bytes(), place.buffer, place.offset + start as u32)
        } else {
            // Not a slice of it after all.
            return self.push_own(part);
        };
        self.views.push(view);
        self.nulls.append_non_null();
    }

    /// Appends a copy of `text`.
    pub fn push_own(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let view = if bytes.len() <= INLINE_MAX {
            inline_view(bytes, 0, bytes)
        } else {
            if self.own.len() + bytes.len() > OWN_BYTES_MAX && !self.own.is_empty() {
                self.full.push(std::mem::take(&mut self.own).into());
            }
            let buffer = self.used.len() + self.full.len();
            let start = self.own.len() as u32;
            self.own.extend_from_slice(bytes);
            long_view(bytes, buffer as u32, start)
        };
        self.views.push(view);
        self.nulls.append_non_null();
    }

    /// The column.
    pub fn finish(mut self) -> StringViewArray {
        let source = self.source.data_buffers().iter().zip(&self.used);
        let mut buffers: Vec<Buffer> = source
            .map(|(b, used)| if *used { b.clone() } else { Buffer::default() })
            .collect();
        buffers.append(&mut self.full);
        if !self.own.is_empty() {
            buffers.push(self.own.into());
        }
        if buffers.iter().all(Buffer::is_empty) {
            buffers.clear();
        }
        // SAFETY: a view is that of a `&str`: it holds the bytes, or names where they lie in a buffer of `source`, which
        // was there at the same index, or in one of ours. Unused buffers alone are left out or replaced by empty ones.
        unsafe { StringViewArray::new_unchecked(self.views.into(), buffers, self.nulls.finish()) }
    }
}

/// A view that holds `part`, of at most [`INLINE_MAX`] bytes, itself. Without a loop where 16 bytes of `whole` can be read
/// at `start`, which is where the part lies there (else anything).
#[inline]
fn inline_view(whole: &[u8], start: usize, part: &[u8]) -> u128 {
    let len = part.len();
    if let Some(end) = start.checked_add(16)
        && let Some(wide) = whole.get(start..end)
    {
        let wide = u128::from_le_bytes(wide.try_into().expect("16 bytes"));
        return len as u128 | (wide & ((1u128 << (len * 8)) - 1)) << 32;
    }
    let mut bytes = [0u8; 16];
    bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[4..4 + len].copy_from_slice(part);
    u128::from_le_bytes(bytes)
}

/// The view of a longer text at `start` of buffer `buffer`.
#[inline]
fn long_view(text: &[u8], buffer: u32, start: u32) -> u128 {
    let prefix = u32::from_le_bytes([text[0], text[1], text[2], text[3]]);
    text.len() as u128 | (prefix as u128) << 32 | (buffer as u128) << 64 | (start as u128) << 96
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Against a column that is built of copies.
    #[test]
    fn slices_are_what_copies_would_be() {
        let seed = 21;
        println!("seed {seed}");
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let text = |random: &mut rand_chacha::ChaCha8Rng| -> String {
            let len = random.random_range(0..60);
            (0..len)
                .map(|_| ['a', 'é', '😀', 'z'][random.random_range(0..4)])
                .collect()
        };
        for _ in 0..200 {
            let texts: Vec<String> = (0..20).map(|_| text(&mut random)).collect();
            let source = StringViewArray::from_iter_values(&texts);
            let mut slices = Slices::new(&source, 0);
            let mut copies: Vec<Option<String>> = vec![];
            for _ in 0..40 {
                let place = Place::new(&source, random.random_range(0..texts.len()));
                let marks: Vec<usize> = (0..=place.text.len())
                    .filter(|i| place.text.is_char_boundary(*i))
                    .collect();
                let from = random.random_range(0..marks.len());
                let to = random.random_range(from..marks.len());
                let part = &place.text[marks[from]..marks[to]];
                match random.random_range(0..4) {
                    0 => {
                        slices.push_null();
                        copies.push(None);
                        continue;
                    }
                    1 => slices.push_own(part),
                    _ => slices.push(place, part),
                }
                copies.push(Some(part.to_string()));
            }
            let slices = slices.finish();
            slices.to_data().validate_full().expect("views of texts");
            assert!(slices.iter().eq(copies.iter().map(Option::as_deref)));
        }
    }
}
