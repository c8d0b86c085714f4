//! `sluicegate demo`: the real gateway as a child process on real sockets,
//! with a simulated fleet in front and five strict fake receivers behind. Every
//! received message is compared, field by field, with the published one; the
//! exit status reports the result.

pub mod fleet;
pub mod ledger;

mod gateway;
mod publisher;
mod row;
mod screen;
mod site;
mod story;
mod summary;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use admin_api::answer::StreamLine;
use bytes::Bytes;
use fleet::{Fleet, FleetMessage};
use gateway::{Gateway, Presence};
use ledger::{Ledger, Receiver};
use message::unix_millis;
use publisher::Publisher;
use row::Row;
use screen::{Screen, View};
use site::{Error, REFUSED_TEXT, Site, stream_name};
use story::{SHORTEST, Step, Story, Tone};
use summary::Verdict;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// Vehicles of the fleet.
const VEHICLES: usize = 25;
/// Seconds that a tracker records before it sends, all in one publish: that
/// saves traffic.
const PACK_SECONDS: f64 = 8.0;
/// The field that makes the HTTP receiver refuse a message.
const POISONED: &str = "driver.message";
/// How often the loop looks for work.
const TICK: Duration = Duration::from_millis(100);
/// How often the figures are fetched and shown.
const SHOW: Duration = Duration::from_millis(300);
/// How long after the fleet has parked everything must have arrived.
const SETTLE: Duration = Duration::from_secs(60);
/// A message that the gateway calls settled and its receiver has not got for
/// this long is shown as missing.
const OVERDUE: Duration = Duration::from_secs(5);

/// Watch a simulated fleet flow through the gateway
///
/// Runs the gateway as a child process between a broker with 25 simulated
/// vehicles and five strict fake receivers: AWS IoT shadows, ThingsBoard, Wialon
/// Retranslator, HTTP and MQTT. The demo kills the gateway with kill -9, takes a
/// receiver offline, publishes messages that cannot be delivered, and edits a
/// script while it runs. Every received message is compared, field by field,
/// with the published one. No data leaves this machine.
///
/// Exit status: 0 if every message arrived correctly, 1 if a message is
/// missing, wrong or unexpected, or if an announced event did not happen.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  sluicegate demo
  sluicegate demo --for 60s --seed 7 --rate 2")]
pub struct DemoArgs {
    /// Stop after this time, for example 60s or 5m; minimum 10s, all events
    /// from 30s [default: run until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    length: Option<Duration>,
    /// Seed of the routes; the same number gives the same routes
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Messages per second and vehicle, 0.1 to 20
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = parse_rate)]
    rate: f64,
}

/// Runs the command.
pub async fn run(args: DemoArgs) -> ExitCode {
    match verdict(&args).await {
        Ok(verdict) => {
            print!("{verdict}");
            if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn verdict(args: &DemoArgs) -> Result<Verdict, Error> {
    let mut signals = Signals::new()?;
    let site = Site::set_up().await?;
    eprintln!("Starting the gateway; its log is {}", site.log.display());
    perform(args, &site, &mut signals).await.map_err(|error| {
        let (log, tail) = (site.log.display(), gateway::log_tail(&site.log));
        format!("{error}\nThe end of the gateway's log, {log}:\n{tail}").into()
    })
}

async fn perform(args: &DemoArgs, site: &Site, signals: &mut Signals) -> Result<Verdict, Error> {
    let mut gateway = tokio::select! {
        started = Gateway::start(site) => started?,
        () = signals.next() => return Err("interrupted while the gateway was starting".into()),
    };
    let publisher = Publisher::connect(site.broker).await?;
    let mut screen = Screen::open()?;
    let mut demo = Demo::new(args, site, publisher);
    let played = demo.play(&mut gateway, &mut screen, signals).await;
    // The terminal is given back before anything is printed, an error too.
    screen.close(&demo.view())?;
    played?;
    let Demo { mut ledger, publisher, published, streams, expected_dead, unshown, .. } = demo;
    publisher.finish().await?;
    let exit = gateway.stop().await;
    // What the gateway sent while it stopped counts as well.
    collect(site, &mut ledger);
    Ok(Verdict::new(published, &ledger, &streams, &expected_dead, unshown, exit, site))
}

/// Enters what the receivers got.
fn collect(site: &Site, ledger: &mut Ledger) {
    for receiver in Receiver::ALL {
        for received in site.inboxes[receiver as usize].drain() {
            ledger.receive(receiver, received);
        }
    }
}

/// The demo while it runs.
struct Demo<'a> {
    site: &'a Site,
    total: Option<Duration>,
    /// Between two messages of a vehicle.
    pace: Duration,
    /// Messages of a full pack.
    pack: usize,
    fleet: Fleet,
    trackers: Vec<Tracker>,
    publisher: Publisher,
    ledger: Ledger,
    story: Story,
    started: Instant,
    started_unix: u64,
    /// Elements of all publishes.
    published: u64,
    streams: Vec<StreamLine>,
    rows: Vec<Row>,
    expected_dead: [u64; 5],
    kill: Option<Kill>,
    edit: Option<Edit>,
    /// Announced events that did not happen.
    unshown: Vec<String>,
    notice: Option<String>,
}

/// A kill of the gateway from which it has not recovered yet.
struct Kill {
    /// Messages published, and repeats of all receivers, when it was killed.
    published: u64,
    repeats: u64,
    /// When it was ready again.
    back: Option<Instant>,
}

/// A saved script that was neither loaded nor rejected yet.
struct Edit {
    at: Instant,
    /// What ran when it was saved.
    script: String,
    /// The gateway must reject it.
    broken: bool,
}

/// What a vehicle has recorded and not yet sent.
struct Tracker {
    next: Duration,
    pack: Vec<FleetMessage>,
    /// Size at which the pack is sent.
    full: usize,
}

impl<'a> Demo<'a> {
    fn new(args: &DemoArgs, site: &'a Site, publisher: Publisher) -> Self {
        let pace = Duration::from_secs_f64(1.0 / args.rate);
        let pack = (PACK_SECONDS * args.rate).ceil() as usize;
        // Vehicles are out of step, and so are their first packs.
        let tracker = |number: usize| Tracker {
            next: pace.mul_f64(number as f64 / VEHICLES as f64),
            pack: Vec::new(),
            full: number * pack / VEHICLES + 1,
        };
        Self {
            site,
            total: args.length,
            pace,
            pack,
            fleet: Fleet::new(args.seed, VEHICLES),
            trackers: (0..VEHICLES).map(tracker).collect(),
            publisher,
            ledger: Ledger::default(),
            story: Story::new(args.length),
            started: Instant::now(),
            started_unix: unix_millis(),
            published: 0,
            streams: Vec::new(),
            rows: Vec::new(),
            expected_dead: [0; 5],
            kill: None,
            edit: None,
            unshown: Vec::new(),
            notice: None,
        }
    }

    fn view(&self) -> View<'_> {
        View {
            elapsed: self.started.elapsed(),
            total: self.total,
            vehicles: self.fleet.size(),
            published: self.published,
            rows: &self.rows,
            notice: self.notice.as_deref(),
            story: self.story.told(),
        }
    }

    async fn play(
        &mut self,
        gateway: &mut Gateway,
        screen: &mut Screen,
        signals: &mut Signals,
    ) -> Result<(), Error> {
        let opening = format!("{VEHICLES} vehicles send data; five scripts map it for five destinations.");
        self.story.tell(Duration::ZERO, Tone::Plain, opening);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = None;
        loop {
            let interrupted = tokio::select! {
                _ = tick.tick() => false,
                () = signals.next() => true,
            };
            let elapsed = self.started.elapsed();
            if interrupted {
                break;
            }
            // On a slow machine what has begun is still shown to its end.
            let latest = if self.is_between_acts() { Duration::ZERO } else { SETTLE };
            if self.total.is_some_and(|total| elapsed >= total + latest) {
                self.unshown.extend(self.story.open().map(|act| format!("not finished: {act}")));
                break;
            }
            self.drive(elapsed).await?;
            while let Some(step) = self.story.due(elapsed, self.kill.is_none() && self.edit.is_none()) {
                self.perform(step, gateway).await?;
            }
            collect(self.site, &mut self.ledger);
            if shown.is_none_or(|at: Duration| elapsed >= at + SHOW) {
                shown = Some(elapsed);
                self.look(gateway).await?;
                screen.show(&self.view())?;
            }
        }
        tokio::select! {
            settled = self.settle(gateway, screen) => settled,
            () = signals.next() => Err("interrupted a second time while messages were in flight".into()),
        }
    }

    /// Lets the vehicles record what is due and send what is full.
    async fn drive(&mut self, elapsed: Duration) -> Result<(), Error> {
        for vehicle in 0..VEHICLES {
            while self.trackers[vehicle].next <= elapsed {
                let tracker = &mut self.trackers[vehicle];
                let time = self.started_unix + u64::try_from(tracker.next.as_millis()).unwrap_or(u64::MAX);
                let message = self.fleet.step(vehicle, self.pace.as_secs_f64(), time);
                tracker.pack.push(message);
                tracker.next += self.pace;
                if tracker.pack.len() >= tracker.full {
                    tracker.full = self.pack;
                    self.send(vehicle).await?;
                }
            }
        }
        Ok(())
    }

    /// Publishes what a vehicle has recorded: one object, or a list.
    async fn send(&mut self, vehicle: usize) -> Result<(), Error> {
        let pack = std::mem::take(&mut self.trackers[vehicle].pack);
        let Some(first) = pack.first() else { return Ok(()) };
        let topic = first.topic.clone();
        let payload = match &pack[..] {
            [one] => one.payload(),
            many => Bytes::from(serde_json::to_vec(&many.iter().map(|m| &m.fields).collect::<Vec<_>>())?),
        };
        self.published += pack.len() as u64;
        for message in pack {
            let refused_by = message.fields.contains_key(POISONED).then_some(Receiver::Http);
            self.ledger.publish(message, refused_by, Instant::now());
        }
        self.publisher.publish(&topic, payload).await
    }

    /// What a vehicle measures now, after so many seconds.
    fn record(&mut self, vehicle: usize, seconds: f64) -> FleetMessage {
        self.fleet.step(vehicle, seconds, unix_millis())
    }

    async fn perform(&mut self, step: Step, gateway: &mut Gateway) -> Result<(), Error> {
        match step {
            Step::Kill => {
                gateway.kill().await?;
                self.ledger.killed();
                self.kill = Some(Kill { published: self.published, repeats: self.repeats(), back: None });
            }
            Step::Start => gateway.launch(self.site)?,
            Step::UnplugWialon => self.site.wialon.plug().unplug().await?,
            Step::PlugWialon => self.site.wialon.plug().plug().await?,
            Step::PublishGarbage => {
                let topic = "flespi/message/gw/devices/5250001";
                let garbage = Bytes::from_static(br#"{"ident":"352093081723115","position.latitude":54.68"#);
                self.published += 1;
                self.expected_dead.iter_mut().for_each(|dead| *dead += 1);
                self.publisher.publish(topic, garbage).await?;
            }
            Step::PublishRefused => {
                // Between others, in one list: these must get through.
                let mut poison = self.record(0, 0.0);
                poison.fields.insert(POISONED.to_owned(), REFUSED_TEXT.into());
                let after = self.record(0, 0.0);
                self.trackers[0].pack.extend([poison, after]);
                self.expected_dead[Receiver::Http as usize] += 1;
                self.send(0).await?;
            }
            Step::EditScript => {
                self.site.edit_script()?;
                self.edit = Some(self.edit_of_mqtt(false));
            }
            Step::BreakScript => {
                self.site.break_script()?;
                self.edit = Some(self.edit_of_mqtt(true));
            }
        }
        let queued = self.streams.iter().map(|line| line.queued).sum();
        self.story.explain(self.started.elapsed(), step, queued);
        Ok(())
    }

    fn edit_of_mqtt(&self, broken: bool) -> Edit {
        let script = self.rows.get(Receiver::Mqtt as usize).map(|row| row.script.clone());
        Edit { at: Instant::now(), script: script.unwrap_or_default(), broken }
    }

    /// Receptions of all receivers that were not the first.
    fn repeats(&self) -> u64 {
        Receiver::ALL.iter().map(|receiver| self.ledger.book(*receiver).repeats).sum()
    }

    /// Fetches the gateway's figures and puts the receivers' beside them.
    async fn look(&mut self, gateway: &mut Gateway) -> Result<(), Error> {
        let elapsed = self.started.elapsed();
        collect(self.site, &mut self.ledger);
        let state = match gateway.presence().await? {
            Presence::Killed => Some("killed"),
            Presence::Starting => Some("starting"),
            Presence::Back(after) => {
                if let Some(kill) = &mut self.kill {
                    kill.back = Some(Instant::now());
                    self.story.back(elapsed, after, self.published - kill.published);
                }
                None
            }
            Presence::Up => None,
        };
        if let Some(state) = state {
            // The figures are those from before the kill: there are no newer ones.
            for row in &mut self.rows {
                (row.state, row.reason) = (state.to_owned(), None);
            }
            let waiting = self.kill.as_ref().map_or(0, |kill| self.published - kill.published);
            self.notice = Some(format!("The gateway is {state}; {waiting} new messages wait in the broker."));
            return Ok(());
        }
        self.notice = None;
        self.observe_kill(elapsed);
        let lines = gateway.streams().await?;
        self.streams.clear();
        self.rows.clear();
        for receiver in Receiver::ALL {
            let name = stream_name(receiver);
            let line = lines.iter().find(|line| line.name == name);
            let line = line.ok_or_else(|| format!("/streams does not list {name}"))?;
            let mut row = gateway::row(line);
            let book = self.ledger.book(receiver);
            // What waits in the broker or in the gateway is late, not missing.
            let waiting = row.queued + self.published.saturating_sub(row.read);
            let overdue = self.ledger.missing(receiver, Instant::now(), OVERDUE);
            row.missing = overdue.saturating_sub(waiting);
            row.wrong = book.wrong + book.unexpected;
            row.repeats = book.repeats;
            self.rows.push(row);
            self.streams.push(line.clone());
        }
        self.story.observe(elapsed, &self.rows, Receiver::Wialon as usize);
        self.observe_edit(elapsed);
        Ok(())
    }

    /// Tells the result of a saved script.
    fn observe_edit(&mut self, elapsed: Duration) {
        let (Some(edit), Some(row)) = (&self.edit, self.rows.get(Receiver::Mqtt as usize)) else { return };
        match &row.refused {
            Some(reason) if edit.broken => self.story.refused(elapsed, &row.script, reason),
            None if !edit.broken && row.script != edit.script => {
                let name = stream_name(Receiver::Mqtt);
                let (compared, differing) = gateway::comparison(&self.site.log, name).unwrap_or_default();
                self.story.swapped(elapsed, edit.at.elapsed(), &row.script, compared, differing);
            }
            _ => return,
        }
        self.edit = None;
    }

    /// Says when everything has arrived that was published before the gateway
    /// was back.
    fn observe_kill(&mut self, elapsed: Duration) {
        let Some(Kill { back: Some(back), repeats, .. }) = self.kill else { return };
        let now = Instant::now();
        let since = now.duration_since(back);
        if Receiver::ALL.iter().all(|receiver| self.ledger.missing(*receiver, now, since) == 0) {
            self.story.whole(elapsed, self.repeats() - repeats);
            self.kill = None;
        }
    }

    /// After the fleet has parked: everything has to arrive.
    async fn settle(&mut self, gateway: &mut Gateway, screen: &mut Screen) -> Result<(), Error> {
        self.site.wialon.plug().plug().await?;
        if gateway.presence().await? == Presence::Killed {
            gateway.launch(self.site)?;
        }
        for vehicle in 0..VEHICLES {
            self.send(vehicle).await?;
        }
        self.story.end(self.started.elapsed());
        let line = "The fleet has stopped. Waiting for the last messages to arrive.";
        self.story.tell(self.started.elapsed(), Tone::Plain, line);
        let deadline = Instant::now() + SETTLE;
        let mut tick = interval(TICK);
        loop {
            tick.tick().await;
            self.look(gateway).await?;
            screen.show(&self.view())?;
            if self.is_settled() || Instant::now() > deadline {
                break;
            }
        }
        if let Some(edit) = &self.edit {
            let wanted = if edit.broken { "rejected" } else { "loaded" };
            let seconds = edit.at.elapsed().as_secs();
            self.unshown.push(format!("the script saved {seconds} s ago was not {wanted}"));
        }
        if self.kill.is_some() {
            self.unshown.push("messages published around the kill did not arrive".to_owned());
        }
        for (row, receiver) in self.rows.iter_mut().zip(Receiver::ALL) {
            row.missing = self.ledger.missing(receiver, Instant::now(), Duration::ZERO);
        }
        Ok(())
    }

    fn is_between_acts(&self) -> bool {
        self.story.open().is_none() && self.kill.is_none() && self.edit.is_none()
    }

    fn is_settled(&self) -> bool {
        let arrived =
            |receiver: &Receiver| self.ledger.missing(*receiver, Instant::now(), Duration::ZERO) == 0;
        let dead =
            |(line, expected): (&StreamLine, &u64)| line.queued == 0 && line.dead_lettered >= *expected;
        self.kill.is_none()
            && self.edit.is_none()
            && Receiver::ALL.iter().all(arrived)
            && self.streams.iter().zip(&self.expected_dead).all(dead)
    }
}

/// Ctrl-C and SIGTERM: the first parks the fleet, the second ends at once.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A number with `s` or `m`, at least what the story needs.
fn parse_time(text: &str) -> Result<Duration, String> {
    let wanted = || format!("\"{text}\" is not a duration, expected for example \"60s\" or \"5m\"");
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().map_err(|_| wanted())?;
    let seconds = match unit {
        "s" => number,
        "m" => number.checked_mul(60).ok_or_else(wanted)?,
        _ => return Err(wanted()),
    };
    let time = Duration::from_secs(seconds);
    if time < SHORTEST {
        return Err(format!(
            "{text} is too short to show anything, expected at least {} s",
            SHORTEST.as_secs()
        ));
    }
    Ok(time)
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=20.0).contains(&rate) => Ok(rate),
        _ => Err(format!("\"{text}\" is not a number from 0.1 to 20")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_needs_unit_and_minimum_length() {
        assert_eq!(parse_time("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_time("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["60", "s", "", "1h", "-5s", "9s", "99999999999999999999s", "999999999999999999m"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rate_has_limits() {
        assert_eq!(parse_rate("2.5"), Ok(2.5));
        for wrong in ["0", "21", "NaN", "x", "-1"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
