//! Function calls: special forms, functions on numbers, and the registry's overloads.

use arrow::array::{ListArray, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::expr::Case;
use datafusion_expr::{Expr, Operator, Volatility};
use sqlparser::ast::{self, DuplicateTreatment, FunctionArg, FunctionArgExpr, FunctionArguments};
use tidemill_zset::schema::SqlType;

use super::conditions::{not, when};
use super::expr::Ctx;
use super::scope::{Outer, Scope};
use super::sets::{is_each, is_set_returning};
use super::types::{as_numeric, implicit_cost, is_integer, is_number, number_rank};
use super::{Binder, Ctes, Typed, literal};
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::functions::registry::{self, Arg, Overload, Ret};
use crate::functions::shared::shared;
use crate::functions::system::asks_catalog;
use crate::functions::{Time, by_zone, call, registry::CallTypes, revised};
use crate::names::name_of_text;
use crate::parser::fold;
use crate::parser::spelling::WHOLE_ROW;

impl Binder<'_> {
    /// A call as parsed, by its folded name.
    pub(crate) fn named_call(&self, c: Ctx, name: &str, f: &ast::Function) -> Result<Typed> {
        if let (WHOLE_ROW, FunctionArguments::List(list)) = (name, &f.args) {
            let mut rows = self.function_args(c, &list.args)?;
            return rows
                .pop()
                .ok_or_else(|| SqlError::internal("a whole row of nothing"));
        }
        if ignores_nulls(f) && (f.over.is_none() || !super::windows::is_window(name)) {
            let message = format!("IGNORE NULLS specified, but {name} is not a window function");
            return Err(SqlError::new("42809", message));
        }
        if f.over.is_some()
            || super::aggregates::is_aggregate(name)
            || super::windows::is_window(name)
        {
            return self.aggregate_or_window(c, name, f);
        }
        if f.filter.is_some() || !f.within_group.is_empty() {
            return Err(SqlError::new(
                "42809",
                format!("FILTER specified, but {name} is not an aggregate function"),
            ));
        }
        if let Some(call) = self.sequence_call(c, name, f)? {
            return Ok(call);
        }
        if asks_catalog(name) {
            self.asks(name);
        }
        let args = match &f.args {
            FunctionArguments::None => Vec::new(),
            FunctionArguments::Subquery(q) if name == "array" => return self.array_subquery(c, q),
            FunctionArguments::Subquery(q) => vec![self.scalar_subquery(c, q)?],
            FunctionArguments::List(l) => {
                if matches!(l.duplicate_treatment, Some(DuplicateTreatment::Distinct)) {
                    return Err(SqlError::new(
                        "42809",
                        format!("DISTINCT specified, but {name} is not an aggregate function"),
                    ));
                }
                if name == "make_interval" {
                    return self.make_interval(c, &l.args);
                }
                if name == "normalize" {
                    return self.normalize(c, &l.args);
                }
                if let Some(t) = self.variadic_call(c, name, &l.args)? {
                    return Ok(t);
                }
                let placed = match name.starts_with("jsonb_path_") {
                    true => path_arguments(&l.args),
                    false => None,
                };
                match name {
                    name if name.starts_with("jsonb_path_") => {
                        self.function_args(c, placed.as_deref().unwrap_or(&l.args))?
                    }
                    "row" => self.fields_of(c, &l.args)?,
                    "coalesce" => self.function_args(c.one_value("COALESCE"), &l.args)?,
                    _ => self.function_args(c, &l.args)?,
                }
            }
        };
        if is_set_returning(name) || is_each(name) {
            return self.set_call(c, name, args);
        }
        match name {
            "coalesce" => {
                let (exprs, ty) = self.unify(args, "COALESCE")?;
                let mut it = exprs.into_iter().rev();
                let last = it
                    .next()
                    .ok_or_else(|| SqlError::new("42601", "syntax error at or near \")\""))?;
                let out = it.try_fold(last, |rest, e| {
                    shared(e, &ty, |e| Ok(super::conditions::first(e, rest)))
                })?;
                Ok(Typed::new(out, ty))
            }
            "nullif" => {
                let [a, b]: [Typed; 2] = args.try_into().map_err(|_| arity("nullif"))?;
                let a = if a.unknown && b.unknown {
                    self.known(a)?
                } else {
                    a
                };
                let ty = super::types::left_of_equals(
                    (!a.unknown).then_some(&a.ty),
                    (!b.unknown).then_some(&b.ty),
                );
                let ty = super::coerce::with_digits(ty, [&a].into_iter());
                let out = a.shared(&ty, |a| {
                    let eq = self.compare(Operator::Eq, a.clone(), b)?;
                    let a = self.implicit(&a, &ty)?;
                    Ok(when(vec![(eq.expr, super::null_of(&ty))], a))
                })?;
                Ok(Typed::new(out, ty))
            }
            "greatest" | "least" => self.extreme(name, args),
            "now"
            | "current_timestamp"
            | "transaction_timestamp"
            | "statement_timestamp"
            | "current_date"
            | "localtimestamp"
            | "current_time"
            | "localtime"
            | "clock_timestamp" => match args.as_slice() {
                [] => self.clock(name),
                [digits] => self.clock_of_digits(name, digits),
                _ => Err(no_function(
                    name,
                    &args.iter().map(Typed::type_name).collect::<Vec<_>>(),
                )),
            },
            "current_user" | "session_user" | "user" | "current_role" => {
                Ok(self.text(&self.session.user))
            }
            "current_database" | "current_catalog" => Ok(self.text(&self.session.database)),
            "current_schema" => Ok(self.current_schema()),
            "pg_backend_pid" if args.is_empty() => {
                let pid = ScalarValue::Int32(Some(self.session.backend_pid));
                Ok(Typed::new(literal(pid), SqlType::Int4))
            }
            "pg_postmaster_start_time" | "pg_conf_load_time" if args.is_empty() => {
                self.asks(name);
                let started = self.session.server_started.map(crate::execute::time_value);
                let none = || super::null_of(&SqlType::Timestamptz);
                let started = started.map_or_else(none, literal);
                Ok(Typed::new(started, SqlType::Timestamptz))
            }
            "current_schemas" => {
                let implicit = args.into_iter().next().ok_or_else(|| arity(name))?;
                let implicit = self.boolean(implicit, "current_schemas")?;
                let path = || self.session.search_path.iter().map(|s| self.text(s));
                let system = std::iter::once(self.text("pg_catalog"));
                let with = self.array_of(system.chain(path()).collect())?;
                let without = self.array_of(path().collect())?;
                let branches = vec![
                    (implicit.clone().is_true(), with.expr),
                    (implicit.is_false(), without.expr),
                ];
                let e = super::conditions::when(branches, super::null_of(&with.ty));
                Ok(Typed::new(e, with.ty))
            }
            "current_setting" => {
                let key = args
                    .first()
                    .and_then(text_of)
                    .unwrap_or_default()
                    .to_lowercase();
                self.asks(name);
                let strict = |e: &Typed| {
                    matches!(&e.expr, Expr::Literal(ScalarValue::Boolean(Some(false)), _))
                };
                let may_miss = args.get(1).is_some_and(|e| !strict(e));
                match self.session.variables.get(&key) {
                    Some(v) => Ok(self.text(&v.clone())),
                    // A definition that is read again has no session whose settings it could ask for.
                    None if may_miss || self.session.variables.is_empty() => {
                        Ok(Typed::new(super::null_of(&SqlType::Text), SqlType::Text))
                    }
                    None => Err(SqlError::new(
                        "42704",
                        format!("unrecognized configuration parameter \"{key}\""),
                    )),
                }
            }
            "pg_typeof" => {
                let t = args.into_iter().next().ok_or_else(|| arity("pg_typeof"))?;
                Ok(self.text(&t.type_name()))
            }
            "row" => self.row_of(args),
            "age" if args.len() == 1 => {
                let midnight = self.cast(
                    self.clock("current_date")?,
                    &SqlType::Timestamp,
                    Context::Explicit,
                )?;
                let mut both = vec![Typed::new(midnight, SqlType::Timestamp)];
                both.extend(args);
                self.function(name, both, None)
            }
            "octet_length" | "format" => {
                let args = args.into_iter().map(|a| self.padded(a));
                self.function(name, args.collect::<Result<_>>()?, None)
            }
            "concat" | "concat_ws" => self.concat_call(name, args),
            "quote_literal" | "quote_nullable" => {
                let texts = args.into_iter().map(|a| {
                    let text = self.any_text(a)?;
                    Ok(Typed::new(text, SqlType::Text))
                });
                self.function(name, texts.collect::<Result<_>>()?, None)
            }
            "to_regclass" => {
                let found = args
                    .first()
                    .and_then(text_of)
                    .and_then(|text| name_of_text(&text))
                    .and_then(|n| self.catalog.resolve(n.schema.as_deref(), &n.name));
                Ok(Typed::new(
                    literal(ScalarValue::Int64(found.map(|r| i64::from(r.oid)))),
                    SqlType::Int8,
                ))
            }
            _ => self.function(name, args, None),
        }
    }

    /// `normalize(x, NFD)`: the form is a word, not a column.
    fn normalize(&self, c: Ctx, args: &[FunctionArg]) -> Result<Typed> {
        const FORMS: [&str; 4] = ["nfc", "nfd", "nfkc", "nfkd"];
        let (form, args) = match args {
            [
                x,
                FunctionArg::Unnamed(FunctionArgExpr::Expr(ast::Expr::Identifier(form))),
            ] if form.quote_style.is_none() && FORMS.contains(&fold(form).as_str()) => {
                (Some(self.text(&fold(form))), std::slice::from_ref(x))
            }
            [_] => (Some(self.text("nfc")), args),
            _ => (None, args),
        };
        let mut args = self.function_args(c, args)?;
        args.extend(form);
        self.function("normalize", args, None)
    }

    /// `x IS NFC NORMALIZED`
    pub(super) fn is_normalized(
        &self,
        c: Ctx,
        x: &ast::Expr,
        form: Option<ast::NormalizationForm>,
        negated: bool,
    ) -> Result<Typed> {
        let form = form.map_or("NFC".to_string(), |form| form.to_string());
        let args = vec![self.expr(c, x)?, self.text(&form)];
        let found = self.function("#is_normalized", args, None)?;
        Ok(match negated {
            true => Typed::new(not(found.expr), SqlType::Bool),
            false => found,
        })
    }

    /// `make_interval(days => 1, hours => 2)`: the sum of its parts.
    fn make_interval(&self, c: Ctx, args: &[FunctionArg]) -> Result<Typed> {
        const PARTS: [(&str, &str); 7] = [
            ("years", "1 year"),
            ("months", "1 month"),
            ("weeks", "7 days"),
            ("days", "1 day"),
            ("hours", "1 hour"),
            ("mins", "1 minute"),
            ("secs", "1 second"),
        ];
        let length = |text: &str| -> Result<Typed> {
            let e = self.cast(self.text(text), &SqlType::Interval, Context::Explicit)?;
            Ok(Typed::new(e, SqlType::Interval))
        };
        let unknown = || no_function("make_interval", &vec!["unknown".to_string(); args.len()]);
        let mut sum = length("0")?;
        for (i, a) in args.iter().enumerate() {
            let (place, value) = match a {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => (Some(i), e),
                FunctionArg::Named {
                    name,
                    arg: FunctionArgExpr::Expr(e),
                    ..
                } => (PARTS.iter().position(|p| p.0 == fold(name)), e),
                FunctionArg::ExprNamed {
                    name: ast::Expr::Identifier(name),
                    arg: FunctionArgExpr::Expr(e),
                    ..
                } => (PARTS.iter().position(|p| p.0 == fold(name)), e),
                _ => return Err(unknown()),
            };
            let (name, unit) = place.and_then(|i| PARTS.get(i)).ok_or_else(unknown)?;
            let ty = if *name == "secs" {
                SqlType::Float8
            } else {
                SqlType::Int4
            };
            let value = Typed::new(self.implicit(&self.expr(c, value)?, &ty)?, ty);
            let part = self.operator(&ast::BinaryOperator::Multiply, value, length(unit)?)?;
            sum = self.operator(&ast::BinaryOperator::Plus, sum, part)?;
        }
        Ok(sum)
    }

    pub(crate) fn function_args(&self, c: Ctx, args: &[FunctionArg]) -> Result<Vec<Typed>> {
        args.iter()
            .map(|a| match a {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => self.expr(c, e),
                // A whole row.
                FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) => {
                    let names = name.0.iter().filter_map(|p| p.as_ident()).cloned();
                    let names: Vec<ast::Ident> = names.collect();
                    match names.as_slice() {
                        // Also where the table has a column of its own name.
                        [table] => match self.whole_row(c.scope, &fold(table))? {
                            Some(row) => Ok(row),
                            None => self.expr(c, &ast::Expr::Identifier(table.clone())),
                        },
                        _ => self.expr(c, &ast::Expr::CompoundIdentifier(names)),
                    }
                }
                FunctionArg::Named { .. } | FunctionArg::ExprNamed { .. } => {
                    Err(SqlError::unsupported("named arguments are not supported"))
                }
                _ => Err(SqlError::new("42601", "syntax error at or near \"*\"")),
            })
            .collect()
    }

    /// What ROW is made of: `t.*` stands for as many fields as `t` has columns.
    fn fields_of(&self, c: Ctx, args: &[FunctionArg]) -> Result<Vec<Typed>> {
        let mut out = vec![];
        for a in args {
            let all = matches!(
                a,
                FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(_))
            );
            for t in self.function_args(c, std::slice::from_ref(a))? {
                match &t.ty {
                    SqlType::Other(arrow::datatypes::DataType::Struct(fields)) if all => {
                        for f in fields {
                            out.push(crate::functions::rows::field(t.clone(), f.name())?);
                        }
                    }
                    _ => out.push(t),
                }
            }
        }
        Ok(out)
    }

    pub(super) fn current_schema(&self) -> Typed {
        let mut path = self.session.search_path.iter();
        let first = path.find(|schema| !schema.starts_with("pg_temp_"));
        self.text(first.map_or("public", |s| s))
    }

    pub(super) fn text(&self, s: &str) -> Typed {
        Typed::new(
            literal(ScalarValue::Utf8View(Some(s.to_string()))),
            SqlType::Text,
        )
    }

    pub(super) fn extreme(&self, name: &str, args: Vec<Typed>) -> Result<Typed> {
        if args.is_empty() {
            return Err(SqlError::new("42601", "syntax error at or near \")\""));
        }
        let (exprs, ty) = self.unify(
            args,
            if name == "greatest" {
                "GREATEST"
            } else {
                "LEAST"
            },
        )?;
        if !matches!(ty, SqlType::Interval | SqlType::Jsonb | SqlType::Array(_)) {
            let f = match name {
                "greatest" => datafusion::functions::core::greatest(),
                _ => datafusion::functions::core::least(),
            };
            return Ok(Typed::new(f.call(exprs), ty));
        }
        let op = if name == "greatest" {
            Operator::GtEq
        } else {
            Operator::LtEq
        };
        let mut it = exprs.into_iter();
        let first = it.next().ok_or_else(|| arity(name))?;
        let mut out = first;
        for e in it {
            // NULLs are passed over.
            out = shared(out, &ty, |out| {
                shared(e, &ty, |e| {
                    let (l, r) = (out.clone(), e.clone());
                    let keep =
                        self.compare(op, Typed::new(l, ty.clone()), Typed::new(r, ty.clone()))?;
                    let keep = super::conditions::or(Expr::IsNull(Box::new(e.clone())), keep.expr);
                    Ok(when(vec![(keep, out)], e))
                })
            })?;
        }
        Ok(Typed::new(out, ty))
    }

    /// `current_timestamp(3)` and its relatives, rounded to so many digits behind the second's point.
    fn clock_of_digits(&self, name: &str, digits: &Typed) -> Result<Typed> {
        let digits = match (name, &digits.expr) {
            (
                "current_timestamp" | "localtimestamp" | "current_time" | "localtime",
                Expr::Literal(ScalarValue::Int32(Some(n)), _),
            ) if *n >= 0 => *n as u32,
            _ => return Err(no_function(name, &[digits.type_name()])),
        };
        let now = self.clock(name)?;
        if digits >= 6 {
            return Ok(now);
        }
        let step = 10i32.pow(6 - digits);
        let rounded = format!(
            "date_bin('{step} microseconds', now() + interval '{} microseconds', \
             timestamptz '2000-01-01 00:00:00+00')",
            step / 2
        );
        let scope = Scope::new(Outer::None);
        let ctes = Ctes::new();
        let rounded = crate::parser::parse_expr(&rounded)?;
        let rounded = self.expr(Ctx::plain(&scope, &ctes, "SELECT"), &rounded)?;
        let to = now.ty;
        let e = self.cast(rounded, &to, Context::Explicit)?;
        Ok(Typed::new(e, to))
    }

    /// now() and its relatives: calls that the executor replaces by the statement's time.
    fn clock(&self, name: &str) -> Result<Typed> {
        self.uses_now();
        let of = match name {
            "statement_timestamp" | "clock_timestamp" => Time::Statement,
            _ => Time::Transaction,
        };
        let now = call(
            of.function(),
            of.function().into(),
            std::sync::Arc::new(|_| {
                Err(crate::functions::external(SqlError::unsupported(
                    "now() can't be evaluated here",
                )))
            }),
            Volatility::Volatile,
            true,
            vec![],
            &SqlType::Timestamptz,
        );
        let now = Typed::new(now, SqlType::Timestamptz);
        let to = match name {
            "current_date" => SqlType::Date,
            "localtimestamp" => SqlType::Timestamp,
            "current_time" | "localtime" => SqlType::Time,
            _ => return Ok(now),
        };
        let e = self.cast(now, &to, Context::Explicit)?;
        Ok(Typed::new(e, to))
    }

    fn concat_call(&self, name: &str, args: Vec<Typed>) -> Result<Typed> {
        if args.len() < 1 + usize::from(name == "concat_ws") {
            let types: Vec<String> = args.iter().map(Typed::type_name).collect();
            return Err(no_function(name, &types));
        }
        let args = args
            .into_iter()
            .map(|a| {
                // Within concat a boolean is t or f.
                let e = if matches!(a.ty, SqlType::Bool) && !a.unknown {
                    let t = literal(ScalarValue::Utf8View(Some("t".into())));
                    let f = literal(ScalarValue::Utf8View(Some("f".into())));
                    a.shared(&SqlType::Text, |a| {
                        let branches = vec![
                            (Box::new(a.expr.clone()), Box::new(t)),
                            (Box::new(not(a.expr)), Box::new(f)),
                        ];
                        Ok(Expr::Case(Case::new(None, branches, None)))
                    })?
                } else {
                    self.any_text(self.padded(a)?)?
                };
                Ok(Typed::new(e, SqlType::Text))
            })
            .collect::<Result<Vec<_>>>()?;
        self.function(name, args, None)
    }

    /// An array from elements.
    pub(crate) fn array_of(&self, items: Vec<Typed>) -> Result<Typed> {
        if items.is_empty() {
            return Err(
                SqlError::new("42P18", "cannot determine type of empty array")
                    .hint("Explicitly cast to the desired type, for example ARRAY[]::integer[]."),
            );
        }
        let (exprs, of) = self.unify(items, "ARRAY")?;
        if matches!(of, SqlType::Array(_)) {
            return Err(SqlError::unsupported("arrays of arrays are not supported"));
        }
        let ty = SqlType::Array(Box::new(of.clone()));
        let args = exprs
            .into_iter()
            .map(|e| Typed::new(e, of.clone()))
            .collect();
        let e = self.function("array_construct", args, None)?;
        Ok(Typed::new(e.expr, ty))
    }

    /// `ROW(a, b)`: a record with the fields f1, f2, …
    pub(crate) fn row_of(&self, items: Vec<Typed>) -> Result<Typed> {
        let (mut columns, mut args) = (Vec::new(), Vec::new());
        for (i, t) in items.into_iter().enumerate() {
            let t = self.known(t)?;
            columns.push((format!("f{}", i + 1), t.ty));
            args.push(t.expr);
        }
        let (e, ty) = crate::functions::rows::row(columns, args, false);
        Ok(Typed::new(e, ty))
    }

    pub(crate) fn empty_array(&self, ty: &SqlType) -> Result<Typed> {
        // Rows have no text that they could be read from.
        if let (SqlType::Array(of), DataType::List(item)) = (ty, ty.arrow())
            && crate::functions::rows::is_row(of)
        {
            let none = new_empty_array(item.data_type());
            let empty = ListArray::new(item, OffsetBuffer::from_lengths([0]), none, None);
            let empty = ScalarValue::List(std::sync::Arc::new(empty));
            return Ok(Typed::new(literal(empty), ty.clone()));
        }
        let t = Typed {
            expr: literal(ScalarValue::Utf8View(Some("{}".into()))),
            ty: SqlType::Text,
            unknown: true,
        };
        Ok(Typed::new(
            self.settle(&t, ty, Context::Explicit)?,
            ty.clone(),
        ))
    }

    /// A call of a registered function, its overload chosen by the arguments.
    pub(crate) fn function(&self, name: &str, args: Vec<Typed>, _: Option<()>) -> Result<Typed> {
        if let Some(t) = self.number_function(name, &args)? {
            return Ok(t);
        }
        let candidates = registry::overloads(name);
        if candidates.is_empty() {
            return self.cast_call(name, args);
        }
        let best = candidates
            .iter()
            .filter_map(|o| Some((cost(o, &args)?, o)))
            .min_by_key(|(c, _)| *c)
            .map(|(_, o)| o)
            .ok_or_else(|| {
                no_function(name, &args.iter().map(Typed::type_name).collect::<Vec<_>>())
            })?;
        self.apply(best, args)
    }

    fn apply(&self, o: &Overload, args: Vec<Typed>) -> Result<Typed> {
        let element = element_of(o, &args);
        let (mut exprs, mut types) = (Vec::new(), Vec::new());
        for (i, a) in args.iter().enumerate() {
            let to = match o.arg(i) {
                Arg::Type(t) => t.clone(),
                Arg::Numeric if a.unknown => SqlType::Numeric(0, super::types::SCALE_DEFAULT),
                Arg::Numeric => {
                    let (p, s) = as_numeric(&a.ty);
                    SqlType::Numeric(p, s)
                }
                Arg::Any if a.unknown => SqlType::Text,
                Arg::Any => a.ty.clone(),
                Arg::Element => element.clone().unwrap_or(SqlType::Text),
                Arg::Array => SqlType::Array(Box::new(element.clone().unwrap_or(SqlType::Text))),
            };
            exprs.push(match (&a.ty, &to) {
                (SqlType::Time, SqlType::Interval) if !a.unknown => {
                    self.cast(a.clone(), &to, Context::Explicit)?
                }
                _ => self.implicit(a, &to)?,
            });
            types.push(to);
        }
        let ret = match &o.ret {
            Ret::Type(t) => t.clone(),
            Ret::Element => element.unwrap_or(SqlType::Text),
            Ret::Array => SqlType::Array(Box::new(element.unwrap_or(SqlType::Text))),
            Ret::Argument(i) => types.get(*i).cloned().unwrap_or(SqlType::Text),
        };
        if o.volatility == Volatility::Volatile {
            self.volatile(o.name);
        }
        let kernel = (o.make)(&CallTypes {
            args: &types,
            ret: &ret,
            zone: self.zone(),
        });
        let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
        let key = format!("{}({}) {ret} {}", o.name, shown.join(","), self.zone());
        let text = |t: &SqlType| *t == SqlType::Text;
        let similar = o.name == "substring" && types.len() == 3 && types.iter().all(text);
        types.push(ret.clone());
        let name = match similar || by_zone(o.name, &types, self.zone()) {
            true => revised(o.name),
            false => o.name.to_string(),
        };
        let call = call(&name, key, kernel, o.volatility, o.fallible, exprs, &ret);
        Ok(Typed::new(call, ret))
    }

    /// `int4(x)`, `text(x)`: a type's name called as a function.
    fn cast_call(&self, name: &str, mut args: Vec<Typed>) -> Result<Typed> {
        let to = match name {
            "int2" => SqlType::Int2,
            "int4" => SqlType::Int4,
            "int8" => SqlType::Int8,
            "float4" => SqlType::Float4,
            "float8" => SqlType::Float8,
            "text" => SqlType::Text,
            "bool" => SqlType::Bool,
            "date" => SqlType::Date,
            "timestamp" => SqlType::Timestamp,
            "timestamptz" => SqlType::Timestamptz,
            "interval" => SqlType::Interval,
            _ => {
                return Err(no_function(
                    name,
                    &args.iter().map(Typed::type_name).collect::<Vec<_>>(),
                ));
            }
        };
        match (args.pop(), args.is_empty()) {
            (Some(t), true) => Ok(Typed::new(self.cast(t, &to, Context::Explicit)?, to)),
            _ => Err(arity(name)),
        }
    }

    /// Functions whose result type depends on the digits of their arguments.
    fn number_function(&self, name: &str, args: &[Typed]) -> Result<Option<Typed>> {
        // What has no type is a number, where there is no such function of anything else.
        let unknown = match (name, args.len()) {
            ("round" | "trunc", 2) | ("trim_scale", 1) => 1,
            ("div", 2) => 2,
            _ => 0,
        };
        let mut args = args.to_vec();
        // Of a numeric these give a numeric in PostgreSQL, and double precision here.
        let of_numeric = |a: &Typed| match &a.expr {
            Expr::ScalarFunction(f) => {
                matches!(
                    f.name(),
                    "sqrt" | "exp" | "ln" | "log" | "log10" | "power" | "pow"
                )
            }
            _ => false,
        };
        if let (("round" | "trunc", 2), Some(a)) = ((name, args.len()), args.first_mut())
            && a.ty == SqlType::Float8
            && of_numeric(a)
        {
            let ty = SqlType::Numeric(0, super::types::SCALE_DEFAULT);
            *a = Typed::new(self.cast(a.clone(), &ty, Context::Explicit)?, ty);
        }
        for a in args.iter_mut().take(unknown).filter(|a| a.unknown) {
            let ty = self.open_numeric(a, SqlType::Numeric(0, super::types::SCALE_DEFAULT));
            *a = Typed::new(self.settle(a, &ty, Context::Explicit)?, ty);
        }
        let Some(first) = args.first() else {
            return Ok(None);
        };
        let numeric = matches!(first.ty, SqlType::Numeric(..)) && !first.unknown;
        let (declared, s) = as_numeric(&first.ty);
        let p = SqlType::digits(declared);
        let ret = match (name, args.len()) {
            ("ceil" | "ceiling" | "floor", 1) | ("round" | "trunc", 1) if numeric => {
                SqlType::Numeric(((p as i16 - s as i16 + 1).clamp(1, 38)) as u8, 0)
            }
            ("abs", 1) if numeric => first.ty.clone(),
            ("trim_scale", 1) if numeric => {
                return Ok(Some(Typed::new(first.expr.clone(), SqlType::Numeric(0, s))));
            }
            ("sign", 1) if numeric => SqlType::Numeric(1, 0),
            ("round" | "trunc", 2) if numeric || (!first.unknown && is_integer(&first.ty)) => {
                let digits = match &args[1].expr {
                    Expr::Literal(ScalarValue::Int32(Some(n)), _) => Some(*n),
                    _ => None,
                };
                let scale = digits.map_or(s, |d| d.clamp(0, 30) as i8);
                if declared == 0 && digits.is_none() {
                    SqlType::Numeric(0, scale)
                } else {
                    SqlType::Numeric(
                        ((p as i16 - s as i16 + 1 + scale as i16).clamp(1, 38)) as u8,
                        scale,
                    )
                }
            }
            ("mod", 2) if args.iter().all(|a| a.unknown || is_number(&a.ty)) => {
                return self
                    .operator(
                        &ast::BinaryOperator::Modulo,
                        args[0].clone(),
                        args[1].clone(),
                    )
                    .map(Some);
            }
            ("div", 2)
                if args
                    .iter()
                    .all(|a| !a.unknown && (1..=4).contains(&number_rank(&a.ty))) =>
            {
                let (l, r) = (self.numeric_of(&args[0])?, self.numeric_of(&args[1])?);
                let scales = (as_numeric(&l.ty).1, as_numeric(&r.ty).1);
                let (e, ty) = crate::functions::arith::quotient(l.expr, r.expr, scales);
                return Ok(Some(Typed::new(e, ty)));
            }
            _ => return Ok(None),
        };
        let from = SqlType::Numeric(declared, s);
        let mut exprs = vec![self.implicit(first, &from)?];
        if let Some(n) = args.get(1) {
            exprs.push(self.implicit(n, &SqlType::Int4)?);
        }
        let kernel = registry::numeric_kernel(name, s, &ret);
        let key = format!("{name}({from}) {ret}");
        Ok(Some(Typed::new(
            call(name, key, kernel, Volatility::Immutable, true, exprs, &ret),
            ret,
        )))
    }

    fn numeric_of(&self, t: &Typed) -> Result<Typed> {
        let (p, s) = as_numeric(&t.ty);
        self.as_type(t, &SqlType::Numeric(p, s))
    }
}

/// The arguments of `jsonb_path_query` and its kin in their places, if some are named.
fn path_arguments(args: &[FunctionArg]) -> Option<Vec<FunctionArg>> {
    const NAMES: [&str; 4] = ["target", "path", "vars", "silent"];
    let mut placed: [Option<FunctionArg>; 4] = Default::default();
    let mut any_named = false;
    for (i, a) in args.iter().enumerate() {
        let (place, arg) = match a {
            FunctionArg::Unnamed(arg) => (Some(i), arg),
            FunctionArg::Named { name, arg, .. }
            | FunctionArg::ExprNamed {
                name: ast::Expr::Identifier(name),
                arg,
                ..
            } => {
                any_named = true;
                (NAMES.iter().position(|n| *n == fold(name)), arg)
            }
            FunctionArg::ExprNamed { .. } => return None,
        };
        let slot = placed.get_mut(place?)?;
        if slot.replace(FunctionArg::Unnamed(arg.clone())).is_some() {
            return None;
        }
    }
    let [target, path, vars, silent] = placed;
    let none = ast::Value::SingleQuotedString("{}".into());
    let none = FunctionArgExpr::Expr(ast::Expr::Value(none.into()));
    let vars = vars.or_else(|| silent.is_some().then_some(FunctionArg::Unnamed(none)));
    any_named.then(|| [target, path, vars, silent].into_iter().flatten().collect())
}

/// The text of a literal.
pub(crate) fn text_of(t: &Typed) -> Option<String> {
    match &t.expr {
        Expr::Literal(ScalarValue::Utf8View(s), _) => s.clone(),
        _ => None,
    }
}

pub(super) fn arity(name: &str) -> SqlError {
    SqlError::new(
        "42883",
        format!("function {name} does not exist with this number of arguments"),
    )
}

/// `function f(integer) does not exist`
pub(crate) fn no_function(name: &str, types: &[String]) -> SqlError {
    let e = SqlError::new(
        "42883",
        format!("function {name}({}) does not exist", types.join(", ")),
    );
    e.hint("No function matches the given name and argument types. You might need to add explicit type casts.")
}

/// What `anyelement` is in this call.
fn element_of(o: &Overload, args: &[Typed]) -> Option<SqlType> {
    let mut out: Option<SqlType> = None;
    for (i, a) in args.iter().enumerate().filter(|(_, a)| !a.unknown) {
        let t = match (o.try_arg(i), &a.ty) {
            (Some(Arg::Array), SqlType::Array(of)) => of.as_ref().clone(),
            (Some(Arg::Element), t) => t.clone(),
            _ => continue,
        };
        out = match out {
            None => Some(t),
            Some(o) => super::types::united(&o, &t),
        };
    }
    out
}

/// Whether the call has IGNORE NULLS.
pub(super) fn ignores_nulls(f: &ast::Function) -> bool {
    let ignored = ast::NullTreatment::IgnoreNulls;
    let within = |c: &ast::FunctionArgumentClause| match c {
        ast::FunctionArgumentClause::IgnoreOrRespectNulls(n) => *n == ignored,
        _ => false,
    };
    f.null_treatment == Some(ignored)
        || matches!(&f.args, ast::FunctionArguments::List(l) if l.clauses.iter().any(within))
}

/// How well an overload fits; less is better, `None` not at all.
fn cost(o: &Overload, args: &[Typed]) -> Option<(u32, u32)> {
    if args.len() < o.least_args() || (!o.variadic && args.len() > o.args.len()) {
        return None;
    }
    let element = element_of(o, args);
    let (mut total, mut unlikely) = (0, 0);
    for (i, a) in args.iter().enumerate() {
        total += match o.try_arg(i)? {
            Arg::Type(SqlType::Text) if a.unknown => 0,
            // Of types of one kind it is the one that PostgreSQL prefers; that decides between equals only.
            Arg::Type(SqlType::Float8 | SqlType::Timestamptz) if a.unknown => 1,
            Arg::Type(_) if a.unknown => {
                unlikely += 1;
                1
            }
            Arg::Type(SqlType::Interval) if matches!(a.ty, SqlType::Time) => 2,
            Arg::Type(t) => implicit_cost(&a.ty, t)?,
            Arg::Numeric if a.unknown => 1,
            Arg::Numeric => implicit_cost(&a.ty, &SqlType::Numeric(38, 0))?,
            Arg::Any => 3,
            Arg::Array if a.unknown => 4,
            Arg::Array => match &a.ty {
                SqlType::Array(of) => 1 + implicit_cost(of, element.as_ref()?)?,
                _ => return None,
            },
            Arg::Element if a.unknown => 4,
            Arg::Element => 1 + implicit_cost(&a.ty, element.as_ref()?)?,
        };
    }
    Some((total, unlikely))
}
