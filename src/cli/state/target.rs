//! Which state a command is about.
//!
//! A program that a worker runs finds its own in its environment (`DUITE_STATE`, or `DUITE_TASK`:
//! the state named after the task) together with the lease (`DUITE_LEASE`, hex) that fences its
//! writes. Only its own state is written under the lease.

use std::env;

use bytes::Bytes;

use super::super::Error;
use crate::client::short_name;

/// Stands for the task's own state; no id starts with a dot.
const OWN: &str = ".";

/// A state, and the lease to write it under.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) state: String,
    pub(super) lease: Option<Bytes>,
}

impl Target {
    /// The state that is named, or the task's own.
    pub(super) fn named(state: Option<String>) -> Result<Self, Error> {
        Self::choose(state, |name| env::var(name).ok())
    }

    /// Takes the state from before the assignments: its name has no `=`.
    pub(super) fn before_assignments(
        words: Vec<String>,
        form: &str,
    ) -> Result<(Self, Vec<String>), Error> {
        let mut words = words.into_iter().peekable();
        let state = words.next_if(|word| !word.contains('='));
        let words: Vec<String> = words.collect();
        if words.is_empty() {
            return Err(Error::usage(format!(
                "there is nothing to write: give at least one {form}"
            )));
        }
        Ok((Self::named(state)?, words))
    }

    fn choose(state: Option<String>, env: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        if let Some(state) = state.filter(|state| state != OWN) {
            return Ok(Self { state, lease: None });
        }
        let env = |name| env(name).filter(|text| !text.is_empty());
        let state = env("DUITE_STATE").or_else(|| {
            // The task's name says its namespace, which is the state's too.
            let task = env("DUITE_TASK")?;
            let (namespace, _) = task.split_once("/tasks/").unwrap_or_default();
            Some(match namespace {
                "" => task,
                namespace => format!("{namespace}/states/{}", short_name(&task)),
            })
        });
        let state = state.ok_or_else(|| {
            Error::usage("which state? name one")
                .hint("it may be left out only inside a program that a worker runs, which has DUITE_STATE")
        })?;
        let lease = env("DUITE_LEASE").map(|hex| {
            from_hex(&hex).ok_or_else(|| {
                Error::usage(format!(
                    "DUITE_LEASE is `{hex}`, which is not what a worker gave: pass it on as it came"
                ))
            })
        });
        Ok(Self {
            state,
            lease: lease.transpose()?,
        })
    }
}

fn from_hex(hex: &str) -> Option<Bytes> {
    let digits = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !digits || !hex.len().is_multiple_of(2) {
        return None;
    }
    let bytes = (0..hex.len()).step_by(2);
    let bytes = bytes.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok());
    bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(state: Option<&str>, env: &[(&str, &str)]) -> Result<Target, Error> {
        Target::choose(state.map(str::to_owned), |wanted| {
            let found = env.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn a_named_state_is_written_without_the_lease_and_the_own_one_with_it() {
        let env = [
            ("DUITE_STATE", "namespaces/n/states/s"),
            ("DUITE_LEASE", "00ff"),
        ];
        let named = choose(Some("other"), &env).unwrap();
        assert_eq!((named.state.as_str(), named.lease), ("other", None));
        for state in [None, Some(".")] {
            let own = choose(state, &env).unwrap();
            assert_eq!(own.state, "namespaces/n/states/s");
            assert_eq!(own.lease.as_deref(), Some([0x00, 0xff].as_slice()));
        }
    }

    #[test]
    fn a_task_without_a_state_reports_to_the_one_named_after_it() {
        let own = choose(None, &[("DUITE_TASK", "namespaces/n/tasks/t")]).unwrap();
        assert_eq!(own.state, "namespaces/n/states/t");
    }

    #[test]
    fn without_a_state_or_with_a_spoiled_lease_it_is_said_what_is_wrong() {
        let error = choose(None, &[]).unwrap_err().to_string();
        assert!(error.starts_with("error: which state?"), "{error}");
        for lease in ["0", "zz", "ä0", "+1"] {
            let error = choose(None, &[("DUITE_STATE", "s"), ("DUITE_LEASE", lease)]);
            let error = error.unwrap_err().to_string();
            assert!(error.contains(lease), "{error}");
        }
    }

    #[test]
    fn assignments_are_told_from_the_state_by_their_equals_sign() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let (target, rest) =
            Target::before_assignments(words(&["s", "a=1", "b:=2"]), "KEY=VALUE").unwrap();
        assert_eq!((target.state.as_str(), rest.len()), ("s", 2));
        assert!(Target::before_assignments(words(&["s"]), "KEY=VALUE").is_err());
    }
}
