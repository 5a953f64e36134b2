//! How a task changes.
