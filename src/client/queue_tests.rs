//! The queue over a connection in memory.
