//! SQL/JSON paths: from their text to a tree. [`super::json_path_eval`] runs them.

use super::json_document::Document;
use super::json_text::unescape;
use crate::error::{Result, SqlError};

/// A path.
pub(super) struct Path {
    /// Structure that isn't there is an error.
    pub strict: bool,
    pub root: Node,
}

/// An expression or predicate.
pub(super) enum Node {
    /// `$`
    Root,
    /// `@`
    Current,
    /// `$name`
    Variable(String),
    /// `last`
    Last,
    Literal(Document),
    Access(Box<Node>, Step),
    Arithmetic(Box<Node>, char, Box<Node>),
    /// `-` or `+` before it.
    Signed(char, Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Compare(Box<Node>, Comparison, Box<Node>),
    /// `like_regex`: the pattern and PostgreSQL's flags of it.
    Matches(Box<Node>, String, String),
    StartsWith(Box<Node>, Box<Node>),
    Exists(Box<Node>),
    IsUnknown(Box<Node>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What is taken of a value.
pub(super) enum Step {
    /// `.key`
    Key(String),
    /// `.*`
    AnyKey,
    /// `.**{first to last}`; `None`: the leaves.
    Within(Option<u32>, Option<u32>),
    /// `[*]`
    AnyElement,
    /// `[from to to, …]`
    Elements(Vec<(Node, Option<Node>)>),
    /// `? (…)`
    Filter(Box<Node>),
    /// `.method()`
    Method(Method),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Type,
    Size,
    Double,
    Ceiling,
    Floor,
    Abs,
}

/// Parentheses within parentheses that are still parsed.
const DEPTH_MAX: usize = 100;
/// Operators and steps of a path, at most: a chain of them is a tree as deep, whose levels take stack.
const PARTS_MAX: usize = 250;

pub(super) fn parse(text: &str) -> Result<Path> {
    let mut p = Parser {
        text,
        at: 0,
        depth: 0,
        parts: 0,
    };
    if text.trim().is_empty() {
        return Err(super::parse::invalid("jsonpath", text));
    }
    let strict = p.word("strict");
    if !strict {
        p.word("lax");
    }
    let root = p.or()?;
    p.space();
    match p.rest().is_empty() {
        true => Ok(Path { strict, root }),
        false => Err(p.unexpected()),
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    parts: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn unexpected(&self) -> SqlError {
        let rest = self.rest().trim_start();
        let word = rest.len() - rest.trim_start_matches(is_name).len();
        let message = match rest.chars().next() {
            None => "syntax error at end of jsonpath input".to_string(),
            Some(c) => {
                let near = &rest[..word.max(c.len_utf8())];
                format!("syntax error at or near \"{near}\" of jsonpath input")
            }
        };
        SqlError::new("42601", message)
    }

    /// Takes these signs if they come next.
    fn sign(&mut self, signs: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(signs);
        if found {
            self.at += signs.len();
        }
        found
    }

    fn need(&mut self, sign: &str) -> Result<()> {
        match self.sign(sign) {
            true => Ok(()),
            false => Err(self.unexpected()),
        }
    }

    /// Takes this word if it comes next.
    fn word(&mut self, word: &str) -> bool {
        self.space();
        let after = self.rest().strip_prefix(word);
        let found = after.is_some_and(|after| !after.starts_with(is_name));
        if found {
            self.at += word.len();
        }
        found
    }

    fn name(&mut self) -> Option<&'t str> {
        let rest = self.rest();
        let length = rest.len() - rest.trim_start_matches(is_name).len();
        let numeric = rest.starts_with(|c: char| c.is_ascii_digit());
        (length > 0 && !numeric).then(|| {
            self.at += length;
            &rest[..length]
        })
    }

    /// A string in double quotes.
    fn string(&mut self) -> Result<Option<String>> {
        self.space();
        let rest = self.rest();
        if !rest.starts_with('"') {
            return Ok(None);
        }
        let mut escaped = false;
        for (i, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    self.at += i + 1;
                    return Ok(Some(unescape(&rest[..=i])));
                }
                _ => {}
            }
        }
        Err(SqlError::new(
            "42601",
            "unterminated quoted string at end of jsonpath input",
        ))
    }

    /// Counts an operator or a step.
    fn part(&mut self) -> Result<()> {
        self.parts += 1;
        match self.parts > PARTS_MAX {
            false => Ok(()),
            true => Err(SqlError::new(
                "54001",
                format!("a jsonpath has more than {PARTS_MAX} operators and steps"),
            )),
        }
    }

    fn or(&mut self) -> Result<Node> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(SqlError::new("54001", "a jsonpath is nested too deeply"));
        }
        let mut left = self.and()?;
        while self.sign("||") {
            self.part()?;
            left = Node::Or(Box::new(left), Box::new(self.and()?));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn and(&mut self) -> Result<Node> {
        let mut left = self.not()?;
        while self.sign("&&") {
            self.part()?;
            left = Node::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Node> {
        match self.sign("!") {
            true => Ok(Node::Not(Box::new(self.not_operand()?))),
            false => self.predicate(),
        }
    }

    /// `!` stands before parentheses and `exists` only.
    fn not_operand(&mut self) -> Result<Node> {
        self.space();
        match self.rest().starts_with('(') || self.rest().starts_with("exists") {
            true => self.predicate(),
            false => Err(self.unexpected()),
        }
    }

    fn predicate(&mut self) -> Result<Node> {
        if self.word("exists") {
            self.need("(")?;
            let inner = self.or()?;
            self.need(")")?;
            return Ok(Node::Exists(Box::new(inner)));
        }
        let left = Box::new(self.sum()?);
        const SIGNS: [(&str, Comparison); 8] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<>", Comparison::Unequal),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ];
        for (sign, comparison) in SIGNS {
            if self.sign(sign) {
                let right = Box::new(self.sum()?);
                return Ok(Node::Compare(left, comparison, right));
            }
        }
        if self.word("like_regex") {
            return self.like_regex(left);
        }
        if self.word("starts") {
            if !self.word("with") {
                return Err(self.unexpected());
            }
            let start = match self.string()? {
                Some(s) => Node::Literal(Document::String(s)),
                None => self.variable()?,
            };
            return Ok(Node::StartsWith(left, Box::new(start)));
        }
        Ok(*left)
    }

    fn like_regex(&mut self, value: Box<Node>) -> Result<Node> {
        let mut pattern = self.string()?.ok_or_else(|| self.unexpected())?;
        let given = match self.word("flag") {
            true => self.string()?.ok_or_else(|| self.unexpected())?,
            false => String::new(),
        };
        if let Some(other) = given.chars().find(|c| !"isqm".contains(*c)) {
            let message = "invalid input syntax for type jsonpath";
            let detail =
                format!("Unrecognized flag character \"{other}\" in LIKE_REGEX predicate.");
            return Err(SqlError::new("42601", message).detail(detail));
        }
        if given.contains('q') {
            pattern = regex::escape(&pattern);
        }
        let mut flags = match (given.contains('s'), given.contains('m')) {
            (true, true) => "w",
            (true, false) => "s",
            (false, true) => "n",
            (false, false) => "p",
        }
        .to_string();
        if given.contains('i') {
            flags.push('i');
        }
        Ok(Node::Matches(value, pattern, flags))
    }

    fn sum(&mut self) -> Result<Node> {
        let mut left = self.product()?;
        loop {
            let sign = match (self.sign("+"), self.sign("-")) {
                (true, _) => '+',
                (_, true) => '-',
                _ => return Ok(left),
            };
            self.part()?;
            left = Node::Arithmetic(Box::new(left), sign, Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Node> {
        let mut left = self.signed()?;
        loop {
            self.space();
            let Some(sign @ ('*' | '/' | '%')) = self.rest().chars().next() else {
                return Ok(left);
            };
            self.at += 1;
            self.part()?;
            left = Node::Arithmetic(Box::new(left), sign, Box::new(self.signed()?));
        }
    }

    fn signed(&mut self) -> Result<Node> {
        for sign in ["-", "+"] {
            if self.sign(sign) {
                let sign = if sign == "-" { '-' } else { '+' };
                return Ok(Node::Signed(sign, Box::new(self.accessed()?)));
            }
        }
        self.accessed()
    }

    fn accessed(&mut self) -> Result<Node> {
        let mut node = self.primary()?;
        while let Some(step) = self.step()? {
            self.part()?;
            node = Node::Access(Box::new(node), step);
        }
        Ok(node)
    }

    fn primary(&mut self) -> Result<Node> {
        if self.sign("(") {
            let inner = self.or()?;
            self.need(")")?;
            if self.word("is") {
                return match self.word("unknown") {
                    true => Ok(Node::IsUnknown(Box::new(inner))),
                    false => Err(self.unexpected()),
                };
            }
            return Ok(inner);
        }
        if self.sign("@") {
            return Ok(Node::Current);
        }
        self.space();
        if self.rest().starts_with('$') {
            return self.variable();
        }
        if let Some(text) = self.string()? {
            return Ok(Node::Literal(Document::String(text)));
        }
        for (word, value) in [
            ("true", Document::Bool(true)),
            ("false", Document::Bool(false)),
            ("null", Document::Null),
        ] {
            if self.word(word) {
                return Ok(Node::Literal(value));
            }
        }
        match self.word("last") {
            true => Ok(Node::Last),
            false => self.number().map(Node::Literal),
        }
    }

    /// `$` or `$name`
    fn variable(&mut self) -> Result<Node> {
        self.need("$")?;
        if self.rest().starts_with('"') {
            let name = self.string()?.unwrap_or_default();
            return Ok(Node::Variable(name));
        }
        let name = self.name().map(str::to_string);
        Ok(name.map_or(Node::Root, Node::Variable))
    }

    fn number(&mut self) -> Result<Document> {
        let rest = self.rest();
        let mut before = ' ';
        let end = rest.find(|c: char| {
            let exponent = matches!(before, 'e' | 'E') && matches!(c, '+' | '-');
            before = c;
            !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E') || exponent)
        });
        // `1.type()` has a method of 1, `.5` is written 0.5.
        let written = &rest[..end.unwrap_or(rest.len())];
        let written = written.trim_end_matches(['.', 'e', 'E']);
        let value = match written.strip_prefix('.') {
            Some(fraction) => format!("0.{fraction}"),
            None => written.to_string(),
        };
        if super::parse::decimal_parts(&value).is_none() {
            return Err(self.unexpected());
        }
        self.at += written.len();
        Ok(Document::Number(value))
    }

    fn step(&mut self) -> Result<Option<Step>> {
        if self.sign("?") {
            self.need("(")?;
            let condition = self.or()?;
            self.need(")")?;
            return Ok(Some(Step::Filter(Box::new(condition))));
        }
        if self.sign("[") {
            return self.elements().map(Some);
        }
        if !self.sign(".") {
            return Ok(None);
        }
        if self.sign("**") {
            return self.within().map(Some);
        }
        if self.sign("*") {
            return Ok(Some(Step::AnyKey));
        }
        if let Some(key) = self.string()? {
            return Ok(Some(Step::Key(key)));
        }
        let name = self.name().ok_or_else(|| self.unexpected())?;
        if !self.sign("(") {
            return Ok(Some(Step::Key(name.to_string())));
        }
        self.need(")")?;
        let method = match name {
            "type" => Method::Type,
            "size" => Method::Size,
            "double" => Method::Double,
            "ceiling" => Method::Ceiling,
            "floor" => Method::Floor,
            "abs" => Method::Abs,
            "keyvalue" | "datetime" => {
                let message = format!("jsonpath item method .{name}() is not supported");
                return Err(SqlError::unsupported(message));
            }
            _ => return Err(self.unexpected()),
        };
        Ok(Some(Step::Method(method)))
    }

    fn elements(&mut self) -> Result<Step> {
        if self.sign("*") {
            self.need("]")?;
            return Ok(Step::AnyElement);
        }
        let mut all = vec![];
        loop {
            let from = self.sum()?;
            let to = match self.word("to") {
                true => Some(self.sum()?),
                false => None,
            };
            all.push((from, to));
            if !self.sign(",") {
                break;
            }
        }
        self.need("]")?;
        Ok(Step::Elements(all))
    }

    /// Levels behind `.**`.
    fn within(&mut self) -> Result<Step> {
        if !self.sign("{") {
            return Ok(Step::Within(Some(0), Some(u32::MAX)));
        }
        let first = self.level()?;
        let last = match self.word("to") {
            true => self.level()?.or(Some(u32::MAX)),
            false => first,
        };
        self.need("}")?;
        Ok(Step::Within(first, last))
    }

    /// A level's number; `None`: `last`.
    fn level(&mut self) -> Result<Option<u32>> {
        if self.word("last") {
            return Ok(None);
        }
        self.space();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let digits = &rest[..end.unwrap_or(rest.len())];
        let level = digits.parse().map_err(|_| self.unexpected())?;
        self.at += digits.len();
        Ok(Some(level))
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
