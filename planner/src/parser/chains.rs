//! How long chains of operators may be: `1 + 1 + …`, `a OR b OR …`, `… UNION ALL …`. The tree of a chain is as deep as the chain is long,
//! and who goes through it takes stack for each level. Lists, which have commas, may be of any length.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Result, SqlError};

/// Operators of one chain. The server's threads have stacks for twice as many (docs/design/0061).
const CHAIN_MAX: usize = 5000;
/// Relations and queries that JOIN, UNION and their kin put together: their plans are as deep.
const RELATIONS_MAX: usize = 1500;

/// Calls within each other of functions that have a syntax of their own. sqlparser reads what it can't read so again, as a call of any
/// function, so that a mistake within n of them takes 2ⁿ times as long to find.
const SPECIAL_CALLS_MAX: usize = 16;
const SPECIAL_CALLS: [&str; 13] = [
    "ceil",
    "convert",
    "extract",
    "floor",
    "interval",
    "overlay",
    "position",
    "safe_cast",
    "substr",
    "substring",
    "trim",
    "try_cast",
    "try_convert",
];

/// The operators so far on one level of parentheses.
#[derive(Default)]
struct Level {
    /// Calls of functions with a syntax of their own that it is within.
    special_calls: usize,
    /// Since the last connective: `a = 1 OR b = 2` has no chain of comparisons.
    operators: usize,
    /// AND and OR.
    connectives: usize,
    relations: usize,
}

/// Refuses a statement whose chains are too long.
pub(super) fn check(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    let mut special = 0;
    for token in tokens {
        let after_special = match &token.token {
            Token::Whitespace(_) => special,
            _ => std::mem::take(&mut special),
        };
        match &token.token {
            Token::LParen | Token::LBracket => {
                let special_calls = level.special_calls + after_special;
                outer.push(std::mem::take(&mut level));
                level.special_calls = special_calls;
            }
            // More may be closed than was opened, which the parser says.
            Token::RParen | Token::RBracket => level = outer.pop().unwrap_or_default(),
            Token::SemiColon => level = Level::default(),
            Token::Comma => (level.operators, level.connectives) = (0, 0),
            Token::Word(word) if word.quote_style.is_none() => {
                let is = |words: &[&str]| words.iter().any(|w| word.value.eq_ignore_ascii_case(w));
                // `position` is read twice in each way.
                special = usize::from(is(&SPECIAL_CALLS)) + usize::from(is(&["position"]));
                if is(&["and", "or"]) {
                    level.operators = 0;
                    level.connectives += 1;
                }
                level.operators += usize::from(is(&["not", "collate"]));
                level.relations += usize::from(is(&["join", "union", "except", "intersect"]));
            }
            Token::Word(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Whitespace(_)
            | Token::Period
            | Token::Placeholder(_) => {}
            _ => level.operators += 1,
        }
        let message = "stack depth limit exceeded";
        if level.special_calls > SPECIAL_CALLS_MAX {
            let detail = format!(
                "At most {SPECIAL_CALLS_MAX} calls of substring, trim, extract and their kin may be within each other."
            );
            return Err(SqlError::new("54001", message).detail(detail));
        }
        if level.operators.max(level.connectives) > CHAIN_MAX || level.relations > RELATIONS_MAX {
            let detail = format!(
                "An expression has at most {CHAIN_MAX} operators in a chain, a query at most {RELATIONS_MAX} JOINs, UNIONs and their kin."
            );
            let hint = "A list of values (IN, = ANY, VALUES) may be of any length.";
            return Err(SqlError::new("54001", message).detail(detail).hint(hint));
        }
    }
    Ok(())
}
