//! [`Intake`] against one list per lane, fed by a journal on a simulated disk.

#![allow(clippy::unwrap_used)]

use journal::{Append, Journal, ReadRules, Simulated, StreamIndex};
use message::Message;
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Duration;

use super::*;

const STREAM: StreamIndex = StreamIndex(0);
const KEYS: usize = 7;

/// What arrives and who takes; the lists are beside the queues, since which
/// lane a key belongs to is the intake's own affair.
#[derive(Clone, Debug)]
struct Plan {
    lanes: u32,
    messages: usize,
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Step {
    /// One commit: key and size of each message.
    Arrive(Vec<(usize, usize)>),
    /// More than may wait in front of the lanes.
    Flood(usize),
    Take(u32),
}

impl ReferenceStateMachine for Plan {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        (1u32..5, 1usize..20, 1usize..200)
            .prop_map(|(lanes, messages, bytes)| Self { lanes, messages, bytes })
            .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        prop_oneof![
            20 => prop::collection::vec((0..KEYS, 0usize..100), 1..30).prop_map(Step::Arrive),
            1 => (0..KEYS).prop_map(Step::Flood),
            30 => (0u32..6).prop_map(Step::Take),
        ]
        .boxed()
    }

    fn apply(plan: Self, _: &Step) -> Self {
        plan
    }
}

/// Number and size of a message.
type Row = (usize, usize);

struct World {
    runtime: Runtime,
    journal: Journal,
    intake: Arc<Intake>,
    /// The lane of each key: a message of each was sent through to find out.
    lane_of: Vec<usize>,
    /// What has arrived and was not taken, a list for each lane.
    waiting: Vec<Vec<Row>>,
    /// The first number of each commit.
    commits: Vec<usize>,
    arrived: usize,
    taken: usize,
}

impl World {
    fn new(plan: &Plan) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let journal = Journal::simulated(Simulated::new(1));
        let intake = Arc::new(Intake::new(plan.lanes, (plan.messages, plan.bytes)));
        let (feeding, source) = (intake.clone(), journal.clone());
        let key = Arc::new(KeyRule::Topic);
        runtime.spawn(async move { feeding.feed(&source, STREAM, ReadRules::default(), key).await });
        let waiting = vec![Vec::new(); plan.lanes as usize];
        let (lane_of, commits) = (Vec::new(), Vec::new());
        let mut world = Self { runtime, journal, intake, lane_of, waiting, commits, arrived: 0, taken: 0 };
        for key in 0..KEYS {
            world.append(&[(key, 1)]);
            let lane = (0..plan.lanes).find(|lane| !world.take(*lane).is_empty());
            world.lane_of.push(lane.unwrap() as usize);
        }
        world
    }

    fn append(&mut self, rows: &[(usize, usize)]) {
        self.commits.push(self.arrived);
        self.arrived += rows.len();
        let append = |(key, size): &(usize, usize)| {
            let topic = key.to_string();
            let payload = vec![0; size.saturating_sub(topic.len())];
            Append { message: Message::received_now(topic, payload), streams: vec![STREAM] }
        };
        let batch = rows.iter().map(append).collect();
        self.runtime.block_on(async { self.journal.append(batch).await.await }).unwrap();
        self.settle_down();
    }

    /// Paused time moves when no task has anything to do.
    fn settle_down(&self) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }

    fn arrive(&mut self, rows: &[(usize, usize)]) {
        for (number, (key, size)) in (self.arrived..).zip(rows) {
            self.waiting[self.lane_of[*key]].push((number, (*size).max(1)));
        }
        self.append(rows);
    }

    fn take(&mut self, lane: u32) -> Vec<Row> {
        let entries = self.intake.take(lane, Instant::now());
        self.taken += entries.len();
        self.settle_down();
        let row = |entry: &Arc<Entry>| {
            let commit = usize::try_from(entry.position.chunk).unwrap();
            (self.commits[commit] + entry.position.index as usize, entry.message.size())
        };
        entries.iter().map(row).collect()
    }

    /// What a lane must get now: as many as a batch admits, and at least one
    /// of those that are in front of the lanes.
    fn batch(&self, plan: &Plan, lane: u32) -> Vec<Row> {
        let Some(waiting) = self.waiting.get(lane as usize) else { return Vec::new() };
        let mut batch: Vec<Row> = Vec::new();
        for row in waiting.iter().take_while(|(number, _)| *number < self.taken + WAITING) {
            let bytes: usize = batch.iter().map(|(_, size)| size).sum();
            if !batch.is_empty() && (batch.len() == plan.messages || bytes + row.1 > plan.bytes) {
                break;
            }
            batch.push(*row);
        }
        batch
    }

    fn check_take(&mut self, plan: &Plan, lane: u32) -> usize {
        let expected = self.batch(plan, lane);
        let taken = self.take(lane);
        assert_eq!(taken, expected, "number and size of what lane {lane} takes");
        if let Some(waiting) = self.waiting.get_mut(lane as usize) {
            waiting.drain(..taken.len());
        }
        taken.len()
    }
}

struct Lanes;

impl StateMachineTest for Lanes {
    type SystemUnderTest = World;
    type Reference = Plan;

    fn init_test(plan: &Plan) -> World {
        World::new(plan)
    }

    fn apply(mut world: World, plan: &Plan, step: Step) -> World {
        match step {
            Step::Arrive(rows) => world.arrive(&rows),
            Step::Flood(key) => world.arrive(&vec![(key, 1); WAITING + 100]),
            Step::Take(lane) => {
                world.check_take(plan, lane);
            }
        }
        world
    }

    fn check_invariants(world: &World, _: &Plan) {
        let handed_out: usize = world.intake.queues.iter().map(|q| q.lock().weight()).sum();
        let waiting: usize = world.waiting.iter().map(Vec::len).sum();
        assert_eq!(handed_out, waiting.min(WAITING), "no more than fits waits in front of the lanes");
    }

    fn teardown(mut world: World, plan: Plan) {
        while world.taken < world.arrived {
            let taken: usize = (0..plan.lanes).map(|lane| world.check_take(&plan, lane)).sum();
            assert!(taken > 0, "{} of {} were taken", world.taken, world.arrived);
        }
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn each_lane_takes_what_is_its_own_in_order_and_nothing_stays(sequential 1..60 => Lanes);
}
