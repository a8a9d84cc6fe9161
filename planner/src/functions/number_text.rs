//! to_char of numbers.

use arrow::datatypes::i256;

use super::number_templates::{Mark, Node, SignPlace, Template};
use super::parse::{decimal_parts, rescale};
use crate::error::Result;

/// More digits than a double has, and fewer than Rust refuses to write.
const DECIMALS_MAX: usize = 1000;

/// Digits that a float shows, as PostgreSQL has it.
pub(super) const FLOAT4_DIGITS: usize = 6;
pub(super) const FLOAT8_DIGITS: usize = 15;

/// A number as it is to be written: its digits without the sign.
struct Digits {
    negative: bool,
    text: String,
}

/// The decimal number `v` by a template.
pub(super) fn decimal_text(v: &str, template: &str) -> Result<String> {
    let template = Template::clone(&*Template::of(template)?);
    let (n, scale) = decimal_parts(v).unwrap_or((i256::ZERO, 0));
    if template.roman {
        return Ok(write(template, numeral(rescale(n, scale, 0))));
    }
    if template.exponent {
        return Ok(scientific(n, scale, template.post));
    }
    let text = plain(n, scale - template.shift_digits as i32, template.post);
    let is_zero = !text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    let negative = n < i256::ZERO && !is_zero;
    Ok(write(template, Digits { negative, text }))
}

/// A float by a template, with no more than `significant` digits.
pub(super) fn float_text(v: f64, template: &str, significant: usize) -> Result<String> {
    let mut template = Template::clone(&*Template::of(template)?);
    if template.roman {
        let whole = v.round_ties_even();
        let whole = (whole.abs() < 1e9).then(|| i256::from_i128(whole as i128));
        return Ok(write(template, numeral(whole)));
    }
    if template.exponent {
        if !v.is_finite() {
            let (pre, post) = (template.pre, template.post);
            return Ok(format!(" {}.{}", "#".repeat(pre), "#".repeat(post + 4)));
        }
        let decimals = template.post.min(DECIMALS_MAX);
        let text = format!("{v:.decimals$e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return Ok(with_exponent(mantissa, exponent.parse().unwrap_or(0)));
    }
    let v = v * 10f64.powi(template.shift_digits as i32);
    let whole = format!("{:.0}", v.abs()).len();
    template.post = match whole >= significant {
        true => 0,
        false => template.post.min(significant - whole),
    };
    let text = format!("{v:.*}", template.post).replace("inf", "Infinity");
    let digits = Digits {
        negative: text.starts_with('-'),
        text: text.trim_start_matches('-').to_string(),
    };
    Ok(write(template, digits))
}

/// The absolute value of `n / 10^scale` with so many decimals.
fn plain(n: i256, scale: i32, decimals: usize) -> String {
    let kept = scale.min(i32::try_from(decimals).unwrap_or(i32::MAX));
    let n = rescale(n, scale, kept).unwrap_or(i256::ZERO);
    let mut text = n.wrapping_abs().to_string();
    if kept < 0 && text != "0" {
        text.push_str(&"0".repeat(kept.unsigned_abs() as usize));
    }
    let kept = kept.max(0) as usize;
    if kept > 0 {
        text = format!("{text:0>width$}", width = kept + 1);
        text.insert(text.len() - kept, '.');
    } else if decimals > 0 {
        text.push('.');
    }
    text.push_str(&"0".repeat(decimals - kept));
    text
}

/// `n / 10^scale` as `1.23e+04`.
fn scientific(n: i256, scale: i32, decimals: usize) -> String {
    let digits = |n: i256| n.wrapping_abs().to_string();
    let places = digits(n).len() as i32 - 1;
    let kept = places.min(i32::try_from(decimals).unwrap_or(i32::MAX));
    let mut exponent = if n == i256::ZERO { 0 } else { places - scale };
    let mut text = digits(rescale(n, places, kept).unwrap_or(i256::ZERO));
    if text.len() as i32 > kept + 1 {
        // 9.99 became 10.0.
        text.pop();
        exponent += 1;
    }
    text.push_str(&"0".repeat(decimals - kept as usize));
    if decimals > 0 {
        text.insert(1, '.');
    }
    let sign = if n < i256::ZERO { "-" } else { "" };
    with_exponent(&format!("{sign}{text}"), exponent)
}

fn with_exponent(mantissa: &str, exponent: i32) -> String {
    let blank = if mantissa.starts_with('-') { "" } else { " " };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{blank}{mantissa}e{sign}{:02}", exponent.abs())
}

/// A Roman numeral, of 1 to 3999.
fn numeral(n: Option<i256>) -> Digits {
    const DIGITS: [(i128, &str); 13] = [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let n = n.and_then(|n| n.to_i128());
    let mut text = String::new();
    match n.filter(|n| (1..=3999).contains(n)) {
        Some(mut n) => {
            for (value, digit) in DIGITS {
                while n >= value {
                    text.push_str(digit);
                    n -= value;
                }
            }
        }
        None => text = "#".repeat(15),
    }
    Digits {
        negative: false,
        text,
    }
}

/// The digits by a template.
fn write(mut template: Template, mut number: Digits) -> String {
    template.pre += template.shift_digits;
    let mut blanks = 0;
    if template.roman {
        // All other marks are passed over.
        let nodes = std::mem::take(&mut template.nodes);
        template = Template {
            nodes,
            fill: template.fill,
            roman: true,
            ..Template::default()
        };
    } else {
        let whole = number.text.find('.').unwrap_or(number.text.len());
        blanks = template.pre.saturating_sub(whole);
        if whole > template.pre {
            number.text = format!("{}.{}", "#".repeat(template.pre), "#".repeat(template.post));
        }
    }
    let mut writer = Writer::new(&template, &number, blanks);
    for node in &template.nodes {
        if writer.ended {
            break;
        }
        match node {
            Node::Text(c) => writer.out.push(*c),
            Node::Mark(mark) => writer.mark(*mark),
        }
    }
    writer.out
}

/// Writes a number mark by mark.
struct Writer<'a> {
    template: &'a Template,
    digits: &'a [u8],
    negative: bool,
    /// Of `digits`, the next one.
    at: usize,
    /// Digits and points of the template that have been passed.
    passed: usize,
    /// Places before the first digit.
    blanks: usize,
    /// Places to fill.
    places: usize,
    /// Digits have begun, so that commas are written.
    begun: bool,
    sign_written: bool,
    sign_place: Option<SignPlace>,
    /// Blanks instead of angle brackets need no place with FM.
    angle: bool,
    /// With FM, the last digit that isn't a zero behind the point, or the point.
    last: Option<usize>,
    /// There are no more digits: a float has fewer than the template.
    ended: bool,
    out: String,
}

impl<'a> Writer<'a> {
    fn new(template: &'a Template, number: &'a Digits, blanks: usize) -> Self {
        let digits = number.text.as_bytes();
        let own_sign = template.plus || template.minus;
        let fill = template.fill && !number.negative;
        let sign_written = match own_sign {
            true => template.minus,
            false => fill && template.sign.is_none(),
        };
        let sign_place = template.sign.map(|(place, digits)| match place {
            SignPlace::Before if digits == template.pre && !own_sign => SignPlace::After,
            place => place,
        });
        let mut last = None;
        if template.fill && template.decimal {
            last = digits.iter().position(|b| *b == b'.').map(|point| {
                let used = digits[point..].iter().rposition(|b| *b != b'0');
                let used = point + used.unwrap_or(0);
                match template.zero_end > blanks {
                    true => used.max((digits.len() - 1).min(template.zero_end - blanks)),
                    false => used,
                }
            });
        }
        Writer {
            template,
            digits,
            negative: number.negative,
            at: 0,
            passed: 0,
            blanks,
            places: template.pre + template.post + usize::from(!sign_written && blanks == 0),
            begun: false,
            sign_written,
            sign_place,
            angle: template.angle && (own_sign || !fill),
            last,
            ended: false,
            out: String::new(),
        }
    }

    fn sign(&self) -> char {
        if self.negative { '-' } else { '+' }
    }

    fn mark(&mut self, mark: Mark) {
        let fill = self.template.fill;
        match mark {
            Mark::Nine | Mark::Zero | Mark::Point if !self.template.roman => self.digit(mark),
            Mark::Comma | Mark::Group if self.begun => self.out.push(','),
            Mark::Comma | Mark::Group if !fill => self.out.push(' '),
            Mark::Currency => self.out.push(' '),
            Mark::Roman(capitals) => {
                let text = String::from_utf8_lossy(self.digits);
                let text = match capitals {
                    true => text.into_owned(),
                    false => text.to_lowercase(),
                };
                let width = if fill { 0 } else { 15 };
                self.out.push_str(&format!("{text:>width$}"));
            }
            Mark::Ordinal(capitals) => {
                let skipped = self.template.roman || self.template.decimal || self.negative;
                if !skipped && self.digits.first() != Some(&b'#') {
                    self.out.push_str(&ordinal(self.digits, capitals));
                }
            }
            Mark::Minus if self.negative => self.out.push('-'),
            Mark::Plus if !self.negative => self.out.push('+'),
            Mark::Minus | Mark::Plus if !fill => self.out.push(' '),
            Mark::PlusMinus => self.out.push(self.sign()),
            _ => {}
        }
    }

    /// `0.1` by `9.9` has no digit before its point.
    fn bare_point(&self) -> bool {
        let zero = self.at == 0 && self.digits.first() == Some(&b'0');
        zero && self.template.zero_start.is_none() && self.template.post != 0
    }

    /// With FM, all behind the point are zeros.
    fn ends_with_point(&self) -> bool {
        self.last.is_some_and(|last| self.digits[last] == b'.')
    }

    /// A digit or the point, with the sign before it or behind it.
    fn digit(&mut self, mark: Mark) {
        let t = self.template;
        self.begun = false;
        let zeros = t.zero_start.is_some_and(|start| start <= self.passed);
        let first = self.passed >= self.blanks || t.zero_start == Some(self.passed);
        if !self.sign_written && first && (!self.bare_point() || self.ends_with_point()) {
            match (self.sign_place, self.angle) {
                (Some(SignPlace::Before), _) => self.put_sign(self.sign()),
                (Some(SignPlace::After), _) => {}
                (None, true) => self.put_sign(if self.negative { '<' } else { ' ' }),
                (None, false) if self.negative => self.put_sign('-'),
                (None, false) if t.fill => self.sign_written = true,
                (None, false) => self.put_sign(' '),
            }
        }
        if self.passed < self.blanks {
            match (zeros, t.fill) {
                (true, _) => {
                    self.out.push('0');
                    self.begun = true;
                }
                (false, true) => {}
                (false, false) => self.out.push(' '),
            }
        } else {
            self.next_digit(mark);
        }
        let decimal = usize::from(t.decimal);
        if self.passed + 2 == self.places + usize::from(self.blanks > 0) + decimal {
            if self.sign_written && self.angle {
                self.out.push(if self.negative { '>' } else { ' ' });
            } else if self.sign_place == Some(SignPlace::After) {
                self.out.push(self.sign());
            }
        }
        self.passed += 1;
    }

    fn put_sign(&mut self, sign: char) {
        self.out.push(sign);
        self.sign_written = true;
    }

    fn next_digit(&mut self, mark: Mark) {
        let cut = self.last.is_some_and(|last| self.at > last) && mark != Mark::Zero;
        match self.digits.get(self.at) {
            Some(b'.') => self.out.push('.'),
            _ if cut => {}
            Some(_) if self.bare_point() => match (self.template.fill, self.ends_with_point()) {
                (false, _) => self.out.push(' '),
                (true, true) => self.out.push('0'),
                (true, false) => {}
            },
            Some(digit) => {
                self.out.push(*digit as char);
                self.begun = true;
            }
            None => self.ended = true,
        }
        self.at = (self.at + 1).min(self.digits.len());
    }
}

/// What belongs to a whole number: 1st, 2nd, 3rd, 4th.
fn ordinal(digits: &[u8], capitals: bool) -> String {
    let th = match digits {
        [.., b'1', _] => "TH",
        [.., b'1'] => "ST",
        [.., b'2'] => "ND",
        [.., b'3'] => "RD",
        _ => "TH",
    };
    match capitals {
        true => th.to_string(),
        false => th.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::{decimal_text, float_text};

    #[test]
    fn templates_of_any_text() {
        let text = |v: &str, template: &str| decimal_text(v, template).unwrap();
        assert_eq!(text("11", "99th"), " 11th");
        assert!(text("1", "\u{149}9th").ends_with("1st"));
        let long = format!("9.{}EEEE", "9".repeat(70_000));
        assert!(text("1234.5", &long).contains("1.2345"));
        assert!(float_text(1234.5, &long, 15).unwrap().contains("1.2345"));
        let long = format!("9.{}", "9".repeat(70_000));
        assert!(text("1.5", &long).starts_with(" 1.5000"));
        assert_eq!(float_text(1.5, &long, 15).unwrap(), " 1.50000000000000");
    }
}
