//! Watching error groups.

use std::sync::Arc;

use super::{
    super::{Namespace, errors::ErrorRow, mirror::Mirror, token::digest, wakers::Topic},
    Source, Watch, WatchOptions,
    walk::walk,
};
use crate::{
    domain::{
        Error, Revision,
        table::{Content, Place},
    },
    telemetry::metrics::WatchKind,
};

/// Groups that surely fit a part of a walk.
const GROUPS_PER_PART: usize = 16;

/// A watch of error groups.
pub type ErrorWatch = Watch<ErrorSource>;

/// See [`Source`]. Groups come and change, and never go.
#[derive(Debug)]
pub struct ErrorSource {
    digest: u64,
    mark: Place,
}

impl Namespace {
    /// Watches the error groups.
    pub async fn watch_errors(&self, options: &WatchOptions) -> Result<ErrorWatch, Error> {
        self.reach(&options.min_position).await?;
        let source = ErrorSource {
            digest: digest("errors"),
            mark: Place::after(Revision::ZERO),
        };
        let audience = self.shared().wakers.audience(None, &[Topic::Errors]);
        Watch::open(self.shared().clone(), source, audience, options)
    }
}

impl Source for ErrorSource {
    const KIND: WatchKind = WatchKind::Errors;

    type Item = ErrorRow;

    fn digest(&self) -> u64 {
        self.digest
    }

    /// Nothing is ever removed, so nothing can be missed.
    fn horizon(&self, _: &Mirror) -> Revision {
        Revision::ZERO
    }

    fn commits(&self, mirror: &Mirror) -> u64 {
        mirror.error_commits
    }

    fn begin(&mut self, from: Revision, _: Revision) {
        self.mark = Place::after(from);
    }

    fn replaced(&mut self) {
        self.mark = self.mark.again();
    }

    fn collect(&mut self, mirror: &Mirror, limit: usize, items: &mut Vec<ErrorRow>) -> bool {
        let mut room = limit;
        walk(
            mirror.errors.table(),
            &mut self.mark,
            &mut room,
            |revision, _, content| match content {
                Content::Live(group) => {
                    let item = ErrorRow {
                        group: Arc::clone(group),
                        revision,
                    };
                    let size = Self::size(&item);
                    items.push(item);
                    size
                }
                Content::Dead(()) => 0,
            },
        )
    }

    fn parts(&self, mirror: &Mirror) -> usize {
        mirror.errors.len() / GROUPS_PER_PART
    }

    fn size(item: &ErrorRow) -> usize {
        prost::Message::encoded_len(&*item.group) + 256
    }

    fn is_finished(&self, _: &Mirror) -> bool {
        false
    }

    fn may_finish(&self) -> bool {
        false
    }
}
