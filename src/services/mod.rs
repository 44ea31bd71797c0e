//! Business rules that span queries: free functions that take a connection, whose transaction is the caller's.

pub mod users;
