//! Calls with VARIADIC: the elements of an array as arguments.

use datafusion_common::ScalarValue;
use sqlparser::ast::{FunctionArg, FunctionArgExpr};
use tidemill_zset::schema::SqlType;

use super::calls::no_function;
use super::expr::{Ctx, argument_of};
use super::{Binder, Typed, literal};
use crate::error::{Result, SqlError};
use crate::functions::call;
use crate::functions::registry::{self, Arg, Ret};
use crate::functions::spread::Spread;
use crate::parser::variadic::VARIADIC;

/// Functions that take any number of arguments; those of the first list take them of any type.
const OF_ANY: [&str; 9] = [
    "concat",
    "concat_ws",
    "format",
    "json_build_array",
    "json_build_object",
    "jsonb_build_array",
    "jsonb_build_object",
    "num_nulls",
    "num_nonnulls",
];
const OF_TEXT: [&str; 4] = [
    "json_extract_path",
    "json_extract_path_text",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
];

impl Binder<'_> {
    /// The call, if VARIADIC stands before its last argument.
    pub(super) fn variadic_call(
        &self,
        c: Ctx,
        name: &str,
        args: &[FunctionArg],
    ) -> Result<Option<Typed>> {
        let Some((FunctionArg::Unnamed(FunctionArgExpr::Expr(last)), fixed)) = args.split_last()
        else {
            return Ok(None);
        };
        let Some(array) = argument_of(last, VARIADIC) else {
            return Ok(None);
        };
        let (fixed, array) = (self.function_args(c, fixed)?, self.expr(c, array)?);
        let overload = registry::overloads(name).iter().find(|o| {
            let listed = OF_ANY.contains(&name) || OF_TEXT.contains(&name);
            listed && o.args.len() == fixed.len() + 1
        });
        let overload = overload.ok_or_else(|| {
            let all = fixed.iter().chain([&array]);
            no_function(name, &all.map(Typed::type_name).collect::<Vec<_>>())
        })?;
        let array = match &array.ty {
            SqlType::Array(_) if !array.unknown && OF_ANY.contains(&name) => array,
            _ if OF_ANY.contains(&name) => {
                let message = "VARIADIC argument must be an array";
                return Err(SqlError::new("42804", message));
            }
            _ => self.as_type(&array, &SqlType::Array(Box::new(SqlType::Text)))?,
        };
        if matches!(name, "concat" | "concat_ws") {
            let empty = literal(ScalarValue::Utf8View(Some(String::new())));
            let separator = fixed.into_iter().next();
            let separator = separator.unwrap_or_else(|| Typed::new(empty, SqlType::Text));
            let args = vec![array, separator];
            return self.function("array_to_string", args, None).map(Some);
        }
        let (SqlType::Array(of), Ret::Type(ret)) = (array.ty.clone(), overload.ret.clone()) else {
            return Err(SqlError::internal("VARIADIC of no array"));
        };
        let (mut exprs, mut types) = (Vec::new(), Vec::new());
        for (i, t) in fixed.into_iter().enumerate() {
            let to = match overload.arg(i) {
                Arg::Type(to) => to.clone(),
                _ => t.ty.clone(),
            };
            exprs.push(self.implicit(&t, &to)?);
            types.push(to);
        }
        exprs.push(array.expr);
        let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
        let key = format!(
            "{name}({},variadic {of}) {ret} {}",
            shown.join(","),
            self.zone()
        );
        let spread = Spread {
            make: overload.make.clone(),
            fixed: types,
            of: *of,
            ret: ret.clone(),
            zone: self.zone().to_string(),
            null_is_empty: name == "format",
        };
        let e = call(
            name,
            key,
            spread.kernel(),
            overload.volatility,
            overload.fallible,
            exprs,
            &ret,
        );
        Ok(Some(Typed::new(e, ret)))
    }
}
