//! Calls of functions, aggregates and window functions.

use tidemill_planner::SqlError;
use tidemill_planner::ast::syntax as ast;

use super::bind::{Binder, Collected, Place};
use super::bind_expr::Bound;
use super::functions::{self, Returns};
use super::plan::{Aggregate, AggregateKind, Expr, Window};
use super::scope::{name_of, not_ours};
use super::value::{Ty, Value};

impl<'a> Binder<'a> {
    /// Arguments of a call.
    pub(super) fn args(
        &self,
        args: &'a [ast::FunctionArg],
        place: Place<'_>,
    ) -> Result<Vec<Bound>, SqlError> {
        args.iter()
            .map(|arg| match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => {
                    self.expr(expr, place)
                }
                other => Err(not_ours(other)),
            })
            .collect()
    }

    pub(super) fn function(
        &self,
        function: &'a ast::Function,
        place: Place<'_>,
    ) -> Result<Bound, SqlError> {
        let (_, name) = name_of(&function.name);
        let (args, distinct, order) = match &function.args {
            ast::FunctionArguments::None => (&[][..], false, &[][..]),
            ast::FunctionArguments::List(list) => {
                let order = list.clauses.iter().find_map(|clause| match clause {
                    ast::FunctionArgumentClause::OrderBy(order) => Some(order.as_slice()),
                    _ => None,
                });
                let distinct = list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct);
                (list.args.as_slice(), distinct, order.unwrap_or(&[]))
            }
            ast::FunctionArguments::Subquery(query) if name == "array" => {
                let plan = self.query(query, place.scope)?;
                let ty = plan.columns.first().map_or(Ty::Text, |(_, ty)| *ty);
                return Ok((Expr::ArrayQuery(Box::new(plan)), ty.array()));
            }
            ast::FunctionArguments::Subquery(query) => {
                let plan = self.query(query, place.scope)?;
                let ty = plan.columns.first().map_or(Ty::Text, |(_, ty)| *ty);
                return self.call(&name, vec![(Expr::Scalar(Box::new(plan)), ty)]);
            }
        };
        if let Some(over) = &function.over {
            return self.window(&name, over, place);
        }
        if let Some(kind) = aggregate(&name) {
            return self.aggregate(
                kind,
                args,
                distinct,
                order,
                function.filter.as_deref(),
                place,
            );
        }
        let args = self.args(args, place)?;
        if functions::is_set_returning(&name) {
            let (expr, columns) = self.set_returning(&name, args)?;
            let Some(collected) = place.collected else {
                return Err(not_ours(format!("{name} outside FROM and the select list")));
            };
            let ty = match columns.as_slice() {
                [(_, ty)] => *ty,
                _ => Ty::Int4.array(),
            };
            let mut collected = collected.borrow_mut();
            let index = collected.slot(place.width)?;
            collected.expansions.push((index, expr));
            return Ok((Expr::Column { depth: 0, index }, ty));
        }
        self.call(&name, args)
    }

    /// A scalar function.
    pub(super) fn call(&self, name: &str, args: Vec<Bound>) -> Result<Bound, SqlError> {
        let vector = args.first().is_some_and(|(_, ty)| ty.is_vector());
        let name = match name {
            "array_lower" if vector => "_vector_lower",
            "array_upper" if vector => "_vector_upper",
            name => name,
        };
        let function = functions::find(name).ok_or_else(|| not_ours(format!("function {name}")))?;
        if function.catalog {
            self.ours.set(true);
            if !functions::has_planner(name) {
                self.ours_alone.set(true);
            }
        } else if functions::has_planner(name) {
            // It knows all types, and all errors.
            self.computes.set(true);
        }
        // What a parameter is that stands alone as an argument.
        let wanted = match name {
            name if name.contains("_advisory_") => Some(match args.len() {
                2 => Ty::Int4,
                _ => Ty::Int8,
            }),
            "pg_cancel_backend" | "pg_terminate_backend" => Some(Ty::Int4),
            "pg_sleep" => Some(Ty::Float8),
            _ => None,
        };
        for (expr, _) in &args {
            if let (Some(ty), Expr::Param(number)) = (wanted, expr) {
                self.declare(*number, ty);
            }
        }
        let first = args
            .iter()
            .find(|(expr, _)| !matches!(expr, Expr::Const(Value::Null)));
        let ty = match function.returns {
            Returns::Type(ty) => ty,
            Returns::Array(of) => of.array(),
            Returns::First => first.map_or(Ty::Text, |(_, ty)| *ty),
        };
        let args = args.into_iter().map(|(expr, _)| expr).collect();
        Ok((Expr::Call { function, args }, ty))
    }

    /// A set-returning function: an expression that gives the array of its rows, and its columns.
    #[allow(clippy::type_complexity)]
    pub(super) fn set_returning(
        &self,
        name: &str,
        args: Vec<Bound>,
    ) -> Result<(Expr, Vec<(String, Ty)>), SqlError> {
        if !functions::is_set_returning(name) {
            return Err(not_ours(format!("function {name}")));
        }
        let of = args.first().map_or(Ty::Text, |(_, ty)| *ty);
        let column = |name: &str, ty: Ty| (name.to_string(), ty);
        let columns = match name {
            "unnest" => args
                .iter()
                .map(|(_, ty)| column("unnest", ty.element()))
                .collect(),
            "generate_series" | "generate_subscripts" => vec![column(name, Ty::Int4)],
            "_pg_expandarray" => vec![column("x", Ty::Int4), column("n", Ty::Int4)],
            "pg_options_to_table" => {
                vec![
                    column("option_name", Ty::Text),
                    column("option_value", Ty::Text),
                ]
            }
            "pg_get_keywords" => vec![
                column("word", Ty::Text),
                column("catcode", Ty::Char),
                column("barelabel", Ty::Bool),
                column("catdesc", Ty::Text),
                column("baredesc", Ty::Text),
            ],
            "pg_timezone_names" => vec![
                column("name", Ty::Text),
                column("abbrev", Ty::Text),
                column("utc_offset", Ty::Text),
                column("is_dst", Ty::Bool),
            ],
            "aclexplode" => vec![
                column("grantor", Ty::Oid),
                column("grantee", Ty::Oid),
                column("privilege_type", Ty::Text),
                column("is_grantable", Ty::Bool),
            ],
            _ => vec![column(name, Ty::Text)],
        };
        // Vectors, unlike arrays, are counted from 0.
        let name = match name {
            "generate_subscripts" if of.is_vector() => "_vector_subscripts",
            "unnest" if args.len() > 1 => "_unnest_each",
            name => name,
        };
        Ok((self.call(name, args)?.0, columns))
    }

    fn aggregate(
        &self,
        kind: AggregateKind,
        args: &'a [ast::FunctionArg],
        distinct: bool,
        order: &'a [ast::OrderByExpr],
        filter: Option<&'a ast::Expr>,
        place: Place<'_>,
    ) -> Result<Bound, SqlError> {
        let Some(collected) = place.collected else {
            return Err(SqlError::new(
                "42803",
                "aggregate functions are not allowed here",
            ));
        };
        let inner = Place {
            collected: None,
            ..place
        };
        let args = match args {
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard)] => Vec::new(),
            args => self.args(args, inner)?,
        };
        let ty = match (kind, args.first()) {
            (AggregateKind::Count, _) => Ty::Int8,
            (AggregateKind::And | AggregateKind::Or, _) => Ty::Bool,
            (AggregateKind::ArrayAgg, Some((_, ty))) => ty.array(),
            (AggregateKind::Sum, Some((_, Ty::Float8))) => Ty::Float8,
            (AggregateKind::Sum, _) => Ty::Int8,
            (AggregateKind::StringAgg, _) => Ty::Text,
            (_, first) => first.map_or(Ty::Text, |(_, ty)| *ty),
        };
        let aggregate = Aggregate {
            kind,
            args: args.into_iter().map(|(expr, _)| expr).collect(),
            distinct,
            filter: filter
                .map(|e| self.expr(e, inner).map(|(e, _)| e))
                .transpose()?,
            order: self.sorting(order, inner)?,
        };
        let mut collected = collected.borrow_mut();
        let index = collected.slot(place.width)?;
        collected.aggregates.push((index, aggregate));
        Ok((Expr::Column { depth: 0, index }, ty))
    }

    fn window(
        &self,
        name: &str,
        over: &'a ast::WindowType,
        place: Place<'_>,
    ) -> Result<Bound, SqlError> {
        let (Some(collected), ast::WindowType::WindowSpec(spec), "row_number") =
            (place.collected, over, name)
        else {
            return Err(not_ours("this window function"));
        };
        let inner = Place {
            collected: None,
            ..place
        };
        let partition = spec
            .partition_by
            .iter()
            .map(|e| self.expr(e, inner).map(|(e, _)| e));
        let window = Window {
            partition: partition.collect::<Result<_, _>>()?,
            order: self.sorting(&spec.order_by, inner)?,
        };
        let mut collected: std::cell::RefMut<'_, Collected> = collected.borrow_mut();
        let index = collected.slot(place.width)?;
        collected.windows.push((index, window));
        Ok((Expr::Column { depth: 0, index }, Ty::Int8))
    }

    fn sorting(
        &self,
        order: &'a [ast::OrderByExpr],
        place: Place<'_>,
    ) -> Result<Vec<(Expr, bool)>, SqlError> {
        order
            .iter()
            .map(|key| {
                Ok((
                    self.expr(&key.expr, place)?.0,
                    key.options.asc == Some(false),
                ))
            })
            .collect()
    }
}

/// The aggregate of a name.
fn aggregate(name: &str) -> Option<AggregateKind> {
    Some(match name {
        "count" => AggregateKind::Count,
        "min" => AggregateKind::Min,
        "max" => AggregateKind::Max,
        "sum" => AggregateKind::Sum,
        "string_agg" => AggregateKind::StringAgg,
        "array_agg" => AggregateKind::ArrayAgg,
        "bool_and" | "every" => AggregateKind::And,
        "bool_or" => AggregateKind::Or,
        _ => return None,
    })
}
