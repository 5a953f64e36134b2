//! The revision-indexed map behind every watch.
