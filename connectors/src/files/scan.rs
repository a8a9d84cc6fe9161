//! Lists the files of a root.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::{FileId, Stamp, look};
use super::pattern::{Root, ignored};

/// Directories within each other that are looked into.
const DEPTH_MAX: usize = 64;

/// A file that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where.
    pub path: PathBuf,
    /// Which.
    pub id: FileId,
    /// As it is now.
    pub stamp: Stamp,
}

/// What a look at a whole root gives.
#[derive(Debug, Default)]
pub struct Listing {
    /// The files, in no order.
    pub files: Vec<Found>,
    /// The device of the root; `None`: it is missing.
    pub device: Option<u64>,
    /// Identity of the root itself, to notice that it was replaced.
    pub root: FileId,
    /// Something could not be looked into; the first trouble.
    pub trouble: Option<String>,
}

/// Looks at one path; `None` if no file is there.
pub fn find(path: &Path) -> io::Result<Option<Found>> {
    match std::fs::metadata(path) {
        Ok(m) if m.is_file() => Ok(Some(found(path.to_path_buf(), &m))),
        Ok(_) => Ok(None),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

fn is_missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn found(path: PathBuf, metadata: &Metadata) -> Found {
    let (id, stamp) = look(metadata);
    Found { path, id, stamp }
}

/// What the data directory of a server has in it.
const OF_A_SERVER: [&str; 5] = ["LOCK", "committed", "manifest.copy", "segments", "sled"];

/// Whether this is one of the files and directories that a server, this one or another, keeps in its data directory. They change with
/// every commit, so that reading them would never end.
fn is_of_a_server(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let lies_in_one = |directory: &Path| {
        let mut all = ["LOCK", "segments", "sled"].iter();
        all.all(|name| directory.join(name).exists())
    };
    name.is_some_and(|name| OF_A_SERVER.contains(&name)) && path.parent().is_some_and(lies_in_one)
}

/// The same of a path below `root`, or of what it lies in.
pub fn is_within_a_server(root: &Root, path: &Path) -> bool {
    let mut below = path.ancestors();
    let mut below = below
        .by_ref()
        .take_while(|p| *p != root.base && p.starts_with(&root.base));
    below.any(is_of_a_server)
}

/// Lists everything below `root`.
pub fn list(root: &Root) -> Listing {
    let mut listing = Listing::default();
    match std::fs::metadata(&root.base) {
        Err(e) if is_missing(&e) => {}
        Err(e) => listing.trouble = Some(format!("{}: {e}", root.base.display())),
        Ok(m) => {
            let (id, _) = look(&m);
            listing.device = Some(id.device);
            listing.root = id;
            if m.is_dir() {
                directory(root, &root.base, 1, &mut listing);
                // Had the root been moved meanwhile, its files would only seem to be gone.
                let still = std::fs::metadata(&root.base).is_ok_and(|m| look(&m).0 == id);
                if !still {
                    let moved = format!("{} was moved while it was read", root.base.display());
                    listing.trouble.get_or_insert(moved);
                }
            } else if m.is_file() && !root.is_glob() {
                listing.files.push(found(root.base.clone(), &m));
            }
        }
    }
    listing
}

fn directory(root: &Root, path: &Path, depth: usize, listing: &mut Listing) {
    let depth_max = root.depth().unwrap_or(DEPTH_MAX);
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) => {
            // A directory that has just been removed isn't a trouble, only its files are gone.
            if !is_missing(&e) {
                listing
                    .trouble
                    .get_or_insert(format!("{}: {e}", path.display()));
            }
            return;
        }
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                listing
                    .trouble
                    .get_or_insert(format!("{}: {e}", path.display()));
                return;
            }
        };
        let path = entry.path();
        if is_of_a_server(&path) {
            continue;
        }
        // Links to directories aren't followed: they may lead in a circle.
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            let hidden = entry.file_name().to_str().is_some_and(ignored);
            if depth < depth_max && !hidden {
                directory(root, &path, depth + 1, listing);
            }
        } else if root.matches(&path) {
            match find(&path) {
                Ok(Some(f)) => listing.files.push(f),
                Ok(None) => {}
                Err(e) => {
                    listing
                        .trouble
                        .get_or_insert(format!("{}: {e}", path.display()));
                }
            }
        }
    }
}
