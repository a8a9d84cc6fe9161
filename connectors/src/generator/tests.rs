//! Generators: determinism, ends, columns.
