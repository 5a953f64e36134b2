//! Resource names: `namespaces/{namespace}/tasks/{task}`, and the same with `states` and `queues`.
//!
//! Every method of the client takes a short id or a full name; a full name wins over the client's
//! namespace. Whether a name is a good one is the server's to say.

/// The namespace's own name.
pub(crate) fn parent(namespace: &str) -> String {
    format!("namespaces/{namespace}")
}

/// The full name of a task, given its id or its full name.
pub fn task_name(namespace: &str, task: &str) -> String {
    full_name(namespace, "tasks", task)
}

/// The full name of a state, given its id or its full name.
pub fn state_name(namespace: &str, state: &str) -> String {
    full_name(namespace, "states", state)
}

/// The full name of a queue, given its id or its full name.
pub fn queue_name(namespace: &str, queue: &str) -> String {
    full_name(namespace, "queues", queue)
}

/// The last part of a name: the id that people type.
pub fn short_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn full_name(namespace: &str, collection: &str, name: &str) -> String {
    if name.starts_with("namespaces/") {
        name.to_owned()
    } else {
        format!("namespaces/{namespace}/{collection}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_id_gets_the_namespace_and_a_full_name_stays() {
        assert_eq!(task_name("lab", "t1"), "namespaces/lab/tasks/t1");
        assert_eq!(
            state_name("lab", "namespaces/x/states/s"),
            "namespaces/x/states/s"
        );
        assert_eq!(short_name("namespaces/x/states/s"), "s");
        assert_eq!(short_name("s"), "s");
    }
}
