//! Finds members and elements in the text of a JSON value by scanning it once, without building anything.
//!
//! The text is taken to be valid: it was checked when it became a `json` or `jsonb`. On text that isn't, a scan ends
//! early or gives some slice of it; it never panics and never gives a slice of anything else.
//!
//! The iterators and [`member`] are the plain form; `json_members` finds several members at once with the same steps.

/// The members of an object in order: key without its quotes and still escaped, whether it has escapes, value.
pub struct Members<'a>(Scan<'a>);

/// The elements of an array in order.
pub struct Elements<'a>(Scan<'a>);

struct Scan<'a> {
    text: &'a str,
    /// Before the next member or element, or at the closing bracket; `None` behind the last.
    at: Option<usize>,
}

/// The members of `text`; `None` if it isn't an object.
pub fn members(text: &str) -> Option<Members<'_>> {
    open(text, b'{').map(Members)
}

/// The elements of `text`; `None` if it isn't an array.
pub fn elements(text: &str) -> Option<Elements<'_>> {
    open(text, b'[').map(Elements)
}

/// The value of the last member called `key`: of equal keys the last one counts.
pub fn member<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut found = None;
    for (name, escaped, value) in members(text)? {
        let same = if escaped {
            super::json_text::unescape_inner(name) == key
        } else {
            name == key
        };
        if same {
            found = Some(value);
        }
    }
    found
}

/// The element at `index`, from the end if it is negative.
pub fn element(text: &str, index: i64) -> Option<&str> {
    let mut all = elements(text)?;
    if index >= 0 {
        return all.nth(usize::try_from(index).ok()?);
    }
    let n = all.count() as i64;
    element(text, n.checked_add(index).filter(|i| *i >= 0)?)
}

fn open(text: &str, bracket: u8) -> Option<Scan<'_>> {
    let at = skip_space(text.as_bytes(), 0);
    (text.as_bytes().get(at) == Some(&bracket)).then(|| Scan {
        text,
        at: Some(skip_space(text.as_bytes(), at + 1)),
    })
}

impl<'a> Scan<'a> {
    /// The value that begins at `at`; moves behind it and the comma.
    fn value(&mut self, at: usize) -> Option<&'a str> {
        let (end, _) = value_end(self.text.as_bytes(), at)?;
        self.behind(at, end)
    }

    /// The value from `at` to `end`; moves behind it and the comma.
    #[inline]
    fn behind(&mut self, at: usize, end: usize) -> Option<&'a str> {
        let bytes = self.text.as_bytes();
        let next = skip_space(bytes, end);
        self.at = (bytes.get(next) == Some(&b',')).then(|| skip_space(bytes, next + 1));
        self.text.get(at..end)
    }
}

impl<'a> Elements<'a> {
    /// The next element; `end` says where the value that begins at a place of the text ends.
    #[inline]
    pub fn next_by(
        &mut self,
        end: impl FnOnce(&'a str, usize) -> Option<usize>,
    ) -> Option<&'a str> {
        let at = self.0.at.take()?;
        let end = end(self.0.text, at)?;
        self.0.behind(at, end)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, bool, &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let scan = &mut self.0;
        let at = scan.at.take()?;
        let bytes = scan.text.as_bytes();
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let (end, escaped) = string_end(bytes, at)?;
        let name = scan.text.get(at + 1..end - 1)?;
        let colon = skip_space(bytes, end);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let value = scan.value(skip_space(bytes, colon + 1))?;
        Some((name, escaped, value))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.0.at.take()?;
        self.0.value(at)
    }
}

/// The first position from `at` that isn't white space.
#[inline]
pub(super) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Where the value that begins at `at` ends, and whether it is a string with a backslash; `None` if no value ends.
#[inline]
pub(super) fn value_end(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    match bytes.get(at)? {
        b'"' => string_end(bytes, at),
        b'{' | b'[' => container_end(bytes, at).map(|end| (end, false)),
        _ => {
            let end = scalar_end(bytes, at);
            (end > at).then_some((end, false))
        }
    }
}

fn container_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        at = quote_or_bracket(bytes, at);
        match bytes.get(at)? {
            b'"' => {
                at = string_end(bytes, at)?.0;
                continue;
            }
            b'{' | b'[' => depth += 1,
            _ => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
        }
        at += 1;
    }
}

/// Behind the closing quote of the string that begins at `at`, and whether a backslash was met.
#[inline]
pub(super) fn string_end(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut at = quote_or_backslash(bytes, at + 1);
    let mut escaped = false;
    loop {
        match bytes.get(at)? {
            b'"' => return Some((at + 1, escaped)),
            _ => {
                escaped = true;
                at = quote_or_backslash(bytes, at + 2);
            }
        }
    }
}

/// The first position from `at` with a quote or a backslash; the end if there is none.
#[inline]
fn quote_or_backslash(bytes: &[u8], at: usize) -> usize {
    find(
        bytes,
        at,
        |word| zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64)),
        |b| b == b'"' || b == b'\\',
    )
}

/// The first position from `at` with a quote or a bracket of any kind; the end if there is none.
#[inline]
fn quote_or_bracket(bytes: &[u8], at: usize) -> usize {
    find(
        bytes,
        at,
        |word| {
            // Brackets and braces differ in one bit.
            let braces = word | (ONES * 0x20);
            zeros(word ^ (ONES * b'"' as u64))
                | zeros(braces ^ (ONES * b'{' as u64))
                | zeros(braces ^ (ONES * b'}' as u64))
        },
        |b| matches!(b, b'"' | b'{' | b'}' | b'[' | b']'),
    )
}

/// Where a number or a word that begins at `at` ends: before a comma, a closing bracket or white space.
#[inline]
fn scalar_end(bytes: &[u8], at: usize) -> usize {
    find(
        bytes,
        at,
        |word| {
            // Of bytes below 0x21 the lowest is found: a borrow only spoils those above it.
            let space = word.wrapping_sub(ONES * 0x21) & !word & (ONES << 7);
            let braces = word | (ONES * 0x20);
            space | zeros(word ^ (ONES * b',' as u64)) | zeros(braces ^ (ONES * b'}' as u64))
        },
        |b| b <= b' ' || matches!(b, b',' | b']' | b'}'),
    )
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// A byte of `x` is zero exactly if the lowest set bit of this is in it, as far as that lowest bit goes.
#[inline]
fn zeros(x: u64) -> u64 {
    x.wrapping_sub(ONES) & !x & (ONES << 7)
}

/// The first position from `at` whose byte is `wanted`; the end if there is none. `wanted_in` marks the first wanted
/// byte of eight by their highest bits; bits above that one mean nothing.
#[inline]
fn find(
    bytes: &[u8],
    mut at: usize,
    wanted_in: impl Fn(u64) -> u64,
    wanted: impl Fn(u8) -> bool,
) -> usize {
    while let Some(Ok(eight)) = bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let found = wanted_in(u64::from_le_bytes(eight));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && !wanted(bytes[at]) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use serde_json::Value;

    use super::*;

    fn random(rng: &mut rand_chacha::ChaCha8Rng, depth: usize) -> Value {
        let text = |rng: &mut rand_chacha::ChaCha8Rng| -> String {
            const LETTERS: [char; 12] = [
                'a', 'b', '"', '\\', '{', ']', ',', ':', '\n', 'é', '😀', ' ',
            ];
            let len = rng.random_range(0..20);
            (0..len)
                .map(|_| LETTERS[rng.random_range(0..LETTERS.len())])
                .collect()
        };
        match rng.random_range(0..if depth == 0 { 4 } else { 6 }) {
            0 => Value::Null,
            1 => Value::Bool(rng.random()),
            2 => Value::from(rng.random_range(-5000..5000) as f64 / 8.0),
            3 => Value::String(text(rng)),
            4 => {
                let n = rng.random_range(0..4);
                Value::Array((0..n).map(|_| random(rng, depth - 1)).collect())
            }
            _ => {
                let n = rng.random_range(0..4);
                let members = (0..n).map(|_| (text(rng), random(rng, depth - 1)));
                Value::Object(members.collect())
            }
        }
    }

    /// Everything that can be found in `text` is what a parser finds.
    fn check(text: &str, whole: &Value) {
        assert_eq!(members(text).is_some(), whole.is_object(), "{text}");
        assert_eq!(elements(text).is_some(), whole.is_array(), "{text}");
        if let Value::Object(all) = whole {
            assert_eq!(members(text).map(Iterator::count), Some(all.len()));
            for (key, value) in all {
                let found = member(text, key).unwrap_or_else(|| panic!("{key} in {text}"));
                assert_eq!(
                    serde_json::from_str::<Value>(found).ok().as_ref(),
                    Some(value)
                );
                check(found, value);
            }
            assert_eq!(member(text, "no such key"), None);
        }
        if let Value::Array(all) = whole {
            let n = all.len() as i64;
            assert_eq!(elements(text).map(Iterator::count), Some(all.len()));
            assert_eq!((element(text, n), element(text, -n - 1)), (None, None));
            for (i, value) in all.iter().enumerate() {
                let found = element(text, i as i64).expect("there are that many");
                assert_eq!(element(text, i as i64 - n), Some(found));
                assert_eq!(
                    serde_json::from_str::<Value>(found).ok().as_ref(),
                    Some(value)
                );
                check(found, value);
            }
        }
    }

    #[test]
    fn finds_what_a_parser_finds() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        for _ in 0..2_000 {
            let value = random(&mut rng, 4);
            check(&value.to_string(), &value);
            let pretty = serde_json::to_string_pretty(&value).expect("it can be written");
            check(&format!(" {pretty}\n"), &value);
        }
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        let text = r#"{"a": 1, "\u0061": [2, "}"], "b": 3}"#;
        assert_eq!(member(text, "a"), Some(r#"[2, "}"]"#));
    }

    #[test]
    fn damaged_text_does_no_harm() {
        let text = r#"{"a":[1,{"b":"x\"y"},null],"c":"é\\","d":-1.5e3}"#;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(12);
        for _ in 0..20_000 {
            let mut damaged: Vec<char> = text.chars().collect();
            let at = rng.random_range(0..damaged.len());
            damaged[at] = ['{', '}', '[', ']', '"', '\\', ',', ':', 'é'][rng.random_range(0..9)];
            damaged.truncate(rng.random_range(at..=damaged.len()));
            let damaged: String = damaged.into_iter().collect();
            for key in ["a", "b", "c", "d"] {
                member(&damaged, key);
            }
            elements(&damaged).map(Iterator::count);
            element(&damaged, -1);
        }
    }
}
