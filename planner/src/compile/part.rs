//! Parts of a view that are compiled by themselves ([`crate::divided`]).

use datafusion_expr::{LogicalPlan, TableScan};

use super::{Compiler, Piece, rows, rules};
use crate::error::{Result, SqlError, from_datafusion};
use crate::part::Part;

impl Compiler<'_> {
    /// Compiles the next part.
    pub(super) fn compile_part(&mut self, part: &LogicalPlan) -> Result<()> {
        let optimised = rules::optimise(part).map_err(|e| from_datafusion(&e))?;
        let piece = rows::strip(self.piece(&optimised)?);
        self.parts.push(piece);
        Ok(())
    }

    /// The columns that a scan reads of a part; `None`: it reads something else.
    pub(super) fn part(&self, scan: &TableScan) -> Result<Option<Piece>> {
        let Some(number) = Part::read_by(scan) else {
            return Ok(None);
        };
        let Some(piece) = self.parts.get(number) else {
            return Err(SqlError::internal(
                "a part is compiled before what reads it",
            ));
        };
        let Some(columns) = &scan.projection else {
            return Ok(Some(piece.clone()));
        };
        let place = |c: &usize| columns.iter().position(|chosen| chosen == c);
        let unique = piece.unique.as_ref();
        let unique = unique.and_then(|unique| unique.iter().map(place).collect());
        // A row has a column.
        let chosen = match columns.is_empty() {
            true => &vec![0],
            false => columns,
        };
        let node = rows::choose(piece.node.clone(), chosen);
        let width = columns.len();
        let piece = Piece::new(node).unique(unique);
        Ok(Some(Piece { width, ..piece }))
    }

    /// Whether a scan reads what changes.
    pub(super) fn is_collection(&self, scan: &TableScan) -> bool {
        Part::read_by(scan).is_some() || (self.resolve)(scan).is_some()
    }
}
