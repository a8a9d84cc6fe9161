//! Queries: bound against the catalog, then executed on a snapshot or compiled to a dataflow.
