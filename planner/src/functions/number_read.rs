//! to_number: text by a template.

use super::number_templates::{Mark, Node, Template};
use super::parse::{decimal_parts, fits, invalid, numeric_overflow, rescale};
use crate::error::{Result, SqlError};

/// The number that `text` is by a template, with so many decimals.
pub(super) fn number(text: &str, template: &str, scale: i8) -> Result<i128> {
    let template = Template::of(template)?;
    for (wrong, mark) in [(template.exponent, "EEEE"), (template.roman, "RN")] {
        if wrong {
            return Err(SqlError::unsupported(format!(
                "\"{mark}\" not supported for input"
            )));
        }
    }
    let mut reader = Reader {
        template: &template,
        rest: text,
        sign: None,
        digits: String::new(),
        before: 0,
        behind: 0,
        point: false,
    };
    for node in &template.nodes {
        if reader.rest.is_empty() {
            break;
        }
        match node {
            // One character of the text for each of the template.
            Node::Text(_) => reader.skip(),
            Node::Mark(mark) => reader.mark(*mark),
        }
    }
    let digits = reader.digits.trim_end_matches('.');
    let sign = if reader.sign == Some('-') { "-" } else { "" };
    let (n, own) = decimal_parts(&format!("{sign}{digits}")).ok_or_else(|| {
        invalid(
            "numeric",
            &format!("{}{digits}", reader.sign.unwrap_or(' ')),
        )
    })?;
    let places = template.pre + template.shift_digits;
    let whole = digits.split('.').next().unwrap_or_default();
    if whole.trim_start_matches('0').len() > places {
        let precision = places + reader.behind;
        return Err(numeric_overflow(precision as u8, reader.behind as i8));
    }
    rescale(n, own + template.shift_digits as i32, scale as i32)
        .ok_or_else(|| numeric_overflow(38, scale))
        .and_then(|n| fits(n, 38, scale))
}

/// Reads a number mark by mark.
struct Reader<'a> {
    template: &'a Template,
    rest: &'a str,
    sign: Option<char>,
    digits: String,
    /// Digits read before the point.
    before: usize,
    /// And behind it.
    behind: usize,
    point: bool,
}

impl Reader<'_> {
    fn skip(&mut self) {
        let mut chars = self.rest.chars();
        chars.next();
        self.rest = chars.as_str();
    }

    /// Passes over what belongs to no number.
    fn skip_foreign(&mut self, count: usize) {
        let is_ours = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '+' | '-');
        for _ in 0..count {
            if self.rest.starts_with(is_ours) {
                return;
            }
            self.skip();
        }
    }

    /// Takes the sign that comes next, if it is one of those.
    fn take_sign(&mut self, signs: &[char]) -> bool {
        match self.rest.chars().next().filter(|c| signs.contains(c)) {
            Some(c) => {
                self.sign = Some(if c == '+' { '+' } else { '-' });
                self.skip();
                true
            }
            None => false,
        }
    }

    fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Nine | Mark::Zero | Mark::Point => self.digit(mark),
            Mark::Comma | Mark::Group if !self.template.fill && self.rest.starts_with(',') => {
                self.skip();
            }
            Mark::Currency => self.skip_foreign(1),
            Mark::Ordinal(_) => self.skip_foreign(2),
            Mark::Minus if !self.take_sign(&['-']) => self.skip_foreign(1),
            Mark::Plus if !self.take_sign(&['+']) => self.skip_foreign(1),
            Mark::PlusMinus if !self.take_sign(&['-', '+']) => self.skip_foreign(1),
            _ => {}
        }
    }

    /// A digit or the point, with the sign before it or behind it.
    fn digit(&mut self, mark: Mark) {
        let t = self.template;
        self.rest = self.rest.strip_prefix(' ').unwrap_or(self.rest);
        if self.sign.is_none() && mark != Mark::Point && self.before + self.behind == 0 {
            match t.angle {
                true => self.take_sign(&['-', '+', '<']),
                false => self.take_sign(&['-', '+']),
            };
        }
        let mut read = false;
        if self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            if self.point && self.behind == t.post {
                return self.skip();
            }
            self.digits.push_str(&self.rest[..1]);
            match self.point {
                true => self.behind += 1,
                false => self.before += 1,
            }
            read = true;
        } else if t.decimal && !self.point && self.rest.starts_with('.') {
            self.digits.push('.');
            self.point = true;
            read = true;
        }
        // One behind the number, wherever the template has it.
        if self.sign.is_none() && self.before + self.behind > 0 {
            let behind = self.rest.get(1..).unwrap_or_default();
            if t.sign.is_some() && read {
                if behind.starts_with(['-', '+']) {
                    self.skip();
                    self.take_sign(&['-', '+']);
                    return;
                }
            } else if !read
                && t.sign.is_none()
                && (t.plus || t.minus)
                && self.take_sign(&['-', '+'])
            {
                return;
            }
        }
        self.skip();
    }
}
