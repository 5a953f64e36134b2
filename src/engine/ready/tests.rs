//! Whose turn it is, against a model that looks at every task each time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A task of the queue `q`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    queue: u8,
    r#type: u8,
    priority: u32,
    fair: u8,
    concurrency: u8,
}

fn name(number: u8) -> String {
    if number == 0 {
        String::new()
    } else {
        format!("n{number}")
    }
}

fn task(shape: &Shape) -> Task {
    Task {
        queue: format!("q{}", shape.queue),
        r#type: format!("t{}", shape.r#type),
        priority: shape.priority,
        fairness_key: name(shape.fair),
        concurrency_key: name(shape.concurrency),
        ..Task::default()
    }
}

fn fair(key: u8) -> Shape {
    Shape {
        fair: key,
        ..Shape::default()
    }
}

fn limits(max_running: u32, max_running_per_key: u32) -> QueueSettings {
    QueueSettings {
        paused: false,
        max_running,
        max_running_per_key,
    }
}

fn queues(numbers: &[u8]) -> Vec<String> {
    numbers.iter().map(|number| format!("q{number}")).collect()
}

impl Ready {
    fn next(&mut self) -> Option<u64> {
        let taken = self.take(&queues(&[0]), &[])?;
        Some(taken.revision.0)
    }

    /// Everything that is handed out one after the other.
    fn all(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn fill(&mut self, shape: &Shape, revisions: impl IntoIterator<Item = u64>) {
        for revision in revisions {
            self.insert(&task(shape), Revision(revision));
        }
    }
}

/// What should happen, said as plainly as can be.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<u64, Shape>,
    running: Vec<Shape>,
    settings: BTreeMap<u8, QueueSettings>,
    /// By queue, priority and fairness key: when it was served last, or came.
    turns: BTreeMap<(u8, u32, u8), u64>,
    /// By queue and priority: who goes behind the others when the next is asked for.
    behind: BTreeMap<(u8, u32), u8>,
    served: BTreeMap<u8, u64>,
    clock: u64,
}

impl Model {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn settings(&self, queue: u8) -> QueueSettings {
        self.settings.get(&queue).copied().unwrap_or_default()
    }

    /// What has nothing any more is new when it comes again.
    fn tidy(&mut self) {
        let keys: BTreeSet<_> = self.waiting.values().map(turn).collect();
        self.turns.retain(|key, _| keys.contains(key));
        self.behind
            .retain(|(queue, priority), key| keys.contains(&(*queue, *priority, *key)));
        let mut queues: BTreeSet<_> = self.waiting.values().map(|shape| shape.queue).collect();
        queues.extend(self.running.iter().map(|shape| shape.queue));
        let settings = &self.settings;
        let set = |queue: &u8| settings.get(queue).is_some_and(|s| *s != limits(0, 0));
        self.served
            .retain(|queue, _| queues.contains(queue) || set(queue));
    }

    fn know(&mut self, queue: u8) {
        if !self.served.contains_key(&queue) {
            let now = self.tick();
            self.served.insert(queue, now);
        }
    }

    fn insert(&mut self, revision: u64, shape: Shape) {
        self.know(shape.queue);
        if !self.turns.contains_key(&turn(&shape)) {
            let now = self.tick();
            self.turns.insert(turn(&shape), now);
        }
        self.waiting.insert(revision, shape);
    }

    fn may_run(&self, shape: &Shape) -> bool {
        let settings = self.settings(shape.queue);
        let count = |same: &dyn Fn(&Shape) -> bool| {
            let of = |other: &&Shape| other.queue == shape.queue && same(other);
            self.running.iter().filter(of).count() as u32
        };
        let room = |limit: u32, running: u32| limit == 0 || running < limit;
        let of_key = count(&|other| other.concurrency == shape.concurrency);
        !settings.paused
            && room(settings.max_running, count(&|_| true))
            && (shape.concurrency == 0 || room(settings.max_running_per_key, of_key))
    }

    fn take(&mut self, queues: &[u8], types: &[u8]) -> Option<u64> {
        let wanted = |shape: &Shape| {
            queues.contains(&shape.queue) && (types.is_empty() || types.contains(&shape.r#type))
        };
        for &queue in queues {
            let settings = self.settings(queue);
            let running = self.running.iter().filter(|shape| shape.queue == queue);
            let running = running.count() as u32;
            if settings.paused || settings.max_running > 0 && running >= settings.max_running {
                continue;
            }
            for priority in (0..=9).rev() {
                if let Some(key) = self.behind.remove(&(queue, priority)) {
                    let now = self.tick();
                    self.turns.insert((queue, priority, key), now);
                }
                let here = |shape: &&Shape| shape.queue == queue && shape.priority == priority;
                let mut here = self.waiting.values().filter(here);
                if here.any(|shape| wanted(shape) && self.may_run(shape)) {
                    break;
                }
            }
        }
        let found = self.waiting.iter();
        let found = found.filter(|(_, shape)| wanted(shape) && self.may_run(shape));
        let (&revision, _) = found.min_by_key(|(revision, shape)| {
            (
                9 - shape.priority,
                self.served[&shape.queue],
                self.turns[&turn(shape)],
                **revision,
            )
        })?;
        let shape = self.waiting.remove(&revision)?;
        let (queue, priority, key) = turn(&shape);
        self.behind.insert((queue, priority), key);
        let now = self.tick();
        self.served.insert(shape.queue, now);
        self.running.push(shape);
        self.tidy();
        Some(revision)
    }
}

fn turn(shape: &Shape) -> (u8, u32, u8) {
    (shape.queue, shape.priority, shape.fair)
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Shape),
    Cancel(usize),
    Take(Vec<u8>, Vec<u8>),
    Stop(usize),
    /// The lease of one that was taken is refused.
    Refuse(usize),
    Configure(u8, bool, u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let shape = (0_u8..2, 0_u8..3, 0_u32..3, 0_u8..4, 0_u8..4).prop_map(
        |(queue, r#type, priority, fair, concurrency)| Shape {
            queue,
            r#type,
            priority: priority * 4,
            fair,
            concurrency,
        },
    );
    let some = |most: u8| prop::collection::vec(0..most, 0..3);
    prop_oneof![
        8 => shape.prop_map(Step::Insert),
        1 => any::<usize>().prop_map(Step::Cancel),
        8 => (some(2), some(3)).prop_map(|(queues, types)| Step::Take(queues, types)),
        4 => any::<usize>().prop_map(Step::Stop),
        1 => any::<usize>().prop_map(Step::Refuse),
        1 => (0_u8..2, any::<bool>(), 0_u32..4, 0_u32..3)
            .prop_map(|(queue, paused, all, key)| Step::Configure(queue, paused, all, key)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn it_chooses_as_a_model_that_looks_at_everything(steps in prop::collection::vec(step(), 1..200)) {
        let (mut ready, mut model) = (Ready::default(), Model::default());
        // In the order of the model's running tasks.
        let mut taken = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let revision = number as u64 + 1;
            match step {
                Step::Insert(shape) => {
                    ready.insert(&task(&shape), Revision(revision));
                    // The second time changes nothing.
                    ready.insert(&task(&shape), Revision(revision));
                    model.insert(revision, shape);
                }
                Step::Cancel(which) => {
                    let found = model.waiting.iter().nth(which % model.waiting.len().max(1));
                    if let Some((&revision, shape)) = found {
                        ready.remove(&task(shape), Revision(revision));
                        ready.remove(&task(shape), Revision(revision));
                        model.waiting.remove(&revision);
                        model.tidy();
                    }
                }
                Step::Take(queues, types) => {
                    let types_asked: Vec<_> = types.iter().map(|t| format!("t{t}")).collect();
                    let given = ready.take(&super::tests::queues(&queues), &types_asked);
                    let expected = model.take(&queues, &types);
                    prop_assert_eq!(given.as_ref().map(|given| given.revision.0), expected);
                    taken.extend(given);
                }
                Step::Stop(which) if !taken.is_empty() => {
                    let which = which % taken.len();
                    let over = taken.remove(which);
                    ready.stop(&over.queue, over.concurrency_key());
                    model.running.remove(which);
                    model.tidy();
                }
                Step::Refuse(which) if !taken.is_empty() => {
                    let which = which % taken.len();
                    let over = taken.remove(which);
                    let shape = model.running.remove(which);
                    ready.stop(&over.queue, over.concurrency_key());
                    model.tidy();
                    ready.insert(&task(&shape), over.revision);
                    model.insert(over.revision.0, shape);
                }
                Step::Configure(queue, paused, max_running, max_running_per_key) => {
                    let settings = QueueSettings { paused, max_running, max_running_per_key };
                    ready.configure(&format!("q{queue}"), settings);
                    model.know(queue);
                    model.settings.insert(queue, settings);
                    model.tidy();
                }
                Step::Stop(_) | Step::Refuse(_) => {}
            }
            prop_assert_eq!(ready.waiting(), model.waiting.len());
            for queue in 0..2 {
                let of = |shape: &&Shape| shape.queue == queue;
                let oldest = model.waiting.iter().find(|(_, shape)| of(shape));
                let found = ready.oldest(&format!("q{queue}")).map(|revision| revision.0);
                prop_assert_eq!(found, oldest.map(|(revision, _)| *revision));
                let running = model.running.iter().filter(of).count() as u32;
                let known = ready.queues.get(format!("q{queue}").as_str());
                prop_assert_eq!(known.map_or(0, |known| known.running), running);
                for concurrency in 1..4 {
                    let running = model.running.iter().filter(of);
                    let running = running.filter(|shape| shape.concurrency == concurrency).count();
                    let counted = known.map_or(0, |known| known.running_of(&name(concurrency)));
                    prop_assert_eq!(counted, running as u32);
                }
                if let Some(known) = known {
                    known.check();
                }
            }
        }
        // Nothing is left behind once everything has gone.
        for queue in 0..2 {
            ready.configure(&format!("q{queue}"), QueueSettings::default());
        }
        for (revision, shape) in model.waiting {
            ready.remove(&task(&shape), Revision(revision));
        }
        for over in taken {
            ready.stop(&over.queue, over.concurrency_key());
        }
        prop_assert!(ready.queues.is_empty());
    }
}

proptest! {
    /// Without limits and new tasks, the estimate is what happens.
    #[test]
    fn the_place_in_the_queue_is_how_many_go_before(
        shapes in prop::collection::vec((0_u8..2, 0_u32..2, 0_u8..5, 0_u8..3), 1..100),
        served in 0_usize..50,
    ) {
        let mut ready = Ready::default();
        let mut waiting = BTreeMap::new();
        for (number, (r#type, priority, fair, concurrency)) in (1..).zip(shapes) {
            let shape = Shape { queue: 0, r#type, priority, fair, concurrency };
            ready.insert(&task(&shape), Revision(number));
            waiting.insert(number, shape);
        }
        for _ in 0..served {
            ready.next().map(|revision| waiting.remove(&revision));
        }
        let places: BTreeMap<_, _> = waiting
            .iter()
            .map(|(revision, shape)| (*revision, ready.before(&task(shape), Revision(*revision)).unwrap()))
            .collect();
        for (place, revision) in ready.all().into_iter().enumerate() {
            prop_assert_eq!(places[&revision], place);
        }
    }
}

#[test]
fn with_very_many_keys_the_place_is_an_estimate_of_the_right_size() {
    let mut ready = Ready::default();
    for number in 0..100_000_u64 {
        let shape = Task {
            fairness_key: format!("k{}", number % 10_000),
            ..task(&Shape::default())
        };
        ready.insert(&shape, Revision(number + 1));
    }
    // The fifth of its key: four rounds of ten thousand, and part of one.
    let one = Task {
        fairness_key: "k500".into(),
        ..task(&Shape::default())
    };
    let place = ready.before(&one, Revision(40_501)).unwrap();
    assert!((40_000..50_000).contains(&place), "{place}");
}

#[test]
fn priority_goes_before_fairness_and_fairness_before_age() {
    let mut ready = Ready::default();
    ready.fill(&fair(1), 1..=3);
    ready.fill(&fair(2), 4..=5);
    let urgent = Shape {
        priority: 9,
        ..fair(1)
    };
    ready.fill(&urgent, 6..=7);
    assert_eq!(ready.all(), [6, 7, 1, 4, 2, 5, 3]);
}

#[test]
fn one_task_beside_a_hundred_thousand_of_another_tenant_is_next() {
    let mut ready = Ready::default();
    ready.fill(&fair(1), 1..=100_000);
    for revision in 1..=500 {
        assert_eq!(ready.next(), Some(revision));
    }
    ready.fill(&fair(2), [200_000]);
    assert_eq!(ready.next(), Some(200_000));
    assert_eq!(ready.next(), Some(501));
    // Asked for in vain meanwhile, for another type: then it is next but one.
    assert_eq!(ready.take(&queues(&[0]), &["t9".into()]), None);
    ready.fill(&fair(2), [200_001]);
    assert_eq!(ready.next(), Some(502));
    assert_eq!(ready.next(), Some(200_001));
}

#[test]
fn a_tenant_that_was_away_has_saved_up_nothing() {
    let mut ready = Ready::default();
    ready.fill(&fair(2), [1]);
    assert_eq!(ready.next(), Some(1));
    ready.fill(&fair(1), 2..=1_000);
    for _ in 0..500 {
        ready.next();
    }
    ready.fill(&fair(2), 2_001..=2_010);
    let first: Vec<_> = (0..10).filter_map(|_| ready.next()).collect();
    let of_the_second = first.iter().filter(|revision| **revision > 2_000).count();
    assert_eq!(of_the_second, 5, "{first:?}");
}

#[test]
fn tenants_that_come_all_the_time_keep_nobody_waiting_for_ever() {
    let mut ready = Ready::default();
    ready.fill(&fair(1), 1..=2);
    let mut given = Vec::new();
    for number in 0..8_u64 {
        // Each is new, and two come for each that is served.
        for more in 0..2 {
            let key = 10 + 2 * number as u8 + more;
            ready.fill(&fair(key), [100 + u64::from(key)]);
        }
        given.extend(ready.next());
    }
    // Behind the four that were there when the next was asked for, and no others.
    assert_eq!((given[0], given[5]), (1, 2), "{given:?}");
}

#[test]
fn a_key_takes_one_turn_for_all_its_types_and_the_oldest_first() {
    let mut ready = Ready::default();
    let of = |r#type, fair| Shape {
        r#type,
        fair,
        ..Shape::default()
    };
    ready.fill(&of(0, 1), [1, 4]);
    ready.fill(&of(1, 1), [2, 3]);
    ready.fill(&of(1, 2), [5, 6]);
    assert_eq!(ready.all(), [1, 5, 2, 6, 3, 4]);
}

#[test]
fn queues_asked_together_take_turns() {
    let mut ready = Ready::default();
    let of = |queue| Shape {
        queue,
        ..Shape::default()
    };
    ready.fill(&of(0), 1..=3);
    ready.fill(&of(1), 4..=6);
    let both = queues(&[0, 1]);
    let given: Vec<_> = std::iter::from_fn(|| ready.take(&both, &[]))
        .map(|taken| taken.revision.0)
        .collect();
    assert_eq!(given, [1, 4, 2, 5, 3, 6]);
}

#[test]
fn a_key_at_its_limit_lets_others_pass_and_comes_back() {
    let mut ready = Ready::default();
    ready.configure("q0", limits(0, 1));
    let of = |concurrency| Shape {
        concurrency,
        ..Shape::default()
    };
    ready.fill(&of(1), 1..=3);
    ready.fill(&of(2), [4]);
    ready.fill(&of(0), [5]);
    assert_eq!(ready.all(), [1, 4, 5]);
    assert!(ready.stop("q0", &name(1)));
    assert!(!ready.stop("q0", &name(2)));
    assert_eq!(ready.all(), [2]);
    // A higher limit counts at once.
    ready.configure("q0", limits(0, 2));
    assert_eq!(ready.all(), [3]);
}

#[test]
fn a_lowered_limit_hands_out_nothing_until_fewer_run() {
    let mut ready = Ready::default();
    ready.fill(&Shape::default(), 1..=6);
    for _ in 0..4 {
        ready.next();
    }
    ready.configure("q0", limits(2, 0));
    assert_eq!(ready.next(), None);
    assert!(!ready.stop("q0", "") && !ready.stop("q0", ""));
    assert_eq!(ready.next(), None);
    assert!(ready.stop("q0", ""));
    assert_eq!(ready.all(), [5]);
}

#[test]
fn a_hundred_thousand_keys_leave_no_memory_behind() {
    let mut ready = Ready::default();
    ready.fill(&fair(1), [1]);
    for number in 0..100_000_u64 {
        let shape = Task {
            fairness_key: format!("k{number}"),
            ..task(&Shape::default())
        };
        ready.insert(&shape, Revision(number + 2));
    }
    assert_eq!(ready.all().len(), 100_001);
    ready.fill(&fair(1), [200_000]);
    let level = &ready.queues["q0"].levels[&9];
    assert!(level.keys.capacity() < 1_000);
    assert!(level.lines["t0"].shares.capacity() < 1_000);
}
