//! Columns that are qualified with the schema of their relation, as in `public.t.a`: a relation that gets an alias isn't found so.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, ObjectNamePart,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
};

use crate::ast::Query;
use crate::names::folded;

/// Leaves the schema out where it qualifies a column of `schema.name`.
pub(super) fn without_schema(query: &mut Query, (schema, name): (&str, &str)) {
    crate::walk::change(query, &mut Qualifiers { schema, name });
}

struct Qualifiers<'n> {
    schema: &'n str,
    name: &'n str,
}

impl Qualifiers<'_> {
    fn is_this(&self, schema: &ast::Ident, name: &ast::Ident) -> bool {
        folded(schema) == self.schema && folded(name) == self.name
    }

    /// `schema.name` of `schema.name.*`
    fn relation(&self, name: &mut ObjectName) {
        if let [
            ObjectNamePart::Identifier(schema),
            ObjectNamePart::Identifier(relation),
        ] = name.0.as_slice()
            && self.is_this(schema, relation)
        {
            name.0.remove(0);
        }
    }

    fn items(&self, body: &mut SetExpr) {
        match body {
            SetExpr::Select(select) => {
                for item in &mut select.projection {
                    if let SelectItem::QualifiedWildcard(
                        SelectItemQualifiedWildcardKind::ObjectName(name),
                        _,
                    ) = item
                    {
                        self.relation(name);
                    }
                }
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.items(left);
                self.items(right);
            }
            // A query of its own is visited as one.
            _ => {}
        }
    }
}

impl ast::VisitorMut for Qualifiers<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
        self.items(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        match e {
            Expr::CompoundIdentifier(parts) => {
                if let [schema, name, _, ..] = parts.as_slice()
                    && self.is_this(schema, name)
                {
                    parts.remove(0);
                }
            }
            Expr::QualifiedWildcard(name, _) => self.relation(name),
            Expr::Function(f) => {
                if let FunctionArguments::List(list) = &mut f.args {
                    for arg in &mut list.args {
                        if let FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) = arg
                        {
                            self.relation(name);
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
