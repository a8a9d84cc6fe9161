//! Error rows under construction.
//!
//! Invariant: the raw text is at most [`RAW_BYTES_MAX`] bytes and always valid text.

use std::sync::Arc;

use arrow::array::{Int64Builder, RecordBatch, StringViewBuilder};
use arrow::compute::{sort_to_indices, take_record_batch};

use crate::source::error_schema;

/// Bytes of the raw text that an error row keeps.
pub const RAW_BYTES_MAX: usize = 4096;

/// Rows of [`error_schema`].
#[derive(Default)]
pub struct ErrorRows {
    paths: Vec<String>,
    offsets: Int64Builder,
    lines: Int64Builder,
    raws: Vec<Option<String>>,
    reasons: Vec<String>,
}

impl ErrorRows {
    /// Adds a row.
    pub fn push(
        &mut self,
        path: &str,
        offset: Option<i64>,
        line: Option<i64>,
        raw: Option<&[u8]>,
        reason: &str,
    ) {
        self.paths.push(path.into());
        self.offsets.append_option(offset);
        self.lines.append_option(line);
        self.raws.push(raw.map(text_of));
        self.reasons.push(without_nul(reason));
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.reasons.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The rows, if any, in the order of their offsets, with everything forgotten.
    pub fn finish(&mut self) -> Option<RecordBatch> {
        if self.is_empty() {
            return None;
        }
        let (mut paths, mut raws, mut reasons) = (
            StringViewBuilder::new().with_deduplicate_strings(),
            StringViewBuilder::new(),
            StringViewBuilder::new().with_deduplicate_strings(),
        );
        self.paths.drain(..).for_each(|p| paths.append_value(p));
        self.raws.drain(..).for_each(|r| raws.append_option(r));
        self.reasons.drain(..).for_each(|r| reasons.append_value(r));
        let batch = RecordBatch::try_new(
            error_schema(),
            vec![
                Arc::new(paths.finish()),
                Arc::new(self.offsets.finish()),
                Arc::new(self.lines.finish()),
                Arc::new(raws.finish()),
                Arc::new(reasons.finish()),
            ],
        )
        .expect("the columns are those of the schema");
        // What only a conversion found comes after what the splitter found in the same block.
        let sorted = sort_to_indices(batch.column(1), None, None)
            .and_then(|order| take_record_batch(&batch, &order))
            .expect("integers can be sorted");
        Some(sorted)
    }
}

/// A reason may quote what was read, and clients take a NUL for the end of a text.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Bytes as text: cut, and with U+FFFD for what text can't hold.
fn text_of(raw: &[u8]) -> String {
    let cut = &raw[..raw.len().min(RAW_BYTES_MAX)];
    let mut text = without_nul(&String::from_utf8_lossy(cut));
    if raw.len() > cut.len() && std::str::from_utf8(cut).is_err_and(|e| e.error_len().is_none()) {
        // The cut went through a character.
        text.pop();
    }
    text
}
