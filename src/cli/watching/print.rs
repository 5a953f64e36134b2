//! Showing a watch until it ends or is interrupted: a table on a terminal, lines elsewhere, the
//! API's frames for programs.

use std::process::ExitCode;

use prost::Message;

use super::{
    super::{Error, live::Live, output, signals},
    Look, Watching,
};
use crate::{
    client::{Framed, View, Watch, WatchEvent},
    proto::v1::{Position, WatchReset, WatchSynced},
};

/// How one kind of what is watched is shown.
pub(in super::super) trait Shown<V: View> {
    /// The message that carries the frames.
    type Response: Message;
    /// Its name in the API.
    const RESPONSE: &'static str;

    /// What is told, as a frame of the API.
    fn response(&self, told: Told<'_, V>) -> Self::Response;

    /// The whole view, for a terminal.
    fn table(&self, view: &V) -> String;

    /// What an event changed, for everything else.
    fn lines(&mut self, event: &WatchEvent<V::Change>, is_first: bool, view: &V) -> Vec<String>;
}

/// What there is to tell a program.
pub(in super::super) enum Told<'a, V: View> {
    /// The whole view.
    Snapshot(&'a V),
    /// It is complete.
    Synced(WatchSynced),
    /// What changed since.
    Delta {
        base_revision: i64,
        position: Option<Position>,
        changes: Vec<V::Change>,
        folded_commits: i32,
    },
    /// It is dropped.
    Reset(WatchReset),
}

/// Events as the API's frames.
#[derive(Debug, Default)]
pub(in super::super) struct Frames {
    revision: i64,
}

impl Frames {
    pub(in super::super) fn print<V: View, S: Shown<V>>(
        &mut self,
        shown: &S,
        event: WatchEvent<V::Change>,
        is_first: bool,
        view: &V,
    ) -> Result<(), Error> {
        let print = |told| output::json_line(S::RESPONSE, &shown.response(told));
        match event {
            WatchEvent::Synced { position } => {
                if is_first {
                    print(Told::Snapshot(view))?;
                }
                self.revision = position.revision;
                let position = Some(position);
                print(Told::Synced(WatchSynced { position }))
            }
            WatchEvent::Changed {
                changes,
                position,
                folded_commits,
            } => print(Told::Delta {
                base_revision: std::mem::replace(&mut self.revision, position.revision),
                position: Some(position),
                changes,
                folded_commits,
            }),
            WatchEvent::Reset { reset } => print(Told::Reset(reset.unwrap_or_default())),
            WatchEvent::Reconnecting { .. } => Ok(()),
        }
    }
}

/// Shows a watch until it ends as it was asked to, or is interrupted.
pub(in super::super) async fn show<K: Framed, S: Shown<K::View>>(
    mut watch: Watch<K>,
    mut live: Option<Live>,
    json: bool,
    mut shown: S,
) -> Result<ExitCode, Error> {
    let mut interrupts = signals::Interrupts::listen()?;
    let mut watching = Watching::default();
    let mut frames = Frames::default();
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = interrupts.next() => return Ok(ExitCode::SUCCESS),
        };
        let Some(event) = event else {
            return Ok(ExitCode::SUCCESS);
        };
        let event = event?;
        let Look { is_first, note } = watching.look(&event)?;
        match (note, &mut live) {
            (Some(note), Some(live)) => live.note(&note),
            (Some(note), None) => eprintln!("{note}"),
            (None, _) => {}
        }
        if json {
            frames.print(&shown, event, is_first, watch.view())?;
        } else if let Some(live) = &mut live {
            live.draw(&shown.table(watch.view()))?;
        } else {
            let lines = shown.lines(&event, is_first, watch.view());
            lines.into_iter().try_for_each(output::line)?;
        }
    }
}
