//! The tables as structs, and their queries. Nothing here knows of HTTP.

pub mod user;
