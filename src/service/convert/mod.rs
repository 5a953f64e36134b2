//! Messages to domain types and back.
//!
//! What comes in is checked here, whole, before anything is done; what goes out cannot fail.

mod bounds;
mod errors;
mod failure;
mod lease;
mod queue;
mod repeat;
mod state;
mod task_in;
mod task_out;
mod watch;

pub(super) use bounds::{
    clamped, duration, instance, items, items_up_to, ops_bytes, optional_uuid, segment, uuid,
    within,
};
pub(super) use errors::{error_group, report};
pub(super) use lease::{batch_too_large, finish, lease_out, lease_token, tokens};
pub(super) use queue::{queue, queue_change};
pub(super) use repeat::Repeater;
pub(super) use state::{monitor, ops, rejected, revision, settings, shared_state, stub};
pub(super) use task_in::{create, task_filter};
pub(super) use task_out::{Detail, fit, made_task, task, whole_task};
pub(super) use watch::{Stage, encoded_delta, key_filter, lease_frame, options};
