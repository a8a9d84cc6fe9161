//! Decoding as a whole: text in, rows and error rows out.
