//! Texts kept in files: compared, or written anew with `UPDATE_EXPECT=1`.

use std::path::Path;

/// Compares `have` with the file `path` below the crate; `Err` says where they differ first.
pub fn check(path: &str, have: &str) -> Result<(), String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).map_err(|e| e.to_string())?;
        return std::fs::write(&file, have).map_err(|e| e.to_string());
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    if wanted == have {
        return Ok(());
    }
    let differs = wanted.lines().zip(have.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or(wanted.lines().count().min(have.lines().count()));
    Err(format!(
        "{path}, line {}\nwanted {:?}\nhave   {:?}\n(UPDATE_EXPECT=1 writes it anew)",
        line + 1,
        wanted.lines().nth(line),
        have.lines().nth(line)
    ))
}
