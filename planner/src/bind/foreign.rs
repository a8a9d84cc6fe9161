//! What the parser reads of other systems' SQL and nothing here looks at. It is refused: a DELETE whose LIMIT is disregarded deletes everything.
//!
//! Syntax trees are taken apart with all their fields, so that what a newer parser adds to them doesn't go unseen.

use sqlparser::ast::{self, TableFactor};

use crate::error::{Result, SqlError};
use crate::parser::spelling::Overriding;

fn refuse(found: bool, what: &str) -> Result<()> {
    match found {
        false => Ok(()),
        true => Err(SqlError::new("42601", format!("syntax error: {what}"))),
    }
}

const IN_QUERY: &str = "this form of SELECT is not PostgreSQL's";

/// Of a SELECT.
pub(super) fn select(s: &ast::Select) -> Result<()> {
    let ast::Select {
        select_token: _,
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from: _,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by: _,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window: _,
        qualify: _,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = s;
    if into.is_some() {
        return Err(SqlError::unsupported("SELECT INTO is not supported"));
    }
    let foreign = select_modifiers.is_some()
        || top.is_some()
        || exclude.is_some()
        || !lateral_views.is_empty()
        || prewhere.is_some()
        || !connect_by.is_empty()
        || !cluster_by.is_empty()
        || !distribute_by.is_empty()
        || !sort_by.is_empty()
        || value_table_mode.is_some()
        || *flavor != ast::SelectFlavor::Standard;
    refuse(foreign, IN_QUERY)?;
    projection.iter().try_for_each(|item| match item {
        ast::SelectItem::Wildcard(o) | ast::SelectItem::QualifiedWildcard(_, o) => {
            let ast::WildcardAdditionalOptions {
                wildcard_token: _,
                opt_ilike,
                opt_exclude,
                opt_except,
                opt_replace,
                opt_rename,
                opt_alias,
            } = o;
            let some = opt_ilike.is_some()
                || opt_exclude.is_some()
                || opt_except.is_some()
                || opt_replace.is_some()
                || opt_rename.is_some()
                || opt_alias.is_some();
            refuse(some, "* with options is not PostgreSQL's")
        }
        _ => Ok(()),
    })
}

/// Of a whole query, with its tail.
pub(super) fn query(q: &ast::Query) -> Result<()> {
    let ast::Query {
        with: _,
        body: _,
        order_by,
        limit_clause,
        fetch: _,
        locks: _,
        for_clause,
        settings,
        format_clause,
        pipe_operators,
    } = q;
    let by = |l: &ast::LimitClause| match l {
        ast::LimitClause::LimitOffset { limit_by, .. } => !limit_by.is_empty(),
        ast::LimitClause::OffsetCommaLimit { .. } => true,
    };
    let foreign = order_by.as_ref().is_some_and(|o| o.interpolate.is_some())
        || limit_clause.as_ref().is_some_and(by)
        || for_clause.is_some()
        || settings.is_some()
        || format_clause.is_some()
        || !pipe_operators.is_empty();
    refuse(foreign, IN_QUERY)
}

/// Of a relation in FROM.
pub(super) fn relation(factor: &TableFactor) -> Result<()> {
    let sample = match factor {
        TableFactor::Table {
            name: _,
            alias: _,
            args,
            with_hints,
            version,
            with_ordinality: _,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            let settings = args.as_ref().is_some_and(|a| a.settings.is_some());
            let foreign = settings
                || !with_hints.is_empty()
                || version.is_some()
                || !partitions.is_empty()
                || json_path.is_some()
                || !index_hints.is_empty();
            refuse(
                foreign,
                "hints and versions of relations are not PostgreSQL's",
            )?;
            sample
        }
        TableFactor::Derived {
            lateral: _,
            subquery: _,
            alias: _,
            sample,
        } => sample,
        _ => return Ok(()),
    };
    match sample {
        None => Ok(()),
        Some(_) => Err(SqlError::unsupported("TABLESAMPLE is not supported")),
    }
}

/// Of `ceil` and `floor`, which have one argument.
pub(super) fn rounded(field: &ast::CeilFloorKind) -> Result<()> {
    let plain = matches!(
        field,
        ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime)
    );
    refuse(!plain, "ceil and floor have one argument")
}

/// Of a call with OVER.
pub(super) fn window(f: &ast::Function, aggregate: bool) -> Result<()> {
    let ast::Function {
        name: _,
        uses_odbc_syntax: _,
        parameters: _,
        args,
        filter,
        null_treatment: _,
        over: _,
        within_group: _,
    } = f;
    if filter.is_some() && !aggregate {
        return Err(SqlError::unsupported(
            "FILTER is not implemented for non-aggregate window functions",
        ));
    }
    let ast::FunctionArguments::List(args) = args else {
        return Ok(());
    };
    let has = |found: fn(&ast::FunctionArgumentClause) -> bool| args.clauses.iter().any(found);
    if has(|c| matches!(c, ast::FunctionArgumentClause::OrderBy(_))) {
        return Err(SqlError::unsupported(
            "aggregate ORDER BY is not implemented for window functions",
        ));
    }
    refuse(
        has(|c| !matches!(c, ast::FunctionArgumentClause::IgnoreOrRespectNulls(_))),
        "this clause in arguments is not PostgreSQL's",
    )
}

/// Of an INSERT.
pub(super) fn insert(i: &ast::Insert) -> Result<()> {
    let ast::Insert {
        insert_token: _,
        optimizer_hints: _,
        or,
        ignore,
        into: _,
        table: _,
        table_alias: _,
        columns: _,
        overwrite,
        source: _,
        assignments,
        partitioned,
        after_columns,
        has_table_keyword,
        on: _,
        returning: _,
        output,
        replace_into,
        priority,
        insert_alias,
        settings,
        format_clause,
        multi_table_insert_type,
        multi_table_into_clauses,
        multi_table_when_clauses,
        multi_table_else_clause,
    } = i;
    let foreign = or.is_some()
        || *ignore
        || *overwrite
        || !assignments.is_empty()
        || partitioned.is_some() && Overriding::of(i).is_none()
        || !after_columns.is_empty()
        || *has_table_keyword
        || output.is_some()
        || *replace_into
        || priority.is_some()
        || insert_alias.is_some()
        || settings.is_some()
        || format_clause.is_some()
        || multi_table_insert_type.is_some()
        || !multi_table_into_clauses.is_empty()
        || !multi_table_when_clauses.is_empty()
        || multi_table_else_clause.is_some();
    let result = refuse(foreign, "this form of INSERT is not PostgreSQL's");
    result.map_err(|e| e.hint("INSERT … ON CONFLICT says what is done with rows that are there."))
}

const LIMITED: &str = "UPDATE and DELETE have no ORDER BY, LIMIT or OR";

fn limited(found: bool) -> Result<()> {
    refuse(found, LIMITED)
        .map_err(|e| e.hint("Choose the rows in WHERE: … WHERE id IN (SELECT id FROM … LIMIT 10)."))
}

/// Of an UPDATE.
pub(super) fn update(u: &ast::Update) -> Result<()> {
    let ast::Update {
        update_token: _,
        optimizer_hints: _,
        table: _,
        assignments: _,
        from: _,
        selection: _,
        returning: _,
        output,
        or,
        order_by,
        limit,
    } = u;
    refuse(output.is_some(), "OUTPUT is not PostgreSQL's")?;
    limited(or.is_some() || !order_by.is_empty() || limit.is_some())
}

/// Of a DELETE.
pub(super) fn delete(d: &ast::Delete) -> Result<()> {
    let ast::Delete {
        delete_token: _,
        optimizer_hints: _,
        tables,
        from: _,
        using: _,
        selection: _,
        returning: _,
        output,
        order_by,
        limit,
    } = d;
    refuse(output.is_some(), "OUTPUT is not PostgreSQL's")?;
    refuse(!tables.is_empty(), "DELETE names one table, after FROM")?;
    limited(!order_by.is_empty() || limit.is_some())
}
