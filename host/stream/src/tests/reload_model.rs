//! Scripts that are written, ordered, taken back, that fail and are started
//! anew, in any order, against a model of what has to run.

use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::durable::stop;
use super::reload::{STAMPS_BUT_TRAPS_ON_MARK, Site, stamps, version};
use super::*;
use crate::reload::{Refusal, Reloaded};

/// What a file may hold. The first byte of what is delivered tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    A,
    B,
    C,
    /// As good as the others until a message is marked.
    TrapsOnMark,
    AlwaysTraps,
    Torn,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Write(Content),
    /// The gateway notices that the file has changed.
    Look,
    Reload,
    RollBack,
    Restart,
    /// Without a clean stop.
    Kill,
    /// What runs after a restart cannot be written from now on, or can again.
    Break,
    /// A message that one of the versions traps on, while a reload is under way.
    MarkDuringReload,
    /// A message that one of the versions traps on.
    Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Unchanged,
    Taken,
    Refused,
}

/// What should be.
struct Model {
    file: Content,
    running: Content,
    /// What runs last.
    accepted: Vec<Content>,
    aside: Vec<Content>,
    /// What a failing version makes place for.
    before: Option<Content>,
    /// Nothing can be written about versions.
    broken: bool,
    /// The lanes have gone back from one version to another, and a restart does
    /// not know.
    unkept: Option<(Content, Content)>,
    /// A marked message is in the journal.
    marked: bool,
    dead: u64,
}

impl Content {
    fn transform(self) -> String {
        match self {
            Self::A => stamps('a'),
            Self::B => stamps('b'),
            Self::C => stamps('c'),
            Self::TrapsOnMark => STAMPS_BUT_TRAPS_ON_MARK.to_owned(),
            Self::AlwaysTraps | Self::Torn => "unreachable".to_owned(),
        }
    }

    fn stamp(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::C => "c",
            Self::TrapsOnMark => "x",
            Self::AlwaysTraps | Self::Torn => "never",
        }
    }

    fn version(self) -> String {
        version(&self.transform())
    }
}

impl Model {
    fn new() -> Self {
        Self {
            file: Content::A,
            running: Content::A,
            accepted: vec![Content::A],
            aside: Vec::new(),
            before: None,
            broken: false,
            unkept: None,
            marked: false,
            dead: 0,
        }
    }

    fn take(&mut self, ordered: bool) -> Outcome {
        let new = self.file;
        if new == self.running {
            return Outcome::Unchanged;
        }
        if self.unkept.is_some() && !self.keep() {
            return Outcome::Refused;
        }
        let fails_on_mark = new == Content::TrapsOnMark && self.marked;
        match new {
            Content::AlwaysTraps | Content::Torn => Outcome::Refused,
            _ if !ordered && self.aside.contains(&new) => Outcome::Refused,
            _ if fails_on_mark || self.broken => Outcome::Refused,
            _ => {
                // What has stood its probation, or never had one.
                let proven = self.before.unwrap_or(self.running);
                self.before = (proven != new).then_some(proven);
                self.accept(new);
                self.running = new;
                Outcome::Taken
            }
        }
    }

    fn roll_back(&mut self) -> bool {
        if self.unkept.is_some() && !self.keep() {
            return false;
        }
        let old = self.running;
        let known = self.accepted.iter().rev();
        let Some(to) = known.copied().find(|known| *known != old && !self.aside.contains(known)) else {
            return false;
        };
        if self.broken {
            return false;
        }
        self.before = None;
        self.go_back(old, to);
        self.running = to;
        true
    }

    /// Whether everything is written that is to be known after a restart.
    fn keep(&mut self) -> bool {
        if !self.broken
            && let Some((from, to)) = self.unkept.take()
        {
            self.go_back(from, to);
        }
        !self.broken
    }

    /// Whether the marked message is delivered.
    fn mark(&mut self) -> bool {
        self.marked = true;
        if self.running != Content::TrapsOnMark {
            return true;
        }
        match self.before.take() {
            Some(before) => {
                let failed = std::mem::replace(&mut self.running, before);
                self.unkept = Some((failed, before));
                self.keep();
                true
            }
            None => {
                self.dead += 1;
                false
            }
        }
    }

    fn restart(&mut self) -> Outcome {
        self.unkept = None;
        self.running = *self.accepted.last().unwrap();
        // A restart ends probation.
        self.before = None;
        self.take(false)
    }

    fn go_back(&mut self, from: Content, to: Content) {
        self.aside.retain(|known| *known != from);
        self.aside.push(from);
        self.accept(to);
    }

    fn accept(&mut self, new: Content) {
        self.aside.retain(|known| *known != new);
        self.accepted.retain(|known| *known != new);
        self.accepted.push(new);
    }
}

fn write(site: &Site, content: Content) {
    match content {
        Content::Torn => site.write_bytes(b"\0asm\x01\0\0\0\x01"),
        content => site.write(&content.transform()),
    }
}

fn outcome(answer: Result<Reloaded, Refusal>) -> Outcome {
    match answer {
        Ok(reloaded) if reloaded.replaced => Outcome::Taken,
        Ok(_) => Outcome::Unchanged,
        Err(_) => Outcome::Refused,
    }
}

/// Sends the message that one of the versions traps on.
async fn mark(site: &Site, running: &Running, model: &mut Model, number: usize) {
    let dead = running.counters().dead_lettered;
    if model.mark() {
        running.deliver(&format!("!{number}")).await;
        assert_eq!(site.far.accepted().last().unwrap(), &format!("{}{number}", model.running.stamp()));
    } else {
        running.append([format!("!{number}")]).await;
        running.until(|b| b.dead_lettered == dead + 1).await;
    }
}

async fn play(actions: &[Action]) {
    let site = Site::new(&stamps('a'));
    let mut model = Model::new();
    let mut running = site.start();
    running.deliver("-0").await;
    for (number, action) in (1..).zip(actions) {
        match action {
            Action::Write(content) => {
                write(&site, *content);
                model.file = *content;
            }
            Action::Look => {
                running.reloads.look().await;
                model.take(false);
            }
            Action::Reload => {
                let found = outcome(running.reloads.reload().await);
                assert_eq!(found, model.take(true), "{number}: {action:?}");
            }
            Action::RollBack => {
                assert_eq!(running.reloads.roll_back(None).await.is_ok(), model.roll_back(), "{number}");
            }
            Action::Restart | Action::Kill => {
                if matches!(action, Action::Kill) {
                    running.kill().await;
                } else {
                    stop(running).await;
                }
                running = site.start();
                match model.restart() {
                    Outcome::Unchanged => until(|| running.status.script().is_some()).await,
                    Outcome::Taken => {
                        let wanted = model.running.version();
                        until(|| running.status.script().is_some_and(|(_, version)| version == wanted)).await;
                    }
                    Outcome::Refused => until(|| running.status.refused().is_some()).await,
                }
            }
            Action::Break => {
                model.broken = !model.broken;
                site.break_record(model.broken);
            }
            Action::Mark => mark(&site, &running, &mut model, number).await,
            Action::MarkDuringReload => {
                let reloads = running.reloads.clone();
                let order = async { outcome(reloads.reload().await) };
                let found =
                    running.order_while(&site, order, mark(&site, &running, &mut model, number)).await;
                assert_eq!(found, model.take(true), "{number}: {action:?}");
            }
        }
        running.deliver(&format!("-{number}")).await;
        assert_eq!(
            site.far.accepted().last().unwrap(),
            &format!("{}{number}", model.running.stamp()),
            "{action:?}"
        );
        // The lanes go back by themselves, and the reloader says so.
        let wanted = model.running.version();
        until(|| running.version() == wanted).await;
        let kept: Vec<String> = site.kept().iter().map(|version| version[..12].to_owned()).collect();
        let accepted: Vec<String> = model.accepted.iter().map(|content| content.version()).collect();
        assert_eq!(kept, accepted, "{number}: {action:?}");
    }
    assert_eq!(running.counters().dead_lettered, model.dead);
    stop(running).await;
}

#[test]
fn what_runs_is_what_the_model_says() {
    /// Compiled once for all cases.
    static LOADED: OnceLock<Vec<Script>> = OnceLock::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let contents = [Content::A, Content::B, Content::C, Content::TrapsOnMark];
    LOADED.get_or_init(|| {
        let load = |content: &Content| {
            let wasm = Bytes::from(scripts::transform(&content.transform()));
            runtime.block_on(Script::load(scripts::engine(), Recipe::new("mine", wasm))).unwrap()
        };
        contents.iter().map(load).collect()
    });
    let content = prop::sample::select(vec![
        Content::A,
        Content::B,
        Content::C,
        Content::TrapsOnMark,
        Content::AlwaysTraps,
        Content::Torn,
    ]);
    let action = prop_oneof![
        5 => content.prop_map(Action::Write),
        4 => Just(Action::Reload),
        2 => Just(Action::Look),
        2 => Just(Action::RollBack),
        1 => Just(Action::Restart),
        1 => Just(Action::Kill),
        1 => Just(Action::Break),
        1 => Just(Action::Mark),
        1 => Just(Action::MarkDuringReload),
    ];
    let cases = Config { cases: 32, failure_persistence: None, ..Config::default() };
    TestRunner::new(cases)
        .run(&prop::collection::vec(action, 1..16), |actions| {
            runtime.block_on(play(&actions));
            Ok(())
        })
        .unwrap();
}
