//! The Postgres wire protocol. The only module that names pgwire.
