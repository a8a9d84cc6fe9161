//! Rows as text, for error collections: `(a, b, NULL)`, without columns that only repeat parts of others.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::plan::DERIVED_KEY;

/// Bytes of a culprit's text; longer rows are cut.
const CULPRIT_BYTES_MAX: usize = 1_000;

/// Row `row` of `batch` as text.
pub fn row_text(batch: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::default()
        .with_null("NULL")
        .with_display_error(true);
    let mut text = String::from("(");
    let fields = batch.schema_ref().fields();
    for (field, column) in fields.iter().zip(batch.columns()) {
        if field.metadata().contains_key(DERIVED_KEY) {
            continue;
        }
        if text.len() > 1 {
            text.push_str(", ");
        }
        match ArrayFormatter::try_new(column.as_ref(), &options) {
            Ok(f) => text.push_str(&f.value(row).to_string()),
            Err(_) => text.push('?'),
        }
        if text.len() > CULPRIT_BYTES_MAX {
            let mut end = CULPRIT_BYTES_MAX;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push('…');
            break;
        }
    }
    text.push(')');
    text
}
