//! sqlparser's dialect of PostgreSQL, without what takes exponential time.

use std::any::TypeId;

use sqlparser::ast::{Expr, Ident, ObjectNamePart};
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// PostgreSQL's, except that the name of a named argument is a name. As it might be any expression, sqlparser reads each
/// argument as one first and then once more: `abs(abs(…))` twenty deep took five seconds.
#[derive(Debug)]
pub(super) struct PlainNames;

const BASE: PostgreSqlDialect = PostgreSqlDialect {};

/// Words of other systems that are names of columns in PostgreSQL, also without AS.
const COLUMN_ALIASES: &[Keyword] = &[
    Keyword::TOP,
    Keyword::SORT,
    Keyword::VIEW,
    Keyword::MINUS,
    Keyword::CLUSTER,
    Keyword::DISTRIBUTE,
    Keyword::EXPLAIN,
    Keyword::ANALYZE,
];

/// The same of tables.
const TABLE_ALIASES: &[Keyword] = &[
    Keyword::TOP,
    Keyword::SORT,
    Keyword::VIEW,
    Keyword::START,
    Keyword::SAMPLE,
    Keyword::SETTINGS,
    Keyword::FORMAT,
    Keyword::CLUSTER,
    Keyword::CONNECT,
    Keyword::DISTRIBUTE,
    Keyword::EXPLAIN,
    Keyword::MINUS,
    Keyword::PARTITION,
    Keyword::PIVOT,
    Keyword::UNPIVOT,
    Keyword::PREWHERE,
];

/// What the base says.
macro_rules! as_base {
    ($($name:ident),* $(,)?) => {
        $(fn $name(&self) -> bool {
            BASE.$name()
        })*
    };
}

impl Dialect for PlainNames {
    /// The parser takes it for the base, which it asks for by type here and there.
    fn dialect(&self) -> TypeId {
        BASE.dialect()
    }

    fn supports_named_fn_args_with_expr_name(&self) -> bool {
        false
    }

    /// `lag(a IGNORE NULLS) OVER …`, as DuckDB and others write it.
    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }

    /// `f(a := 1)`
    fn supports_named_fn_args_with_assignment_operator(&self) -> bool {
        true
    }

    /// Subscripts of a column that is assigned to.
    fn is_identifier_generating_function_name(
        &self,
        ident: &Ident,
        name_parts: &[ObjectNamePart],
    ) -> bool {
        ident.quote_style.is_some()
            && !name_parts.is_empty()
            && super::elements::is_subscript(&ident.value)
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        BASE.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        BASE.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        BASE.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        BASE.is_identifier_part(ch)
    }

    /// What such a word begins isn't read again as a call or column of that name when it can't be read: each level of
    /// `NOT (NOT (…` would double the time.
    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        use Keyword::{ARRAY, CASE, CAST, NOT};
        matches!(kw, ARRAY | CASE | CAST | NOT) || BASE.is_reserved_for_identifier(kw)
    }

    fn is_column_alias(&self, kw: &Keyword, parser: &mut Parser) -> bool {
        COLUMN_ALIASES.contains(kw) || BASE.is_column_alias(kw, parser)
    }

    fn is_table_alias(&self, kw: &Keyword, parser: &mut Parser) -> bool {
        TABLE_ALIASES.contains(kw) || BASE.is_table_alias(kw, parser)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        BASE.is_custom_operator_part(ch)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        BASE.get_next_precedence(parser)
    }

    fn prec_value(&self, prec: Precedence) -> u8 {
        BASE.prec_value(prec)
    }

    /// `x IN ((SELECT …), …)`: sqlparser takes what begins as a query for all that is in the parentheses.
    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        _precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        let negated = is_keyword(parser, 0, Keyword::NOT);
        let at = usize::from(negated);
        if !is_keyword(parser, at, Keyword::IN) || !begins_list_with_query(parser, at + 1) {
            return None;
        }
        (0..at + 2).for_each(|_| parser.advance_token());
        let list = parser
            .parse_comma_separated(Parser::parse_expr)
            .and_then(|list| parser.expect_token(&Token::RParen).map(|_| list));
        Some(list.map(|list| Expr::InList {
            expr: Box::new(expr.clone()),
            list,
            negated,
        }))
    }

    as_base!(
        supports_unicode_string_literal,
        supports_filter_during_aggregation,
        supports_group_by_expr,
        allow_extract_custom,
        allow_extract_single_quotes,
        supports_create_index_with_clause,
        supports_explain_with_utility_options,
        supports_listen_notify,
        supports_factorial_operator,
        supports_bitwise_shift_operators,
        supports_comment_on,
        supports_load_extension,
        supports_named_fn_args_with_colon_operator,
        supports_empty_projections,
        supports_nested_comments,
        supports_string_escape_constant,
        supports_numeric_literal_underscores,
        supports_array_typedef_with_brackets,
        supports_geometric_types,
        supports_set_names,
        supports_alter_column_type_using,
        supports_notnull_operator,
        supports_interval_options,
        supports_insert_table_alias,
        supports_create_table_like_parenthesized,
        supports_select_wildcard_with_alias,
        supports_comma_separated_trim,
        supports_xml_expressions,
        supports_comment_optimizer_hint,
    );
}

fn is_keyword(parser: &Parser, n: usize, keyword: Keyword) -> bool {
    matches!(&parser.peek_nth_token_ref(n).token, Token::Word(w) if w.keyword == keyword)
}

/// Whether the parentheses that open at the token `open` have parentheses in them that are followed by something which doesn't go on
/// with a query.
fn begins_list_with_query(parser: &Parser, open: usize) -> bool {
    let token = |n| &parser.peek_nth_token_ref(n).token;
    if *token(open) != Token::LParen || *token(open + 1) != Token::LParen {
        return false;
    }
    let (mut depth, mut n) = (0, open + 1);
    loop {
        match token(n) {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::EOF => return false,
            _ => {}
        }
        n += 1;
        if depth == 0 {
            break;
        }
    }
    match token(n) {
        Token::RParen => false,
        Token::Word(w) => !matches!(
            w.keyword,
            Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::ORDER
                | Keyword::LIMIT
                | Keyword::OFFSET
                | Keyword::FETCH
                | Keyword::FOR
        ),
        _ => true,
    }
}
