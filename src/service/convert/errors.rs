//! Reported failures and error groups.

use super::{
    bounds::{segment, set_timestamp, uuid},
    failure::{failure_in, failure_out},
};
use crate::{
    domain::{Error, NamespaceId, failure::Report},
    engine::errors::ErrorRow,
    proto::v1 as pb,
};

/// A failure to count; none where it is a cancel.
pub(crate) fn report(report: pb::FailureReport) -> Result<Option<Report>, Error> {
    let id = uuid("reports.report_id", &report.report_id)?;
    let task_type = segment("reports.task_type", report.task_type)?;
    let failure = report
        .failure
        .ok_or_else(|| Error::field("reports.failure", "must be set: it says what went wrong"))?;
    Ok(Report::new(id, &task_type, &failure_in(failure)))
}

/// A group as it stands.
pub(crate) fn error_group(namespace: &NamespaceId, row: &ErrorRow) -> pb::ErrorGroup {
    let group = &*row.group;
    let last_task = match group.last_task.as_str() {
        "" => String::new(),
        task => namespace.task_name(task),
    };
    pb::ErrorGroup {
        fingerprint: group.fingerprint().to_string(),
        task_type: group.task_type.clone(),
        last_failure: group.last_failure.as_deref().map(failure_out),
        last_task,
        count: i64::try_from(group.count).unwrap_or(i64::MAX),
        first_time: set_timestamp(group.first_us),
        last_time: set_timestamp(group.last_us),
        failure_type: group.failure_type.clone(),
        location: group.location.clone(),
        revision: row.revision.wire(),
    }
}
