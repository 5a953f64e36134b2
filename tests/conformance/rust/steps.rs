//! What each verb does.

use duite::proto::v1::{
    CancelTaskRequest, Contribution, CreateTaskRequest, DeleteStateRequest, Failure,
    FinishTasksRequest, GetStateRequest, GetTaskRequest, KeyUpdate, LeaseTasksRequest,
    ListTasksRequest, Payload, PushOpen, ReleaseLeasesRequest, RenewLeasesRequest, Task,
    TaskFilter, TaskOutcome, TaskPolicy, UpdateBatch, UpdateStateRequest, WatchLeasesRequest,
    WatchStateRequest, WatchTasksRequest, WriterMark, failure::Category, key_update::Operation,
    lease_status::Disposition, outcome_result, task::Status as TaskStatus, task_outcome::Outcome,
    watch_leases_response,
};
use tonic::Status;

use super::{
    Conformance, Lease, Words, call,
    streams::{Pen, Watch, Watched, stream},
    words::{
        Step, encoded, optional, payload, short, show_map, show_payload, show_value, status_of,
        updates_of,
    },
};

fn show_task_status(status: TaskStatus) -> &'static str {
    status.as_str_name().trim_start_matches("STATUS_")
}

fn show_disposition(disposition: Disposition) -> &'static str {
    let name = disposition.as_str_name();
    name.trim_start_matches("DISPOSITION_")
}

fn ended() -> Status {
    Status::aborted("the stream ended")
}

// Tasks.
impl Conformance {
    pub(super) async fn submit(&mut self, step: &Step<'_>) -> Words {
        let state = step.get("state");
        let task = Task {
            r#type: step.string("type"),
            input: payload(step.get("input")),
            labels: step.pairs("label"),
            state_name: if state.is_empty() {
                String::new()
            } else {
                self.state(state)
            },
            policy: step.has("attempts").then(|| TaskPolicy {
                max_attempts: step.int("attempts") as i32,
                ..TaskPolicy::default()
            }),
            ..Task::default()
        };
        let request = CreateTaskRequest {
            parent: self.parent.clone(),
            task_id: step.string("id"),
            task: Some(task),
            request_id: step.string("request"),
            ..CreateTaskRequest::default()
        };
        let answer = self.tasks.create_task(call(step, request)).await?;
        let made = answer.into_inner().task.unwrap_or_default();
        let key = format!("{}{}", step.get("id"), step.get("as"));
        let known = self.names.entry(key.clone());
        let is_known = *known.or_insert_with(|| made.name.clone()) == made.name;
        let task = if is_known { &key } else { "other" };
        let status = show_task_status(made.status());
        Ok(format!(
            " task={task} status={status} attempt={}",
            made.attempt
        ))
    }

    pub(super) async fn get(&mut self, step: &Step<'_>) -> Words {
        let request = GetTaskRequest {
            name: self.task(step.get("id")),
            ..GetTaskRequest::default()
        };
        let answer = self.tasks.get_task(call(step, request)).await?;
        let task = answer.into_inner().task.unwrap_or_default();
        let (id, status) = (short(&task.name), show_task_status(task.status()));
        let mut text = format!(" task={id} status={status} attempt={}", task.attempt);
        text += &show_payload("output", task.output.as_ref());
        let Some(failure) = &task.failure else {
            return Ok(text);
        };
        let category = failure.category().as_str_name();
        text += &format!(" failure={} message={}", failure.r#type, failure.message);
        text += &optional("category", category.trim_start_matches("CATEGORY_"));
        text += &optional("stack", &failure.stack_trace);
        text += &optional("runtime", &failure.runtime);
        if let Some(cause) = &failure.cause {
            text += &format!(" cause={} cause-message={}", cause.r#type, cause.message);
        }
        text += &show_map("meta", &failure.metadata);
        text += &show_payload("details", failure.details.as_ref());
        let failures = task.attempts.iter().map(|attempt| attempt.failure.as_ref());
        let messages = failures.map(|failure| failure.map_or("", |failure| &failure.message));
        text += &format!(" attempts={}", messages.collect::<Vec<_>>().join(","));
        Ok(text)
    }

    pub(super) async fn list(&mut self, step: &Step<'_>) -> Words {
        let mut request = ListTasksRequest {
            parent: self.parent.clone(),
            page_size: step.int("size") as i32,
            ..ListTasksRequest::default()
        };
        let mut count = 0;
        loop {
            let answer = self.tasks.list_tasks(call(step, request.clone())).await?;
            let page = answer.into_inner();
            count += page.tasks.len();
            if page.next_page_token.is_empty() {
                return Ok(format!(" tasks={count}"));
            }
            request.page_token = page.next_page_token;
        }
    }

    pub(super) async fn cancel(&mut self, step: &Step<'_>) -> Words {
        let request = CancelTaskRequest {
            name: self.task(step.get("id")),
            reason: step.string("reason"),
            ..CancelTaskRequest::default()
        };
        let answer = self.tasks.cancel_task(call(step, request)).await?;
        let task = answer.into_inner().task.unwrap_or_default();
        let status = show_task_status(task.status());
        let is_told = task.cancel_requested && task.end_time.is_none();
        let told = if is_told { " cancel_requested=yes" } else { "" };
        Ok(format!(" status={status}{told}"))
    }
}

// Watches.
impl Conformance {
    fn watch_of(&self, ids: &str) -> Watch {
        let filter = TaskFilter {
            names: ids.split(',').map(|id| self.task(id)).collect(),
            ..TaskFilter::default()
        };
        let request = WatchTasksRequest {
            parent: self.parent.clone(),
            filter: Some(filter),
            until_terminal: true,
            ..WatchTasksRequest::default()
        };
        Watch::new(Watched::Tasks(request), "")
    }

    pub(super) async fn wait(&mut self, step: &Step<'_>) -> Words {
        let mut watch = self.watch_of(step.get("id"));
        watch.open(&self.channel).await?;
        watch.until("end", "OK").await?;
        Ok(watch.show())
    }

    pub(super) async fn watch_tasks(&mut self, step: &Step<'_>) -> Words {
        let watch = self.watch_of(step.get("ids"));
        self.watches.insert(step.string("as"), watch);
        self.resume(step).await
    }

    pub(super) async fn watch_states(&mut self, step: &Step<'_>) -> Words {
        let ids: Vec<String> = step.get("states").split(',').map(str::to_owned).collect();
        let request = WatchStateRequest {
            names: ids.iter().map(|id| self.state(id)).collect(),
            ..WatchStateRequest::default()
        };
        let watch = Watch::new(Watched::States(ids, request), step.get("token"));
        self.watches.insert(step.string("as"), watch);
        self.resume(step).await
    }

    fn watch(&mut self, step: &Step) -> &mut Watch {
        let watch = self.watches.get_mut(step.get("as"));
        watch.expect("the scenario opened it")
    }

    pub(super) async fn resume(&mut self, step: &Step<'_>) -> Words {
        let channel = self.channel.clone();
        let watch = self.watch(step);
        let start = watch.open(&channel).await?;
        Ok(format!(" start={start}{}", watch.show()))
    }

    pub(super) async fn until(&mut self, step: &Step<'_>) -> Words {
        let watch = self.watch(step);
        for (name, wanted) in &step.words {
            if !["as", "deadline"].contains(name) {
                watch.until(name, wanted).await?;
            }
        }
        let chain = if watch.is_chained { "ok" } else { "broken" };
        Ok(format!("{} chain={chain}", watch.show()))
    }

    /// Cancels the call of a watch, a push or directives.
    pub(super) fn cut(&mut self, step: &Step) -> String {
        let name = step.get("as");
        if let Some(watch) = self.watches.get_mut(name) {
            watch.cut();
        }
        if let Some(pen) = self.pens.get_mut(name) {
            pen.cut();
        }
        self.directives.remove(name);
        String::new()
    }
}

// Workers.
impl Conformance {
    pub(super) async fn lease(&mut self, step: &Step<'_>) -> Words {
        let worker = step.string("worker");
        let request = LeaseTasksRequest {
            parent: self.parent.clone(),
            task_types: vec![step.string("type")],
            wait: step.duration("wait"),
            instance_uid: self.instance(&worker),
            worker_id: worker.clone(),
            ..LeaseTasksRequest::default()
        };
        let answer = self.workers.lease_tasks(call(step, request)).await?;
        let Some(lease) = answer.into_inner().leases.pop() else {
            return Ok(" none".to_owned());
        };
        let token = lease.lease_token;
        self.leases
            .insert(step.string("as"), Lease { worker, token });
        let task = lease.task.unwrap_or_default();
        let mut text = format!(" task={} attempt={}", short(&task.name), task.attempt);
        text += &show_payload("input", task.input.as_ref());
        text += &show_map("label", &task.labels);
        Ok(text)
    }

    pub(super) async fn renew(&mut self, step: &Step<'_>) -> Words {
        let lease = if step.has("lease") {
            self.held(step)
        } else {
            Lease {
                worker: "w1".to_owned(),
                token: step.string("token").into(),
            }
        };
        let request = RenewLeasesRequest {
            lease_tokens: vec![lease.token],
            instance_uid: self.instance(&lease.worker),
            worker_id: lease.worker,
        };
        let answer = self.workers.renew_leases(call(step, request)).await?;
        let disposition = answer.into_inner().statuses[0].disposition();
        Ok(format!(" {}", show_disposition(disposition)))
    }

    pub(super) async fn release(&mut self, step: &Step<'_>) -> Words {
        let request = ReleaseLeasesRequest {
            lease_tokens: vec![self.held(step).token],
        };
        self.workers.release_leases(call(step, request)).await?;
        Ok(String::new())
    }

    pub(super) async fn finish(&mut self, step: &Step<'_>) -> Words {
        let outcome = if step.has("failure") {
            Outcome::Failure(failure_of(step))
        } else if step.has("cancelled") {
            Outcome::Cancelled(true)
        } else {
            let empty = Payload::default;
            Outcome::Output(payload(step.get("output")).unwrap_or_else(empty))
        };
        let flushed = self.pens.get(step.get("flushed")).map(|pen| WriterMark {
            state_name: pen.opening.state_name.clone(),
            writer_id: pen.opening.writer_id.clone(),
            sequence: pen.sent,
        });
        let mut parts = step.get("contribute").splitn(3, ':');
        let contribution = match (parts.next(), parts.next(), parts.next()) {
            (Some(state), Some(key), Some(value)) => Some(Contribution {
                state_name: self.state(state),
                updates: vec![KeyUpdate {
                    key: key.to_owned(),
                    operation: Some(Operation::Add(encoded(value, 0))),
                }],
            }),
            _ => None,
        };
        let outcome = TaskOutcome {
            lease_token: self.held(step).token,
            outcome: Some(outcome),
            flushed: flushed.into_iter().collect(),
            contributions: contribution.into_iter().collect(),
        };
        let request = FinishTasksRequest {
            outcomes: vec![outcome],
            ..FinishTasksRequest::default()
        };
        let answer = self.workers.finish_tasks(call(step, request)).await?;
        match answer.into_inner().results.swap_remove(0).result {
            Some(outcome_result::Result::Error(error)) => Err(status_of(&error)),
            Some(outcome_result::Result::Task(task)) => Ok(format!(" task={}", short(&task.name))),
            None => Err(ended()),
        }
    }

    pub(super) async fn watch_leases(&mut self, step: &Step<'_>) -> Words {
        let request = WatchLeasesRequest {
            parent: self.parent.clone(),
            worker_id: step.string("worker"),
            instance_uid: self.instance(step.get("worker")),
        };
        let answer = self.workers.watch_leases(stream(request)).await?;
        self.directives
            .insert(step.string("as"), answer.into_inner());
        Ok(String::new())
    }

    pub(super) async fn directive(&mut self, step: &Step<'_>) -> Words {
        let token = self.held(step).token;
        let frames = self.directives.get_mut(step.get("as")).ok_or_else(ended)?;
        loop {
            let frame = frames.message().await?.ok_or_else(ended)?;
            if let Some(watch_leases_response::Frame::Directive(told)) = frame.frame
                && (told.lease_token.is_empty() || told.lease_token == token)
            {
                let disposition = show_disposition(told.disposition());
                let reason = optional("reason", &told.reason);
                return Ok(format!(" {disposition}{reason}"));
            }
        }
    }
}

fn failure_of(step: &Step) -> Failure {
    let category = match step.get("category") {
        "" => Category::Application,
        named => Category::from_str_name(&format!("CATEGORY_{named}")).expect("a category"),
    };
    let cause = step.has("cause").then(|| Failure {
        r#type: step.string("cause"),
        message: step.string("cause-message"),
        ..Failure::default()
    });
    Failure {
        category: category.into(),
        r#type: step.string("failure"),
        message: step.string("message"),
        stack_trace: step.string("stack"),
        runtime: step.string("runtime"),
        retryable: step.get("retryable") == "yes",
        retry_delay: step.has("delay").then(|| step.duration("delay")).flatten(),
        metadata: step.pairs("meta"),
        details: payload(step.get("details")),
        cause: cause.map(Box::new),
        ..Failure::default()
    }
}

// States.
impl Conformance {
    pub(super) async fn update(&mut self, step: &Step<'_>) -> Words {
        let request = UpdateStateRequest {
            name: self.state(step.get("state")),
            updates: updates_of(step, 0),
            request_id: step.string("request"),
            expected_revision: step.int("revision"),
            ..UpdateStateRequest::default()
        };
        let answer = self.states.update_state(call(step, request)).await?;
        let rejected = answer.into_inner().rejected;
        let words = rejected
            .iter()
            .map(|r| format!(" rejected={}:{}", r.key, r.reason));
        Ok(words.collect())
    }

    pub(super) async fn get_state(&mut self, step: &Step<'_>) -> Words {
        let id = step.get("state");
        let request = GetStateRequest {
            name: self.state(id),
            ..GetStateRequest::default()
        };
        let answer = self.states.get_state(call(step, request)).await?;
        let entries = answer.into_inner().state.unwrap_or_default().entries;
        let words = entries.iter().map(|entry| {
            let value = show_value(&entry.value);
            format!(" {id}/{}={value}", entry.key)
        });
        Ok(words.collect())
    }

    pub(super) async fn delete_state(&mut self, step: &Step<'_>) -> Words {
        let request = DeleteStateRequest {
            name: self.state(step.get("state")),
            ..DeleteStateRequest::default()
        };
        self.states.delete_state(call(step, request)).await?;
        Ok(String::new())
    }
}

// Pushes.
impl Conformance {
    pub(super) async fn push_open(&mut self, step: &Step<'_>) -> Words {
        let mut pen = Pen::new(PushOpen {
            state_name: self.state(step.get("state")),
            writer_id: step.string("writer"),
            lease_token: self.held(step).token,
            ..PushOpen::default()
        });
        let last = pen.open(&self.channel).await?;
        self.pens.insert(step.string("as"), pen);
        Ok(format!(" last={last}"))
    }

    fn pen(&mut self, step: &Step) -> &mut Pen {
        let pen = self.pens.get_mut(step.get("as"));
        pen.expect("the scenario opened it")
    }

    pub(super) async fn push_resume(&mut self, step: &Step<'_>) -> Words {
        let channel = self.channel.clone();
        let pen = self.pen(step);
        let before = pen.acked;
        let last = pen.open(&channel).await?;
        pen.send_again();
        if (before..=pen.sent).contains(&last) {
            return Ok(format!(" last={before}..{}", pen.sent));
        }
        Ok(format!(" last={last}"))
    }

    pub(super) async fn push(&mut self, step: &Step<'_>) -> Words {
        let to = step.int("to");
        for sequence in step.int("from")..=to {
            let batch = UpdateBatch {
                sequence,
                updates: updates_of(step, sequence),
                r#final: step.has("final") && sequence == to,
                ..UpdateBatch::default()
            };
            self.pen(step).send(batch).await?;
        }
        Ok(String::new())
    }

    pub(super) async fn push_until(&mut self, step: &Step<'_>) -> Words {
        let pen = self.pen(step);
        while step.has("rewind") || pen.acked < step.int("acked") {
            let (expected, is_open) = pen.read().await?;
            if let Some(expected) = expected {
                return Ok(format!(" rewind={expected}{}", pen.show_rejected()));
            }
            if !is_open {
                return Err(ended());
            }
        }
        let rejected = pen.show_rejected();
        Ok(format!(" acked={}{rejected}", pen.acked))
    }

    pub(super) async fn push_close(&mut self, step: &Step<'_>) -> Words {
        let pen = self.pen(step);
        pen.close();
        while pen.read().await?.1 {}
        Ok(format!(" acked={}", pen.acked))
    }
}
