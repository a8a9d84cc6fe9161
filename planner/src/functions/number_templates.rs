//! Numbers by the templates of to_char.

/// More digits than a double has, and fewer than Rust refuses to write.
const DECIMALS_MAX: usize = 1000;

/// A Roman numeral, of 1 to 3999.
fn roman(v: &str) -> Option<String> {
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
    let (n, scale) = super::parse::decimal_parts(v)?;
    let mut n = super::parse::rescale(n, scale, 0)?.to_i128()?;
    if !(1..=3999).contains(&n) {
        return None;
    }
    let mut out = String::new();
    for (value, digit) in DIGITS {
        while n >= value {
            out.push_str(digit);
            n -= value;
        }
    }
    Some(out)
}

/// A number by a template of 9, 0, `.`, `,`, D, G, L, S, MI, PL, PR, RN, TH, V, EEEE, FM.
pub(super) fn number_text(v: &str, template: &str) -> String {
    // Of the same length as the template, whatever stands in it.
    let upper = template.to_ascii_uppercase();
    let fill = upper.contains("FM");
    if upper.contains("RN") {
        let numeral = roman(v).unwrap_or_else(|| "#".repeat(15));
        let numeral = if template.contains("rn") {
            numeral.to_lowercase()
        } else {
            numeral
        };
        return if fill {
            numeral
        } else {
            format!("{numeral:>15}")
        };
    }
    let upper = match upper.find("TH") {
        Some(at) => {
            let small = template.get(at..at + 2) == Some("th");
            return ordinal(
                v,
                &format!("{}{}", &template[..at], &template[at + 2..]),
                small,
            );
        }
        None => upper,
    };
    // Where a plus stands, a minus leaves a blank.
    let bare = upper.replace("FM", "");
    if bare.starts_with("PL") || bare.ends_with("PL") {
        let (sign, fm) = match (v.starts_with('-'), fill) {
            (false, true) => ("+", "FM"),
            (false, false) => ("+", ""),
            (true, true) => ("", "FM"),
            (true, false) => (" ", ""),
        };
        return match bare.strip_prefix("PL") {
            Some(rest) => format!("{sign}{}", number_text(v, &format!("{fm}{rest}"))),
            None => {
                let rest = &bare[..bare.len() - 2];
                format!("{}{sign}", number_text(v, &format!("{fm}{rest}")))
            }
        };
    }
    // A sign where it stands, apart from the digits.
    let anchored = [("MI", ' '), ("SG", '+'), ("S", '+')];
    for (mark, plus) in anchored {
        let parts = match (bare.strip_prefix(mark), bare.strip_suffix(mark)) {
            (Some(rest), _) if mark != "S" => Some((rest, true)),
            (_, Some(rest)) if mark != "MI" => Some((rest, false)),
            _ => None,
        };
        let Some((rest, before)) = parts else {
            continue;
        };
        let negative = v.starts_with('-');
        let digits = number_text(
            v.trim_start_matches('-'),
            &format!("{}{rest}", if fill { "FM" } else { "" }),
        );
        // The blank for a sign.
        let digits = digits.strip_prefix(' ').unwrap_or(&digits);
        let sign = match (negative, plus) {
            (true, _) => "-",
            (false, '+') => "+",
            _ if fill => "",
            _ => " ",
        };
        return match before {
            true => format!("{sign}{digits}"),
            false => format!("{digits}{sign}"),
        };
    }
    if upper.contains("EEEE") {
        return scientific(v, &upper, fill);
    }
    if let Some((whole, more)) = upper.split_once('V') {
        let places = more.chars().filter(|c| matches!(c, '9' | '0')).count();
        let shifted = super::parse::decimal_parts(v).and_then(|(n, scale)| {
            let scale = scale - places as i32;
            let n = super::parse::rescale(n, scale.min(0), 0)?.to_i128()?;
            Some(super::format::numeric(n, scale.max(0) as i8))
        });
        return number_text(shifted.as_deref().unwrap_or(v), &format!("{whole}{more}"));
    }
    let t: String = upper
        .replace("FM", "")
        .replace('L', if fill { "" } else { " " })
        .replace('D', ".")
        .replace('G', ",");
    let (sign_s, minus, angle) = (t.contains('S'), t.contains("MI"), t.contains("PR"));
    let t = t.replace("MI", "").replace("PR", "").replace('S', "");
    let (whole, fraction) = t.split_once('.').unwrap_or((&t, ""));
    let decimals = fraction.chars().filter(|c| matches!(c, '9' | '0')).count();
    let negative = v.starts_with('-');
    let rounded = super::parse::decimal_parts(v)
        .and_then(|(n, s)| super::parse::rescale(n, s, decimals as i32))
        .and_then(|n| n.to_i128())
        .unwrap_or(0)
        .unsigned_abs();
    let digits = super::format::numeric(rounded as i128, decimals as i8);
    let (w, f) = digits.split_once('.').unwrap_or((&digits, ""));
    let w = if w == "0" && whole.contains('9') && !whole.contains('0') && decimals > 0 {
        ""
    } else {
        w
    };
    let places = whole.chars().filter(|c| matches!(c, '9' | '0')).count();
    let negative = negative && rounded != 0;
    let mut out = String::new();
    if w.len() > places {
        out = whole
            .chars()
            .map(|c| if matches!(c, '9' | '0') { '#' } else { c })
            .collect();
    } else {
        let mut source = format!("{w:>places$}")
            .chars()
            .collect::<Vec<_>>()
            .into_iter();
        let mut started = false;
        let mut zero_from = false;
        for c in whole.chars() {
            match c {
                '9' | '0' => {
                    zero_from |= c == '0';
                    let d = source.next().unwrap_or(' ');
                    started |= d != ' ' || zero_from;
                    match (d, zero_from) {
                        (' ', true) => out.push('0'),
                        (' ', false) if fill => {}
                        (d, _) => out.push(d),
                    }
                }
                ',' if started => out.push(','),
                ',' if fill => {}
                ',' => out.push(' '),
                c => out.push(c),
            }
        }
    }
    if t.contains('.') {
        out.push('.');
        let kept: String = if fill {
            let least = fraction.rfind('0').map_or(0, |i| i + 1);
            let trimmed = f.trim_end_matches('0');
            f[..trimmed.len().max(least).min(f.len())].to_string()
        } else {
            f.to_string()
        };
        out.push_str(&kept);
    }
    let lead = out.len() - out.trim_start().len();
    let body = out.trim_start().to_string();
    let signed = match (sign_s, minus, angle, negative) {
        (true, _, _, n) => format!("{}{body}", if n { '-' } else { '+' }),
        (_, true, _, true) => format!("{body}-"),
        (_, true, _, false) => {
            if fill {
                body
            } else {
                format!("{body} ")
            }
        }
        (_, _, true, true) => format!("<{body}>"),
        (_, _, true, false) => {
            if fill {
                body
            } else {
                format!(" {body} ")
            }
        }
        (.., true) => format!("-{body}"),
        _ if fill => body,
        _ => format!(" {body}"),
    };
    if fill {
        signed
    } else {
        format!("{}{signed}", " ".repeat(lead))
    }
}

/// A number with `th` or what else belongs to it, if it is whole and not negative.
fn ordinal(v: &str, template: &str, small: bool) -> String {
    let text = number_text(v, template);
    let digits = text.trim();
    if digits.starts_with(['-', '#']) || digits.contains('.') {
        return text;
    }
    let n: u64 = digits
        .chars()
        .filter(char::is_ascii_digit)
        .collect::<String>()[..]
        .parse()
        .unwrap_or(0);
    let th = match (n % 100, n % 10) {
        (11..=13, _) => "TH",
        (_, 1) => "ST",
        (_, 2) => "ND",
        (_, 3) => "RD",
        _ => "TH",
    };
    let th = if small {
        th.to_lowercase()
    } else {
        th.to_string()
    };
    format!("{text}{th}")
}

/// `9.99EEEE`
fn scientific(v: &str, upper: &str, fill: bool) -> String {
    let fraction = upper.replace('D', ".");
    let fraction = fraction.split_once('.').map_or("", |(_, f)| f);
    let decimals = fraction.chars().filter(|c| matches!(c, '9' | '0')).count();
    let decimals = decimals.min(DECIMALS_MAX);
    let number: f64 = v.parse().unwrap_or(0.0);
    let text = format!("{number:.decimals$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let blank = if fill || number < 0.0 { "" } else { " " };
    format!("{blank}{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::number_text;

    #[test]
    fn templates_of_any_text() {
        assert_eq!(number_text("11", "99th"), " 11th");
        // Its upper case is longer than itself.
        assert!(number_text("1", "\u{149}9th").ends_with("1st"));
        let long = format!("9.{}EEEE", "9".repeat(70_000));
        assert!(number_text("1234.5", &long).contains("1.2345"));
    }
}
