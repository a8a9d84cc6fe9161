//! Buffers of chunks, used again when nothing looks into them any more: to clear a fresh one and to get its pages costs
//! as much as reading some of its lines.

use std::sync::Arc;

use arrow::buffer::Buffer;
use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes read at a time: few enough for the second-level cache. Larger buffers aren't kept.
pub const CHUNK_BYTES: usize = 1 << 20;
/// Sizes are multiples of it: few, so that a buffer fits for the next file of about the same size.
const SIZE_STEP: usize = 16 << 10;
/// Buffers that wait to be used again, at most. There are no more than rows on their way have looked into.
const SPARES_MAX: usize = 32;

/// The buffers of one source.
#[derive(Clone, Default)]
pub struct Chunks(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    spares: Vec<Vec<u8>>,
    /// Buffers are being taken: those that come back will be wanted.
    reading: bool,
}

impl Chunks {
    /// A buffer of at least `wanted` bytes, with anything in it.
    pub fn take(&self, wanted: usize) -> Vec<u8> {
        let spare = {
            let mut state = self.0.lock();
            state.reading = true;
            let fitting = state.spares.iter().position(|s| s.len() >= wanted);
            fitting.map(|i| state.spares.swap_remove(i))
        };
        spare.unwrap_or_else(|| vec![0; wanted.next_multiple_of(SIZE_STEP)])
    }

    /// Takes a buffer back.
    pub fn give(&self, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        if !state.reading || bytes.len() > CHUNK_BYTES {
            return;
        }
        let smaller = |s: &&mut Vec<u8>| s.len() < bytes.len();
        if state.spares.len() < SPARES_MAX {
            state.spares.push(bytes);
        } else if let Some(spare) = state.spares.iter_mut().find(smaller) {
            *spare = bytes;
        }
    }

    /// `bytes` to be looked into: they come back when nobody does any more.
    pub fn share(&self, bytes: Vec<u8>) -> Buffer {
        let chunks = self.clone();
        Buffer::from(Bytes::from_owner(Shared { bytes, chunks }))
    }

    /// Nothing is being read: the memory goes, now and as buffers come back.
    pub fn rest(&self) {
        *self.0.lock() = State::default();
    }
}

struct Shared {
    bytes: Vec<u8>,
    chunks: Chunks,
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.chunks.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_goes() {
        let chunks = Chunks::default();
        let mut bytes = chunks.take(8);
        bytes[..3].copy_from_slice(b"abc");
        let place = bytes.as_ptr();
        let whole = chunks.share(bytes);
        let slice = whole.slice_with_length(1, 2);
        drop(whole);
        let other = chunks.take(8);
        assert_ne!(other.as_ptr(), place);
        assert_eq!(slice.as_slice(), b"bc");
        drop(slice);
        let again = chunks.take(5);
        assert_eq!(again.as_ptr(), place);
    }

    #[test]
    fn few_and_no_large_ones_are_kept() {
        let chunks = Chunks::default();
        chunks.give(chunks.take(1));
        for n in 1..=SPARES_MAX + 3 {
            chunks.give(vec![0; n]);
        }
        chunks.give(vec![0; CHUNK_BYTES + 1]);
        let kept: Vec<usize> = chunks.0.lock().spares.iter().map(Vec::len).collect();
        assert_eq!(kept.len(), SPARES_MAX);
        assert!(kept.contains(&(SPARES_MAX + 3)));
        let taken = chunks.take(1);
        chunks.rest();
        chunks.give(taken);
        assert!(chunks.0.lock().spares.is_empty());
    }
}
