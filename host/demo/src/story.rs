//! The story that the demo tells: what happens when, and what can be seen of
//! it. Without I/O: [`Story::due`] says what to do, [`Story::observe`] looks
//! at the figures.

use std::collections::VecDeque;
use std::time::Duration;

use super::row::Row;

/// How long the gateway is away before it is started again.
const DEAD: Duration = Duration::from_secs(3);
/// How long the Wialon receiver is unplugged.
const OUTAGE: Duration = Duration::from_secs(10);
/// The length that the times below are written for.
const SCRIPT_LENGTH: Duration = Duration::from_secs(60);
/// The shortest demo: the first act fits in it.
pub const SHORTEST: Duration = Duration::from_secs(10);

/// One thing to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Kill the gateway.
    Kill,
    /// Start it again.
    Start,
    /// Pull the plug of the Wialon receiver.
    UnplugWialon,
    /// Put it back.
    PlugWialon,
    /// Publish something that is no message at all.
    PublishGarbage,
    /// Publish a message that the HTTP receiver answers with 400.
    PublishRefused,
    /// Save another version of the adapter that maps for MQTT.
    EditScript,
    /// Save half of its WebAssembly in its place.
    BreakScript,
}

/// Two steps that belong together.
#[derive(Clone, Copy, Debug)]
struct Act {
    title: &'static str,
    /// When it begins in a demo of [`SCRIPT_LENGTH`], seconds.
    begin: u64,
    steps: [Step; 2],
    /// Between the two; none: as the pace of the demo is.
    apart: Option<Duration>,
    /// Seconds that what it shows takes after its end.
    room: u64,
}

const ACTS: [Act; 4] = [
    Act {
        title: "KILL -9: the gateway process is killed",
        begin: 5,
        steps: [Step::Kill, Step::Start],
        apart: Some(DEAD),
        room: 6,
    },
    Act {
        title: "OUTAGE: one destination goes offline",
        begin: 18,
        steps: [Step::UnplugWialon, Step::PlugWialon],
        apart: Some(OUTAGE),
        room: 4,
    },
    Act {
        title: "POISON: two messages that cannot be delivered",
        begin: 38,
        steps: [Step::PublishGarbage, Step::PublishRefused],
        apart: None,
        room: 2,
    },
    Act {
        title: "HOT RELOAD: a running script is edited, then broken",
        begin: 48,
        steps: [Step::EditScript, Step::BreakScript],
        apart: None,
        room: 3,
    },
];

/// How a line of the story is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// An act begins.
    Title,
    /// What is done.
    Plain,
    /// What came of it.
    Good,
    /// A loss or a fault that was meant to be.
    Bad,
}

/// A line of the story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Since the fleet started.
    pub at: Duration,
    /// How it is meant.
    pub tone: Tone,
    /// What is told.
    pub text: String,
}

/// Where the story stands.
pub struct Story {
    total: Option<Duration>,
    /// Acts to come, with their times.
    acts: VecDeque<(Duration, Act)>,
    /// The second step of the act that is played, and what the act is called.
    second: Option<(Duration, Step, &'static str)>,
    told: Vec<Told>,
    /// When Wialon was plugged in again, and the most that waited for it since.
    recovering: Option<(Duration, u64)>,
    dead: Vec<u64>,
    /// The garbage has become a dead letter everywhere.
    garbage_told: bool,
}

impl Story {
    /// The story for a demo of that length (none: endless, told at the usual
    /// pace). A shorter demo has shorter pauses, but starts and recoveries take
    /// as long as ever: acts that do not fit are skipped, and a line says so.
    pub fn new(total: Option<Duration>) -> Self {
        let mut story = Self {
            total,
            acts: VecDeque::new(),
            second: None,
            told: Vec::new(),
            recovering: None,
            dead: Vec::new(),
            garbage_told: false,
        };
        let mut free = Duration::ZERO;
        for act in ACTS {
            let begin = story.scaled(act.begin).max(free);
            if story.fits(&act, begin) {
                free = begin + story.apart(&act) + Duration::from_secs(1);
                story.acts.push_back((begin, act));
            } else {
                story.leave_out(Duration::ZERO, &act);
            }
        }
        story
    }

    /// What has to be done now. Nothing but the start of the gateway is done
    /// before `whole`: it runs, has delivered the backlog of a kill, and has
    /// taken the script that was saved.
    pub fn due(&mut self, elapsed: Duration, whole: bool) -> Option<Step> {
        if let Some((at, step, _)) = self.second {
            return (at <= elapsed && (whole || step == Step::Start)).then(|| {
                self.second = None;
                step
            });
        }
        let (begin, _) = self.acts.front()?;
        if *begin > elapsed || !whole {
            return None;
        }
        let (_, act) = self.acts.pop_front()?;
        if !self.fits(&act, elapsed) {
            self.leave_out(elapsed, &act);
            return None;
        }
        self.second = Some((elapsed + self.apart(&act), act.steps[1], act.title));
        self.tell(elapsed, Tone::Title, act.title);
        Some(act.steps[0])
    }

    /// The act that has begun and has not been played to its end.
    pub fn open(&self) -> Option<&'static str> {
        self.second.map(|(_, _, title)| title)
    }

    /// The fleet parks: acts that have not begun are left out.
    pub fn end(&mut self, elapsed: Duration) {
        while let Some((_, act)) = self.acts.pop_front() {
            self.leave_out(elapsed, &act);
        }
    }

    fn scaled(&self, seconds: u64) -> Duration {
        let whole = SCRIPT_LENGTH.as_secs_f64();
        let scale = self.total.map_or(1.0, |total| (total.as_secs_f64() / whole).min(1.0));
        Duration::from_secs(seconds).mul_f64(scale)
    }

    fn apart(&self, act: &Act) -> Duration {
        act.apart.unwrap_or_else(|| self.scaled(4))
    }

    fn fits(&self, act: &Act, begin: Duration) -> bool {
        self.total.is_none_or(|total| begin + self.apart(act) + Duration::from_secs(act.room) <= total)
    }

    fn leave_out(&mut self, elapsed: Duration, act: &Act) {
        self.tell(elapsed, Tone::Bad, format!("Skipped for lack of time: {}.", act.title));
    }

    /// Adds a line.
    pub fn tell(&mut self, at: Duration, tone: Tone, text: impl Into<String>) {
        self.told.push(Told { at, tone, text: text.into() });
    }

    /// The lines told so far.
    pub fn told(&self) -> &[Told] {
        &self.told
    }

    /// Explains a step that has just been carried out, with so many messages
    /// queued in the gateway.
    pub fn explain(&mut self, elapsed: Duration, step: Step, queued: u64) {
        let (tone, line) = match step {
            Step::Kill => {
                let busy = match queued {
                    0 => "with an empty queue".to_owned(),
                    _ => format!("with {queued} messages in flight"),
                };
                let line = format!("Killed {busy}. The fleet keeps sending; the broker stores its messages.");
                return self.tell(elapsed, Tone::Bad, line);
            }
            Step::Start => (Tone::Plain, "Restarted with the same command in the same folder."),
            Step::UnplugWialon => (
                Tone::Bad,
                "The Wialon receiver is offline for 10 s. Its messages queue; the other streams continue.",
            ),
            Step::PlugWialon => {
                (Tone::Plain, "The receiver is back online. The gateway reconnects at its next attempt.")
            }
            Step::PublishGarbage => {
                (Tone::Bad, "Published half a JSON object: no script can parse it, and none may crash on it.")
            }
            Step::PublishRefused => {
                (Tone::Bad, "Published a list with one message that the HTTP receiver rejects.")
            }
            Step::EditScript => (
                Tone::Plain,
                "Saved mapper/adapter.toml with the topic fleet/v2/{ident}. No command is needed.",
            ),
            Step::BreakScript => {
                (Tone::Bad, "Replaced the mapper's WebAssembly by its first half, like an interrupted copy.")
            }
        };
        self.tell(elapsed, tone, line);
        if step == Step::PlugWialon {
            self.recovering = Some((elapsed, 0));
        }
    }

    /// The gateway takes messages again, so long after its start; `meanwhile`
    /// were published since it was killed.
    pub fn back(&mut self, elapsed: Duration, after: Duration, meanwhile: u64) {
        let line = format!(
            "The gateway is ready {} ms after its restart; {meanwhile} messages were published meanwhile.",
            after.as_millis()
        );
        self.tell(elapsed, Tone::Plain, line);
    }

    /// Everything that was published before the gateway was back has arrived.
    pub fn whole(&mut self, elapsed: Duration, repeats: u64) {
        let duplicates = match repeats {
            0 => "no duplicates".to_owned(),
            1 => "1 duplicate".to_owned(),
            _ => format!("{repeats} duplicates"),
        };
        self.tell(elapsed, Tone::Good, format!("All messages arrived at all five receivers ({duplicates})."));
    }

    /// The saved script runs, so long after it was saved; `differing` of the
    /// `compared` last messages have another output.
    pub fn swapped(
        &mut self,
        elapsed: Duration,
        after: Duration,
        script: &str,
        compared: u64,
        differing: u64,
    ) {
        let line = format!(
            "{script} took over {:.1} s after the save. Output differs for {differing} of the last \
             {compared} messages.",
            after.as_secs_f64()
        );
        self.tell(elapsed, Tone::Good, line);
    }

    /// The broken one was refused for this reason.
    pub fn refused(&mut self, elapsed: Duration, script: &str, reason: &str) {
        self.tell(elapsed, Tone::Good, format!("Rejected; {script} keeps running. Reason: \"{reason}\""));
    }

    /// Looks at the figures for what is worth telling. `wialon` is the row of
    /// the Wialon stream.
    pub fn observe(&mut self, elapsed: Duration, rows: &[Row], wialon: usize) {
        self.observe_recovery(elapsed, rows.get(wialon));
        self.observe_dead_letters(elapsed, rows);
    }

    fn observe_recovery(&mut self, elapsed: Duration, wialon: Option<&Row>) {
        let (Some((since, most)), Some(row)) = (&mut self.recovering, wialon) else { return };
        *most = (*most).max(row.queued);
        // A message that has just come is no backlog.
        if row.state == "running" && row.lag < 1.0 {
            let line = format!(
                "Wialon caught up {:.1} s after its receiver came back; {most} messages were queued.",
                elapsed.saturating_sub(*since).as_secs_f64()
            );
            self.recovering = None;
            self.tell(elapsed, Tone::Good, line);
        }
    }

    fn observe_dead_letters(&mut self, elapsed: Duration, rows: &[Row]) {
        self.dead.resize(rows.len(), 0);
        if !self.garbage_told {
            // Told once for all five, when the last of them has it.
            if rows.is_empty() || rows.iter().any(|row| row.dead == 0) {
                return;
            }
            self.garbage_told = true;
            // The next ones may be there already: the slowest stream decides when.
            self.dead.fill(1);
            let words = rows.first().map(words).unwrap_or_default();
            let line = format!("One dead letter in each of the five streams. Reason: \"{words}\"");
            self.tell(elapsed, Tone::Good, line);
        }
        for (index, row) in rows.iter().enumerate() {
            if row.dead > self.dead[index] {
                self.dead[index] = row.dead;
                let stream = &row.stream;
                let words = words(row);
                let line =
                    format!("One dead letter in {stream}; the good messages arrived. Reply: \"{words}\"");
                self.tell(elapsed, Tone::Good, line);
            }
        }
    }
}

/// The reason of the last dead letter, in the words of the script or the receiver.
fn words(row: &Row) -> String {
    let text = row.last_error.as_deref().unwrap_or_default();
    let reason = match text.strip_prefix("dead letter ").and_then(|rest| rest.split_once(": ")) {
        Some((_, reason)) => reason,
        None => text,
    };
    reason.strip_prefix("refused by the destination: ").unwrap_or(reason).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn row(state: &str, lag: f64, dead: u64, last_error: &str) -> Row {
        let last_error = Some(last_error.to_owned());
        Row {
            stream: "s".to_owned(),
            state: state.to_owned(),
            lag,
            dead,
            last_error,
            queued: 90,
            ..Row::default()
        }
    }

    fn texts(story: &Story) -> Vec<&str> {
        story.told().iter().map(|told| told.text.as_str()).collect()
    }

    /// Plays a demo of so many seconds: what is done when, in seconds. What a
    /// kill leaves undone is made good so many seconds after the start.
    fn play(story: &mut Story, total: u64, whole_after: u64) -> Vec<(u64, Step)> {
        let mut done: Vec<(u64, Step)> = Vec::new();
        for second in 0..total {
            let whole = done.iter().all(|(at, step)| match step {
                Step::Kill => done.iter().any(|(_, step)| *step == Step::Start),
                Step::Start => second >= at + whole_after,
                _ => true,
            });
            done.extend(story.due(seconds(second), whole).map(|step| (second, step)));
        }
        story.end(seconds(total));
        done
    }

    #[test]
    fn acts_play_in_order_with_their_titles() {
        let mut story = Story::new(Some(seconds(60)));
        let expected = [
            (5, Step::Kill),
            (8, Step::Start),
            (18, Step::UnplugWialon),
            (28, Step::PlugWialon),
            (38, Step::PublishGarbage),
            (42, Step::PublishRefused),
            (48, Step::EditScript),
            (52, Step::BreakScript),
        ];
        assert_eq!(play(&mut story, 60, 2), expected);
        assert_eq!(texts(&story), ACTS.map(|act| act.title));
    }

    #[test]
    fn act_waits_for_recovery_from_kill() {
        let mut story = Story::new(Some(seconds(60)));
        let done = play(&mut story, 60, 20);
        assert_eq!(done[2..4], [(28, Step::UnplugWialon), (38, Step::PlugWialon)]);
        assert_eq!(done.len(), 8, "{done:?}");
    }

    #[test]
    fn short_demo_names_skipped_acts() {
        let left_out = |act: usize| format!("Skipped for lack of time: {}.", ACTS[act].title);
        let titles = |acts: &[usize]| acts.iter().map(|act| ACTS[*act].title.to_owned()).collect::<Vec<_>>();
        let mut story = Story::new(Some(SHORTEST));
        assert_eq!(play(&mut story, 10, 2).len(), 4);
        assert_eq!(texts(&story), [vec![left_out(1), left_out(3)], titles(&[0, 2])].concat());
        // It was planned, and the gateway took too long to come back.
        let mut story = Story::new(Some(seconds(30)));
        assert_eq!(play(&mut story, 30, 15).len(), 6);
        assert_eq!(texts(&story), [titles(&[0]), vec![left_out(1)], titles(&[2, 3])].concat());
        let mut story = Story::new(Some(seconds(30)));
        assert_eq!(play(&mut story, 30, 60).len(), 2);
        assert_eq!(texts(&story), [titles(&[0]), vec![left_out(1), left_out(2), left_out(3)]].concat());
    }

    #[test]
    fn broken_script_waits_for_result_of_edited_script() {
        let mut story = Story::new(Some(seconds(60)));
        story.acts.drain(..3);
        assert_eq!(
            (story.due(seconds(48), true), story.open()),
            (Some(Step::EditScript), Some(ACTS[3].title))
        );
        assert_eq!((story.due(seconds(52), false), story.open()), (None, Some(ACTS[3].title)));
        assert_eq!((story.due(seconds(57), true), story.open()), (Some(Step::BreakScript), None));
    }

    #[test]
    fn recovery_is_told_once_with_queue_length() {
        let mut story = Story::new(None);
        story.explain(seconds(20), Step::PlugWialon, 0);
        story.observe(seconds(21), &[row("retrying", 11.0, 0, "")], 0);
        story.observe(seconds(23), &[row("running", 0.0, 0, "")], 0);
        story.observe(seconds(24), &[row("running", 0.0, 0, "")], 0);
        let told = texts(&story);
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[1], "Wialon caught up 3.0 s after its receiver came back; 90 messages were queued.");
    }

    #[test]
    fn dead_letters_are_told_with_their_reasons() {
        let mut story = Story::new(None);
        let one = |dead| row("running", 0.0, dead, "dead letter 1/2: not JSON");
        let refused = |dead| row("running", 0.0, dead, "dead letter 3/4: refused by the destination: 400 no");
        story.observe(seconds(5), &[one(1), one(0)], 0);
        assert_eq!(story.told(), []);
        story.observe(seconds(6), &[one(1), one(1)], 0);
        story.observe(seconds(7), &[one(1), refused(2)], 0);
        story.observe(seconds(8), &[one(1), refused(2)], 0);
        assert_eq!(
            texts(&story),
            [
                "One dead letter in each of the five streams. Reason: \"not JSON\"",
                "One dead letter in s; the good messages arrived. Reply: \"400 no\"",
            ]
        );
        // A stream that comes late to the first one swallows no other.
        let mut story = Story::new(None);
        story.observe(seconds(5), &[one(1), one(0)], 0);
        story.observe(seconds(9), &[refused(2), one(1)], 0);
        assert_eq!(texts(&story).len(), 2);
    }
}
