//! Faults of a link, and the counting of all faults.

use std::fmt;
use std::time::Duration;

use sluicegate_tests::proxy::{Flow, Link, Proxy};
use tokio::time::sleep;

use crate::dice::Dice;

/// Nothing of this is a correct word of MQTT, TLS, HTTP or Wialon, least of
/// all one that takes a message over.
const GARBAGE: &[u8] = &[0xff; 24];

/// What was done to one site.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// `kill -9` of the gateway.
    pub kills: u64,
    /// SIGTERM of the gateway.
    pub stops: u64,
    /// `kill -9` of mosquitto.
    pub broker_kills: u64,
    /// SIGSTOP of the gateway or of mosquitto for a while.
    pub freezes: u64,
    /// Links cut, reset, or closed after some bytes or garbage.
    pub cuts: u64,
    /// Links that held, swallowed, slowed down, delayed or refused.
    pub holes: u64,
    /// The destination unplugged.
    pub outages: u64,
    /// The destination refusing everything for a while.
    pub refusals: u64,
}

impl Counts {
    pub fn heading() -> &'static str {
        "kills stops broker kills freezes cuts holes outages refusals"
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            kills: self.kills + other.kills,
            stops: self.stops + other.stops,
            broker_kills: self.broker_kills + other.broker_kills,
            freezes: self.freezes + other.freezes,
            cuts: self.cuts + other.cuts,
            holes: self.holes + other.holes,
            outages: self.outages + other.outages,
            refusals: self.refusals + other.refusals,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, stops, broker_kills, freezes, cuts, holes, outages, refusals } = self;
        write!(
            f,
            "{kills:>5} {stops:>5} {broker_kills:>12} {freezes:>7} {cuts:>4} {holes:>5} {outages:>7} {refusals:>8}"
        )
    }
}

/// A fault of a link.
#[derive(Debug)]
enum LinkFault {
    Cut,
    Reset,
    Garbage,
    For(Duration, Link),
}

/// One fault of a link from beginning to end.
pub async fn strike(
    proxy: &Proxy,
    which: &str,
    dice: &mut Dice,
    run: Duration,
    counts: &mut Counts,
) -> String {
    let fault = roll(dice, run);
    let text = format!("{which}: {fault:?}");
    match fault {
        LinkFault::Cut => proxy.cut(),
        LinkFault::Reset => proxy.reset(),
        LinkFault::Garbage => proxy.garble(GARBAGE),
        LinkFault::For(time, link) => {
            proxy.set(link).await;
            sleep(time).await;
            proxy.heal().await;
        }
    }
    match fault {
        LinkFault::For(
            _,
            Link { to_target: Flow::CutAfter(_), .. } | Link { to_client: Flow::CutAfter(_), .. },
        ) => {
            counts.cuts += 1;
        }
        LinkFault::For(..) => counts.holes += 1,
        LinkFault::Cut | LinkFault::Reset | LinkFault::Garbage => counts.cuts += 1,
    }
    text
}

fn roll(dice: &mut Dice, run: Duration) -> LinkFault {
    match dice.number(0..10) {
        0 => return LinkFault::Cut,
        1 | 2 => return LinkFault::Reset,
        3 => return LinkFault::Garbage,
        _ => {}
    }
    let time = dice.spell(run);
    let flow = match dice.number(0..6) {
        0 | 1 => Flow::Held,
        2 => Flow::Swallowed,
        3 => Flow::Slow(u32::try_from(dice.number(200..5_000)).unwrap()),
        4 => Flow::Late(dice.millis(100..3_000)),
        _ => Flow::CutAfter(dice.number(20..5_000)),
    };
    let link = match dice.number(0..4) {
        0 => Link { to_target: flow, ..Link::default() },
        1 => Link { to_client: flow, ..Link::default() },
        2 => Link { to_target: flow, to_client: flow, ..Link::default() },
        _ => Link { refuses: true, to_client: flow, ..Link::default() },
    };
    LinkFault::For(time, link)
}
