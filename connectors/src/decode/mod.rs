//! Bytes of a format to columns.
