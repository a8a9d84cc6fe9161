//! Templates of numbers, as to_char and to_number have them.

use std::cell::RefCell;
use std::rc::Rc;

use crate::error::{Result, SqlError};

/// What stands for something in a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Comma,
    Point,
    Zero,
    Nine,
    Exponent,
    Fill,
    Group,
    Currency,
    Minus,
    Plus,
    Angle,
    /// In capitals or not.
    Roman(bool),
    Sign,
    PlusMinus,
    /// In capitals or not.
    Ordinal(bool),
    Shift,
    Blank,
    /// Known, and without effect.
    Nothing,
}

/// The marks as they are written, longer ones before their beginnings. Each also in small letters.
const MARKS: [(&str, Mark); 20] = [
    ("EEEE", Mark::Exponent),
    ("FM", Mark::Fill),
    ("MI", Mark::Minus),
    ("PL", Mark::Plus),
    ("PR", Mark::Angle),
    ("RN", Mark::Roman(true)),
    ("SG", Mark::PlusMinus),
    ("SP", Mark::Nothing),
    ("TH", Mark::Ordinal(true)),
    (",", Mark::Comma),
    (".", Mark::Point),
    ("0", Mark::Zero),
    ("9", Mark::Nine),
    ("B", Mark::Blank),
    ("C", Mark::Nothing),
    ("D", Mark::Point),
    ("G", Mark::Group),
    ("L", Mark::Currency),
    ("S", Mark::Sign),
    ("V", Mark::Shift),
];

#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    Mark(Mark),
    /// Itself.
    Text(char),
}

/// Where S puts the sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignPlace {
    Before,
    After,
}

/// A template, and what its marks say together.
#[derive(Clone, Debug, Default)]
pub(super) struct Template {
    pub nodes: Vec<Node>,
    /// Digits before the point.
    pub pre: usize,
    /// Digits behind it.
    pub post: usize,
    /// The digit, from 0, from which zeros are written, if there is a 0 before the point.
    pub zero_start: Option<usize>,
    /// Digits up to the last 0.
    pub zero_end: usize,
    /// Digits behind V.
    pub shift_digits: usize,
    /// S, and how many digits stand before it.
    pub sign: Option<(SignPlace, usize)>,
    pub decimal: bool,
    pub fill: bool,
    pub angle: bool,
    pub minus: bool,
    pub plus: bool,
    pub roman: bool,
    pub shift: bool,
    pub exponent: bool,
    pub blank: bool,
}

thread_local! {
    /// The template that was read last.
    static LAST: RefCell<Option<(String, Rc<Template>)>> = const { RefCell::new(None) };
}

impl Template {
    /// The template of a text. It is read once where it is the same as the last one: it mostly is for all rows.
    pub fn of(text: &str) -> Result<Rc<Template>> {
        LAST.with_borrow_mut(|last| match last {
            Some((have, template)) if have == text => Ok(Rc::clone(template)),
            _ => {
                let template = Rc::new(Template::parse(text)?);
                *last = Some((text.to_string(), Rc::clone(&template)));
                Ok(template)
            }
        })
    }

    fn parse(text: &str) -> Result<Template> {
        let mut out = Template::default();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some((len, mark)) = mark_at(rest) {
                out.add(mark)?;
                out.nodes.push(Node::Mark(mark));
                rest = &rest[len..];
                continue;
            }
            rest = match c {
                '"' => out.quoted(&rest[1..]),
                '\\' if rest.starts_with("\\\"") => out.literal(&rest[1..]),
                _ => out.literal(rest),
            };
        }
        Ok(out)
    }

    /// Takes text up to a quote or the end; a backslash quotes what follows it.
    fn quoted<'a>(&mut self, mut rest: &'a str) -> &'a str {
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('"') {
                return after;
            }
            let plain = rest.strip_prefix('\\').filter(|after| !after.is_empty());
            rest = self.literal(plain.unwrap_or(rest));
        }
        rest
    }

    /// Takes one character.
    fn literal<'a>(&mut self, rest: &'a str) -> &'a str {
        let mut chars = rest.chars();
        self.nodes.extend(chars.next().map(Node::Text));
        chars.as_str()
    }

    fn add(&mut self, mark: Mark) -> Result<()> {
        let wrong = |message: &str| Err(SqlError::new("42601", message));
        if self.exponent && mark != Mark::Exponent {
            return wrong("\"EEEE\" must be the last pattern used");
        }
        let signed = self.plus || self.minus;
        match mark {
            Mark::Nine if self.angle => return wrong("\"9\" must be ahead of \"PR\""),
            Mark::Nine if self.shift => self.shift_digits += 1,
            Mark::Nine if self.decimal => self.post += 1,
            Mark::Nine => self.pre += 1,
            Mark::Zero if self.angle => return wrong("\"0\" must be ahead of \"PR\""),
            Mark::Zero => {
                match self.decimal {
                    true => self.post += 1,
                    false => {
                        self.zero_start.get_or_insert(self.pre);
                        self.pre += 1;
                    }
                }
                self.zero_end = self.pre + self.post;
            }
            Mark::Blank => {
                self.blank |= self.pre == 0 && self.post == 0 && self.zero_start.is_none()
            }
            Mark::Point if self.decimal => return wrong("multiple decimal points"),
            Mark::Point | Mark::Shift if self.shift || self.decimal => {
                if mark == Mark::Point || self.decimal {
                    return wrong("cannot use \"V\" and decimal point together");
                }
            }
            Mark::Point => self.decimal = true,
            Mark::Shift => self.shift = true,
            Mark::Fill => self.fill = true,
            Mark::Sign if self.sign.is_some() => return wrong("cannot use \"S\" twice"),
            Mark::Sign if signed || self.angle => {
                return wrong("cannot use \"S\" and \"PL\"/\"MI\"/\"SG\"/\"PR\" together");
            }
            Mark::Sign if self.decimal => self.sign = Some((SignPlace::After, self.pre)),
            Mark::Sign => self.sign = Some((SignPlace::Before, self.pre)),
            Mark::Minus if self.sign.is_some() => {
                return wrong("cannot use \"S\" and \"MI\" together");
            }
            Mark::Plus if self.sign.is_some() => {
                return wrong("cannot use \"S\" and \"PL\" together");
            }
            Mark::PlusMinus if self.sign.is_some() => {
                return wrong("cannot use \"S\" and \"SG\" together");
            }
            Mark::Minus => self.minus = true,
            Mark::Plus => self.plus = true,
            Mark::PlusMinus => (self.minus, self.plus) = (true, true),
            Mark::Angle if signed || self.sign.is_some() => {
                return wrong("cannot use \"PR\" and \"S\"/\"PL\"/\"MI\"/\"SG\" together");
            }
            Mark::Angle => self.angle = true,
            Mark::Roman(_) => self.roman = true,
            Mark::Exponent if self.exponent => return wrong("cannot use \"EEEE\" twice"),
            Mark::Exponent => {
                let others = self.blank || self.fill || self.angle || self.roman || self.shift;
                if others || signed || self.sign.is_some() {
                    let e = SqlError::new("42601", "\"EEEE\" is incompatible with other formats");
                    return Err(e.detail(
                        "\"EEEE\" may only be used together with digit and decimal point patterns.",
                    ));
                }
                self.exponent = true;
            }
            Mark::Comma | Mark::Group | Mark::Currency | Mark::Ordinal(_) | Mark::Nothing => {}
        }
        Ok(())
    }
}

/// The mark that text begins with, and its length.
fn mark_at(text: &str) -> Option<(usize, Mark)> {
    MARKS.iter().find_map(|(name, mark)| {
        let small = name.to_ascii_lowercase();
        let mark = match (text.starts_with(name), text.starts_with(&small), *mark) {
            (true, _, mark) => mark,
            (_, true, Mark::Roman(_)) => Mark::Roman(false),
            (_, true, Mark::Ordinal(_)) => Mark::Ordinal(false),
            (_, true, mark) => mark,
            _ => return None,
        };
        Some((name.len(), mark))
    })
}
