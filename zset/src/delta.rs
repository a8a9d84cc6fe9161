//! [`Delta`]: a set of changes as Arrow columns plus one signed multiplicity per row.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::buffers::concat_batches;

/// The multiplicities of a delta's rows. `Ones` is the common case of pure insertion and
/// costs nothing to store, to ship or to multiply.
#[derive(Clone, Debug)]
pub enum Diffs {
    /// Every row has diff +1.
    Ones,
    /// One diff per row; a diff may be any non-zero i64 (zero is allowed before consolidation).
    Each(ScalarBuffer<i64>),
}

impl Diffs {
    /// The diff of `row`.
    #[inline]
    pub fn get(&self, row: usize) -> i64 {
        match self {
            Diffs::Ones => 1,
            Diffs::Each(d) => d[row],
        }
    }

    /// The diffs as a buffer of `rows` values.
    pub fn to_buffer(&self, rows: usize) -> ScalarBuffer<i64> {
        match self {
            Diffs::Ones => vec![1i64; rows].into(),
            Diffs::Each(d) => d.clone(),
        }
    }

    fn as_array(&self) -> Option<Int64Array> {
        match self {
            Diffs::Ones => None,
            Diffs::Each(d) => Some(Int64Array::new(d.clone(), None)),
        }
    }
}

impl From<Vec<i64>> for Diffs {
    fn from(v: Vec<i64>) -> Self {
        if v.iter().all(|d| *d == 1) {
            Diffs::Ones
        } else {
            Diffs::Each(v.into())
        }
    }
}

/// Changes of one collection within one epoch: `rows` with a diff each. Not necessarily
/// consolidated: the same row may occur several times, with diffs that cancel.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The rows; cheap to clone (columns are shared).
    pub rows: RecordBatch,
    /// One diff per row of `rows`.
    pub diffs: Diffs,
}

impl Delta {
    /// A delta of `rows`, each with the diff of the same position. Panics if the lengths differ.
    pub fn new(rows: RecordBatch, diffs: impl Into<Diffs>) -> Self {
        let diffs = diffs.into();
        if let Diffs::Each(d) = &diffs {
            assert_eq!(d.len(), rows.num_rows(), "one diff per row");
        }
        Delta { rows, diffs }
    }

    /// A pure insertion of `rows`.
    pub fn insert(rows: RecordBatch) -> Self {
        Delta {
            rows,
            diffs: Diffs::Ones,
        }
    }

    /// A delta without rows.
    pub fn empty(schema: SchemaRef) -> Self {
        Delta::insert(RecordBatch::new_empty(schema))
    }

    /// Number of rows (not the sum of diffs).
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The schema of the rows.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// The same rows with every diff negated.
    pub fn negate(&self) -> Delta {
        let d: Vec<i64> = (0..self.len()).map(|i| -self.diffs.get(i)).collect();
        Delta {
            rows: self.rows.clone(),
            diffs: Diffs::Each(d.into()),
        }
    }

    /// The rows (with their diffs) for which `mask` is true; NULL counts as false.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Delta, ArrowError> {
        let rows = compute::filter_record_batch(&self.rows, mask)?;
        let diffs = match self.diffs.as_array() {
            None => Diffs::Ones,
            Some(d) => {
                let kept = compute::filter(&d, mask)?;
                Diffs::Each(downcast_i64(&kept).values().clone())
            }
        };
        Ok(Delta { rows, diffs })
    }

    /// The rows at `indices`, in that order.
    pub fn take(&self, indices: &UInt32Array) -> Result<Delta, ArrowError> {
        let rows = compute::take_record_batch(&self.rows, indices)?;
        let diffs = match &self.diffs {
            Diffs::Ones => Diffs::Ones,
            Diffs::Each(d) => {
                let v: Vec<i64> = indices.values().iter().map(|i| d[*i as usize]).collect();
                Diffs::Each(v.into())
            }
        };
        Ok(Delta { rows, diffs })
    }

    /// `len` rows from `offset`, without copying.
    pub fn slice(&self, offset: usize, len: usize) -> Delta {
        let diffs = match &self.diffs {
            Diffs::Ones => Diffs::Ones,
            Diffs::Each(d) => Diffs::Each(d.slice(offset, len)),
        };
        Delta {
            rows: self.rows.slice(offset, len),
            diffs,
        }
    }

    /// All rows of `deltas` in order. `schema` is used where `deltas` is empty.
    pub fn concat(schema: &SchemaRef, deltas: &[Delta]) -> Result<Delta, ArrowError> {
        if deltas.len() == 1 {
            return Ok(deltas[0].clone());
        }
        let rows = concat_batches(schema, deltas.iter().map(|d| &d.rows))?;
        let ones = deltas.iter().all(|d| matches!(d.diffs, Diffs::Ones));
        let diffs = if ones {
            Diffs::Ones
        } else {
            let mut all = Vec::with_capacity(rows.num_rows());
            for d in deltas {
                match &d.diffs {
                    Diffs::Ones => all.resize(all.len() + d.len(), 1),
                    Diffs::Each(each) => all.extend_from_slice(each),
                }
            }
            Diffs::Each(all.into())
        };
        Ok(Delta { rows, diffs })
    }

    /// Approximate bytes held in memory by the rows and diffs.
    pub fn memory_bytes(&self) -> usize {
        let diffs = match &self.diffs {
            Diffs::Ones => 0,
            Diffs::Each(d) => d.len() * 8,
        };
        self.rows.get_array_memory_size() + diffs
    }
}

fn downcast_i64(a: &dyn Array) -> &Int64Array {
    a.as_any().downcast_ref().expect("filter keeps the type")
}

/// A schema of nullable `fields`, as a shared pointer.
pub fn schema_of(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}
