//! The names that PostgreSQL gives to output columns.

use sqlparser::ast::{
    AccessExpr, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Query, SelectItem, SetExpr,
    TrimWhereField,
};

use super::types::sql_type;
use crate::parser::spelling::WHOLE_ROW;
use crate::parser::{fold, parts};
use tidemill_zset::schema::SqlType;

/// The column's name of an expression in a select list.
pub(crate) fn output_name(e: &Expr) -> String {
    name_of(e).unwrap_or_else(|| "?column?".into())
}

/// What names a column.
enum Named {
    /// A column, a call and the like.
    Well(String),
    /// A type or CASE: a cast around it names the column after its own type.
    Weakly(String),
}

fn name_of(e: &Expr) -> Option<String> {
    named(e).map(|(Named::Well(name) | Named::Weakly(name))| name)
}

fn named(e: &Expr) -> Option<Named> {
    let well = match e {
        Expr::Identifier(i) => fold(i),
        Expr::CompoundIdentifier(p) => fold(p.last()?),
        Expr::Nested(e) => return named(e),
        Expr::CompoundFieldAccess { root, access_chain } => match access_chain.last() {
            Some(AccessExpr::Dot(Expr::Identifier(i))) => fold(i),
            _ => return named(root),
        },
        Expr::Function(f) => match (parts(&f.name).pop()?, &f.args) {
            (name, FunctionArguments::List(list)) if name == WHOLE_ROW => {
                match list.args.as_slice() {
                    [FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(row))] => {
                        parts(row).pop()?
                    }
                    _ => return None,
                }
            }
            (name, _) => name,
        },
        Expr::Cast {
            expr, data_type, ..
        } => match named(expr) {
            Some(Named::Well(name)) => name,
            _ => {
                let ty = sql_type(data_type).ok()?;
                return Some(Named::Weakly(type_label(&ty)));
            }
        },
        Expr::TypedString(t) => {
            return Some(Named::Weakly(type_label(&sql_type(&t.data_type).ok()?)));
        }
        Expr::Interval(_) => return Some(Named::Weakly("interval".into())),
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(named) {
            Some(Named::Well(name)) => name,
            _ => return Some(Named::Weakly("case".into())),
        },
        Expr::IsNormalized { negated: false, .. } => "is_normalized".into(),
        Expr::Exists { negated: false, .. } => "exists".into(),
        Expr::Array(_) => "array".into(),
        Expr::Extract { .. } => "extract".into(),
        Expr::Ceil { .. } => "ceil".into(),
        Expr::Floor { .. } => "floor".into(),
        Expr::Position { .. } => "position".into(),
        Expr::Substring {
            shorthand: true, ..
        } => "substr".into(),
        Expr::Substring { .. } => "substring".into(),
        Expr::Overlay { .. } => "overlay".into(),
        Expr::Trim { trim_where, .. } => match trim_where {
            Some(TrimWhereField::Leading) => "ltrim".into(),
            Some(TrimWhereField::Trailing) => "rtrim".into(),
            _ => "btrim".into(),
        },
        Expr::AtTimeZone { .. } => "timezone".into(),
        Expr::Subquery(q) => return subquery_name(q).map(Named::Well),
        Expr::Tuple(_) => "row".into(),
        Expr::BinaryOp {
            op: sqlparser::ast::BinaryOperator::Overlaps,
            ..
        } => "overlaps".into(),
        _ => return None,
    };
    Some(Named::Well(well))
}

fn subquery_name(q: &Query) -> Option<String> {
    body_name(&q.body)
}

fn body_name(body: &SetExpr) -> Option<String> {
    match body {
        SetExpr::Select(s) => match s.projection.first()? {
            SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
            SelectItem::UnnamedExpr(e) => Some(name_of(e).unwrap_or_else(|| "?column?".into())),
            _ => None,
        },
        SetExpr::Query(q) => subquery_name(q),
        SetExpr::Values(_) => Some("column1".into()),
        SetExpr::SetOperation { left, .. } => body_name(left),
        _ => None,
    }
}

/// A type's name in the catalog, which names the column of a cast constant.
fn type_label(t: &SqlType) -> String {
    match t {
        SqlType::Bool => "bool",
        SqlType::Int2 => "int2",
        SqlType::Int4 => "int4",
        SqlType::Int8 => "int8",
        SqlType::Float4 => "float4",
        SqlType::Float8 => "float8",
        SqlType::Numeric(..) => "numeric",
        SqlType::Varchar(_) => "varchar",
        SqlType::Char(_) => "bpchar",
        SqlType::Time => "time",
        SqlType::Timestamp => "timestamp",
        SqlType::Timestamptz => "timestamptz",
        SqlType::Array(of) => return type_label(of),
        t => return t.to_string(),
    }
    .into()
}
