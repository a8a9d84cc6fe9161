//! What a `path` option means: one file, a directory with everything below it, or a glob.

use std::path::{Path, PathBuf};

use crate::options::malformed;
use crate::source::ConnectorError;

/// Where files are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The path without its part with wildcards: a directory, or the file itself.
    pub base: PathBuf,
    /// Components of the glob below `base`; none without wildcards.
    glob: Vec<String>,
}

impl Root {
    /// Takes an absolute path apart.
    pub fn parse(path: &Path) -> Result<Root, ConnectorError> {
        let Some(text) = path.to_str() else {
            let shown = path.to_string_lossy();
            return Err(malformed("path", &shown, "valid UTF-8"));
        };
        let mut base = PathBuf::from("/");
        let mut glob: Vec<String> = Vec::new();
        for part in text.split('/').filter(|p| !p.is_empty()) {
            if !glob.is_empty() || part.contains(['*', '?', '[', '{']) {
                glob.push(part.into());
            } else {
                base.push(part);
            }
        }
        // A file or directory that is really called so is meant, not the pattern.
        if !glob.is_empty() && path.exists() {
            return Ok(Root {
                base: path.to_path_buf(),
                glob: Vec::new(),
            });
        }
        for part in &glob {
            if part.matches('[').count() != part.matches(']').count()
                || part.matches('{').count() != part.matches('}').count()
            {
                return Err(malformed("path", text, "a glob whose brackets are closed"));
            }
        }
        Ok(Root { base, glob })
    }

    /// Whether `base` is a directory to look into rather than a file.
    pub fn is_glob(&self) -> bool {
        !self.glob.is_empty()
    }

    /// How many directories below `base` files may lie; `None`: any number.
    pub fn depth(&self) -> Option<usize> {
        if self.glob.is_empty() || self.glob.iter().any(|g| g == "**") {
            None
        } else {
            Some(self.glob.len())
        }
    }

    /// Whether a file at `path` belongs to the source, as far as its name says.
    pub fn matches(&self, path: &Path) -> bool {
        if path == self.base {
            return !self.is_glob();
        }
        let Ok(below) = path.strip_prefix(&self.base) else {
            return false;
        };
        let mut parts = Vec::new();
        for part in below.components() {
            match part.as_os_str().to_str() {
                Some(p) => parts.push(p),
                None => {
                    return self.glob.is_empty()
                        && !ignored_bytes(part.as_os_str().as_encoded_bytes());
                }
            }
        }
        if self.glob.is_empty() {
            return !parts.iter().any(|p| ignored(p));
        }
        matches_parts(&self.glob, &parts)
    }
}

/// Names of files that are not finished or not meant to be seen.
pub fn ignored(name: &str) -> bool {
    ignored_bytes(name.as_bytes())
}

fn ignored_bytes(name: &[u8]) -> bool {
    name.starts_with(b".") || name.ends_with(b".tmp") || name.ends_with(b"~")
}

fn matches_parts(glob: &[String], parts: &[&str]) -> bool {
    match (glob.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((g, rest)), _) if g == "**" => {
            matches_parts(rest, parts)
                || parts
                    .split_first()
                    .is_some_and(|(p, tail)| !ignored(p) && matches_parts(glob, tail))
        }
        (Some((g, rest)), Some((p, tail))) => {
            // What is usually ignored must be asked for by name.
            (!ignored(p) || g.starts_with('.') || g.ends_with(".tmp") || g.ends_with('~'))
                && expand(g)
                    .iter()
                    .any(|g| matches_name(g.as_bytes(), p.as_bytes()))
                && matches_parts(rest, tail)
        }
        _ => false,
    }
}

/// `a{b,c}d` as `abd` and `acd`.
fn expand(glob: &str) -> Vec<String> {
    let Some((open, close)) = glob
        .find('{')
        .and_then(|o| Some((o, o + glob[o..].find('}')?)))
    else {
        return vec![glob.into()];
    };
    let (before, after) = (&glob[..open], &glob[close + 1..]);
    glob[open + 1..close]
        .split(',')
        .flat_map(|choice| expand(&format!("{before}{choice}{after}")))
        .collect()
}

/// `*`, `?` and `[a-z]`, `[!a]`.
fn matches_name(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let next = match glob.get(g) {
            Some(b'*') => {
                star = Some((g, n));
                g += 1;
                continue;
            }
            // A character may have several bytes.
            Some(b'?') => Some((g + 1, n + char_len(name[n]))),
            Some(b'[') => class(&glob[g..], name[n]).map(|len| (g + len, n + 1)),
            Some(b) if *b == name[n] => Some((g + 1, n + 1)),
            _ => None,
        };
        match (next, star) {
            (Some((gg, nn)), _) => (g, n) = (gg, nn),
            (None, Some((sg, sn))) => {
                star = Some((sg, sn + 1));
                (g, n) = (sg + 1, sn + 1);
            }
            (None, None) => return false,
        }
    }
    glob[g..].iter().all(|b| *b == b'*') && n == name.len()
}

fn char_len(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

/// The length of the class at the start of `glob` if it holds `byte`.
fn class(glob: &[u8], byte: u8) -> Option<usize> {
    let close = 2 + glob.get(2..)?.iter().position(|b| *b == b']')?;
    let (negated, set) = match &glob[1..close] {
        [b'!' | b'^', set @ ..] => (true, set),
        set => (false, set),
    };
    let mut hit = false;
    let mut i = 0;
    while i < set.len() {
        if set.get(i + 1) == Some(&b'-') && i + 2 < set.len() {
            hit |= (set[i]..=set[i + 2]).contains(&byte);
            i += 3;
        } else {
            hit |= set[i] == byte;
            i += 1;
        }
    }
    (hit != negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(glob: &str, path: &str) -> bool {
        let root = Root::parse(Path::new(glob)).expect("a good pattern");
        root.matches(Path::new(path))
    }

    #[test]
    fn files_and_directories() {
        assert!(matches("/no/data.csv", "/no/data.csv"));
        assert!(matches("/no/dir", "/no/dir/a/b.csv"));
        assert!(!matches("/no/dir", "/no/directory/b.csv"));
        for hidden in ["/no/dir/.a", "/no/dir/a.tmp", "/no/dir/a~", "/no/dir/.x/a"] {
            assert!(!matches("/no/dir", hidden), "{hidden}");
        }
        assert!(matches("/no/.hidden", "/no/.hidden"));
    }

    #[test]
    fn globs() {
        for (glob, yes, no) in [
            ("/no/*.csv", "/no/a.csv", "/no/a.json"),
            ("/no/*.csv", "/no/.csv.csv", "/no/.a.csv"),
            ("/no/*.csv", "/no/a.csv.csv", "/no/x/a.csv"),
            ("/no/**/*.csv", "/no/x/y/a.csv", "/no/x/y/a.txt"),
            ("/no/**/*.csv", "/no/a.csv", "/other/a.csv"),
            ("/no/?[a-c].{csv,gz}", "/no/éb.gz", "/no/éd.gz"),
            ("/no/[!x]*", "/no/ab", "/no/xb"),
            ("/no/d*/f*.csv", "/no/d1/f2.csv", "/no/d1/e/f2.csv"),
        ] {
            if !yes.contains("/.") {
                assert!(matches(glob, yes), "{glob} {yes}");
            }
            assert!(!matches(glob, no), "{glob} {no}");
        }
    }

    #[test]
    fn brackets_must_be_closed() {
        assert!(Root::parse(Path::new("/no/[a.csv")).is_err());
    }
}
