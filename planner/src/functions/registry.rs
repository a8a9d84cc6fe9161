//! Functions by name: argument types, result type and kernel of each overload.
//!
//! A signature is written as `name(types) result`. Besides SQL's types: `any`, `anyarray`, `anyelement`,
//! `numeric` (of any digits), `arg1` (the first argument's type); `...` after the last type repeats it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use datafusion_expr::Volatility;
use tidemill_zset::schema::SqlType;

use super::{Kernel, array, datetime, strings, system, to_char};

/// Types of one call.
pub struct CallTypes<'a> {
    /// Of the arguments after coercion.
    pub args: &'a [SqlType],
    /// Of the result.
    pub ret: &'a SqlType,
    /// The session's time zone.
    pub zone: &'a str,
}

/// What an argument may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// Exactly that type, after implicit casts.
    Type(SqlType),
    /// numeric of any precision and scale.
    Numeric,
    /// Anything, as it is.
    Any,
    /// The type that all `anyelement` and the elements of all `anyarray` share.
    Element,
    /// An array of it.
    Array,
}

/// What a call gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Ret {
    /// That type.
    Type(SqlType),
    /// `anyelement`
    Element,
    /// `anyarray`
    Array,
    /// The type of an argument, from 0.
    Argument(usize),
}

/// Makes a kernel for a call's types.
pub type Make = Arc<dyn Fn(&CallTypes) -> Kernel + Send + Sync>;

/// One overload.
pub struct Overload {
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub args: Vec<Arg>,
    /// The last argument may be repeated, or left out.
    pub variadic: bool,
    /// Its result.
    pub ret: Ret,
    /// May the planner compute it once?
    pub volatility: Volatility,
    /// Can fail on some input.
    pub fallible: bool,
    /// Its kernel.
    pub make: Make,
}

impl Overload {
    /// The type of argument `i`.
    pub fn arg(&self, i: usize) -> &Arg {
        self.try_arg(i).unwrap_or(&Arg::Any)
    }

    /// The type of argument `i`, if there may be so many.
    pub fn try_arg(&self, i: usize) -> Option<&Arg> {
        self.args
            .get(i)
            .or_else(|| self.args.last().filter(|_| self.variadic))
    }

    /// The least number of arguments.
    pub fn least_args(&self) -> usize {
        if self.variadic {
            self.args.len() - 1
        } else {
            self.args.len()
        }
    }
}

/// Collects overloads.
#[derive(Default)]
pub struct Registry {
    by_name: HashMap<&'static str, Vec<Overload>>,
}

impl Registry {
    /// A function that depends on its arguments only, and can't fail.
    pub fn add(&mut self, signature: &'static str, kernel: Kernel) {
        self.put(
            signature,
            Volatility::Immutable,
            false,
            Arc::new(move |_| kernel.clone()),
        );
    }

    /// One that can fail on some input.
    pub fn add_fallible(&mut self, signature: &'static str, kernel: Kernel) {
        self.put(
            signature,
            Volatility::Immutable,
            true,
            Arc::new(move |_| kernel.clone()),
        );
    }

    /// One whose kernel depends on the types of the call.
    pub fn add_typed(
        &mut self,
        signature: &'static str,
        make: impl Fn(&CallTypes) -> Kernel + Send + Sync + 'static,
    ) {
        self.put(signature, Volatility::Immutable, true, Arc::new(make));
    }

    /// One that gives something else at each call.
    pub fn add_volatile(&mut self, signature: &'static str, kernel: Kernel) {
        self.put(
            signature,
            Volatility::Volatile,
            false,
            Arc::new(move |_| kernel.clone()),
        );
    }

    fn put(&mut self, signature: &'static str, volatility: Volatility, fallible: bool, make: Make) {
        let (name, rest) = signature
            .split_once('(')
            .expect("a signature has parentheses");
        let (args, ret) = rest.split_once(") ").expect("a signature has a result");
        let mut variadic = false;
        let args = args
            .split(", ")
            .filter(|a| !a.is_empty())
            .map(|a| {
                variadic |= a.ends_with("...");
                match a.trim_end_matches("...") {
                    "any" => Arg::Any,
                    "anyarray" => Arg::Array,
                    "anyelement" => Arg::Element,
                    "numeric" => Arg::Numeric,
                    t => Arg::Type(named(t)),
                }
            })
            .collect();
        let ret = match ret {
            "anyelement" => Ret::Element,
            "anyarray" => Ret::Array,
            "arg1" => Ret::Argument(0),
            t => Ret::Type(named(t)),
        };
        let o = Overload {
            name,
            args,
            variadic,
            ret,
            volatility,
            fallible,
            make,
        };
        self.by_name.entry(name).or_default().push(o);
    }
}

fn named(t: &str) -> SqlType {
    if let Some(of) = t.strip_suffix("[]") {
        return SqlType::Array(Box::new(named(of)));
    }
    match t {
        "bool" => SqlType::Bool,
        "int2" => SqlType::Int2,
        "int4" => SqlType::Int4,
        "int8" => SqlType::Int8,
        "float4" => SqlType::Float4,
        "float8" => SqlType::Float8,
        "text" => SqlType::Text,
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::Timestamptz,
        "interval" => SqlType::Interval,
        "uuid" => SqlType::Uuid,
        "json" => SqlType::Json,
        "jsonb" => SqlType::Jsonb,
        "numeric6" => SqlType::Numeric(38, 6),
        "numeric0" => SqlType::Numeric(38, 0),
        "numeric_open" => SqlType::Numeric(0, 6),
        other => panic!("unknown type in a signature: {other}"),
    }
}

/// The overloads of a name.
pub fn overloads(name: &str) -> &'static [Overload] {
    static ALL: LazyLock<Registry> = LazyLock::new(|| {
        let mut r = Registry::default();
        strings::register(&mut r);
        super::arith::register(&mut r);
        array::register(&mut r);
        datetime::register(&mut r);
        super::json::register(&mut r);
        super::json_change::register(&mut r);
        super::json_path_eval::register(&mut r);
        super::json_order::register(&mut r);
        super::bytes::register(&mut r);
        super::math::register(&mut r);
        super::ordered::register(&mut r);
        super::regexps::register(&mut r);
        super::separated::register(&mut r);
        super::like::register(&mut r);
        super::similar::register(&mut r);
        system::register(&mut r);
        to_char::register(&mut r);
        super::unicode::register(&mut r);
        r
    });
    ALL.by_name.get(name).map_or(&[], Vec::as_slice)
}

/// round, trunc, ceil, floor, abs and sign over numeric of scale `scale`.
pub fn numeric_kernel(name: &str, scale: i8, ret: &SqlType) -> Kernel {
    super::arith::rounding(name, scale, ret)
}
