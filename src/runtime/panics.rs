//! Panics of decorated code: caught, with the place and the stack where they happened.
//!
//! What a caught panic carries is its message alone; where it happened is known to the panic hook
//! and to nobody else. The hook is installed with the first decorated task and stands before the
//! one that was there: a panic of other code goes on to that one untouched. A panic of decorated
//! code is said once: by the log line of the task that it ends, or, where no subscriber takes that
//! line, by the hook that was there. [`leave_panics_alone`] keeps the hook out altogether.

use std::{
    any::Any,
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    collections::HashMap,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
    pin::pin,
    sync::{
        LazyLock, Once,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Instant,
};

use parking_lot::Mutex;
use tokio::task::Id;

use super::{
    backtrace::{function_at, place, without_machinery},
    text::cut,
};
use crate::domain::limits::{MAX_FAILURE_MESSAGE_BYTES, MAX_STACK_BYTES};

/// A stack costs milliseconds to print: of a storm of panics, so many in a second have one.
const STACKS_PER_SECOND: u32 = 10;

/// A panic that was caught.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Panic {
    /// What was given to `panic!`, where that was text.
    pub(crate) message: String,
    /// `file.rs:function`, or `file.rs`; empty where the hook was kept out.
    pub(crate) location: String,
    /// The stack; empty where there is none.
    pub(crate) stack: String,
}

impl Panic {
    /// One of which nothing else is known.
    pub(super) fn of(payload: &(dyn Any + Send)) -> Self {
        Self::new(payload, None)
    }

    fn new(payload: &(dyn Any + Send), seen: Option<Seen>) -> Self {
        let Seen { location, stack } = seen.unwrap_or_default();
        Self {
            message: cut(panic_message(payload), MAX_FAILURE_MESSAGE_BYTES),
            location,
            stack,
        }
    }
}

/// What the hook saw.
#[derive(Default)]
struct Seen {
    location: String,
    stack: String,
}

thread_local! {
    /// How many decorated futures are being polled on this thread, one within the other.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Places of panics whose function is known; further ones are told by their file alone where there is no
/// stack.
const MAX_PLACES: usize = 1_024;
/// File, line and column.
type Spot = (String, u32, u32);
/// What a stack said of a place.
static PLACES: LazyLock<Mutex<HashMap<Spot, String>>> = LazyLock::new(Mutex::default);

/// Tasks that were decorated after they began, and what the hook saw of them.
static LATE: LazyLock<Mutex<HashMap<Id, Option<Seen>>>> = LazyLock::new(Mutex::default);
static INSTALL: Once = Once::new();
static LEFT_ALONE: AtomicBool = AtomicBool::new(false);

/// Keeps duite's panic hook out of this process. To be called before the first decorated task; a
/// panic of decorated code then has no location and no stack, and is printed by the program's own
/// hook as well as logged. The environment variable `DUITE_PANIC_HOOK=off` does the same.
pub fn leave_panics_alone() {
    LEFT_ALONE.store(true, Ordering::Relaxed);
}

fn install() {
    INSTALL.call_once(|| {
        let off = std::env::var_os("DUITE_PANIC_HOOK").is_some_and(|value| value == "off");
        if off || LEFT_ALONE.load(Ordering::Relaxed) {
            return;
        }
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_taken = take_note(info);
            // Logged by whoever catches it, so that it is not said twice.
            if !(is_taken && tracing::enabled!(target: "duite::runtime", tracing::Level::ERROR)) {
                before(info);
            }
        }));
    });
}

/// Whether the panic is of decorated code.
fn take_note(info: &PanicHookInfo<'_>) -> bool {
    if DEPTH.with(Cell::get) > 0 {
        let seen = Seen::new(info);
        LAST.with_borrow_mut(|last| *last = Some(seen));
        return true;
    }
    let Some(id) = tokio::task::try_id() else {
        return false;
    };
    if !LATE.lock().contains_key(&id) {
        return false;
    }
    let seen = Seen::new(info);
    if let Some(late) = LATE.lock().get_mut(&id) {
        *late = Some(seen);
    }
    true
}

impl Seen {
    fn new(info: &PanicHookInfo<'_>) -> Self {
        let Some(location) = info.location() else {
            return Self::default();
        };
        let head = format!("panicked at {location}");
        let spot = (
            location.file().to_owned(),
            location.line(),
            location.column(),
        );
        let known = PLACES.lock().get(&spot).cloned();
        if !may_have_stack(known.is_some()) {
            return Self {
                location: known.unwrap_or_else(|| place(location, None)),
                stack: head,
            };
        }
        let printed = Backtrace::force_capture().to_string();
        let own = without_machinery(&printed);
        let stack = format!("{head}\n{own}");
        let place = place(location, function_at(own, location).as_deref());
        let mut places = PLACES.lock();
        if places.len() < MAX_PLACES {
            places.insert(spot, place.clone());
        }
        Self {
            location: place,
            stack: cut(stack, MAX_STACK_BYTES),
        }
    }
}

/// Stacks are asked for by nobody but duite here, so only a plain no counts; and not all panics of
/// a storm have one.
fn may_have_stack(is_known: bool) -> bool {
    static WANTED: LazyLock<bool> = LazyLock::new(|| {
        let variable = |name| std::env::var_os(name);
        let asked = variable("RUST_LIB_BACKTRACE").or_else(|| variable("RUST_BACKTRACE"));
        asked.is_none_or(|value| value != "0")
    });
    /// The second, counted from the first panic, and how many stacks were printed in it.
    static PRINTED: Mutex<(u64, u32)> = Mutex::new((0, 0));
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    if !*WANTED {
        return false;
    }
    let second = START.elapsed().as_secs();
    let mut printed = PRINTED.lock();
    if printed.0 != second {
        *printed = (second, 0);
    }
    printed.1 += 1;
    // The first of a place has one in any case, up to a number: all others are told by it to be the
    // same, with a stack or without.
    printed.1 <= STACKS_PER_SECOND || !is_known && PLACES.lock().len() < MAX_PLACES
}

/// Runs the future with its panics caught; it is not looked at again after one, only dropped.
pub(crate) async fn catch<F: Future>(future: F) -> Result<F::Output, Panic> {
    install();
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_now(|| future.as_mut().poll(context)) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

/// The same for what is called and returns.
pub(crate) fn catch_now<R>(call: impl FnOnce() -> R) -> Result<R, Panic> {
    /// Counts down also where the call is left by a panic of its own catching.
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            DEPTH.with(|depth| depth.set(depth.get() - 1));
        }
    }
    install();
    DEPTH.with(|depth| depth.set(depth.get() + 1));
    let inside = Inside;
    let result = catch_unwind(AssertUnwindSafe(call));
    drop(inside);
    let seen = LAST.with_borrow_mut(Option::take);
    match result {
        Ok(value) => {
            if let Some(seen) = seen {
                tracing::warn!(
                    error.type = "panic",
                    error.location = seen.location,
                    "a panic was caught by the task itself"
                );
            }
            Ok(value)
        }
        Err(payload) => Err(Panic::new(&*payload, seen)),
    }
}

/// Notes the panics of a task that was begun without decoration.
pub(super) struct Late(Id);

impl Late {
    pub(super) fn new(task: Id) -> Self {
        install();
        LATE.lock().insert(task, None);
        Self(task)
    }

    pub(super) fn caught(&self, payload: &(dyn Any + Send)) -> Panic {
        let seen = LATE.lock().get_mut(&self.0).and_then(Option::take);
        Panic::new(payload, seen)
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        LATE.lock().remove(&self.0);
    }
}

/// What was given to `panic!`, where that was text.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is not text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks(index: usize) -> usize {
        [1, 2, 3][index]
    }

    #[tokio::test]
    async fn a_panic_is_caught_with_its_message_place_and_stack() {
        let panic = catch(async { breaks(7) }).await.unwrap_err();
        assert!(panic.message.contains("the index is 7"), "{panic:?}");
        assert!(panic.location.starts_with("panics.rs"), "{panic:?}");
        assert!(panic.stack.starts_with("panicked at "), "{panic:?}");
        assert!(
            !panic.stack.contains("rust_panic_with_hook") && !panic.stack.contains("panic_bounds"),
            "the machinery is left out: {panic:?}"
        );
    }

    #[tokio::test]
    async fn a_task_that_was_not_begun_decorated_has_its_place_too() {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            gone.await.unwrap();
            breaks(7)
        });
        let late = Late::new(task.id());
        go.send(()).unwrap();
        let panic = late.caught(&*task.await.unwrap_err().into_panic());
        assert!(panic.location.starts_with("panics.rs"), "{panic:?}");
    }

    #[test]
    fn a_panic_that_the_code_caught_itself_is_not_told_as_the_next_one() {
        let caught = catch_now(|| catch_unwind(|| breaks(7)).is_err());
        assert_eq!(caught, Ok(true));
        assert!(LAST.with_borrow(Option::is_none));
    }

    #[tokio::test]
    async fn a_storm_of_one_panic_is_told_to_be_in_one_place() {
        let mut places = std::collections::BTreeSet::new();
        for index in 0..3 * STACKS_PER_SECOND {
            let panic = catch(async { breaks(3 + index as usize) })
                .await
                .unwrap_err();
            places.insert(panic.location);
        }
        assert_eq!(places.len(), 1, "{places:?}");
    }
}
