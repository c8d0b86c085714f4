//! The story that the demo tells: what happens when, and what can be seen of
//! it. Without I/O: [`Story::due`] says what to do, [`Story::observe`] looks
//! at the figures.

use std::time::Duration;

use super::screen::Row;

/// How long the Wialon receiver is unplugged.
const OUTAGE: Duration = Duration::from_secs(10);
/// The length that the times below are written for.
const SCRIPT_LENGTH: Duration = Duration::from_secs(60);
/// The shortest demo that the story fits in.
pub const SHORTEST: Duration = Duration::from_secs(30);

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Pull the plug of the Wialon receiver.
    UnplugWialon,
    /// Put it back.
    PlugWialon,
    /// Publish something that is no message at all.
    PublishGarbage,
    /// Publish a message that the HTTP receiver answers with 400.
    PublishRefused,
}

/// Where the story stands.
pub struct Story {
    acts: Vec<(Duration, Act)>,
    told: Vec<(Duration, String)>,
    /// When Wialon was plugged in again, and the most that waited for it since.
    recovering: Option<(Duration, u64)>,
    dead: Vec<u64>,
    /// The garbage has become a dead letter everywhere.
    garbage_told: bool,
}

impl Story {
    /// The story for a demo of that length (none: endless, told at the usual
    /// pace). A shorter one is told faster; the outage always takes 10 s.
    pub fn new(total: Option<Duration>) -> Self {
        let scale = total.map_or(1.0, |total| (total.as_secs_f64() / SCRIPT_LENGTH.as_secs_f64()).min(1.0));
        let at = |seconds: u64| Duration::from_secs(seconds).mul_f64(scale);
        let unplug = at(10);
        let mut acts = vec![
            (unplug, Act::UnplugWialon),
            (unplug + OUTAGE, Act::PlugWialon),
            (at(5), Act::PublishGarbage),
            (at(38), Act::PublishRefused),
        ];
        acts.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Self { acts, told: Vec::new(), recovering: None, dead: Vec::new(), garbage_told: false }
    }

    /// What has to be done by now, each once.
    pub fn due(&mut self, elapsed: Duration) -> Vec<Act> {
        let mut due = Vec::new();
        while self.acts.last().is_some_and(|(at, _)| *at <= elapsed) {
            due.extend(self.acts.pop().map(|(_, act)| act));
        }
        due
    }

    /// Adds a line.
    pub fn tell(&mut self, elapsed: Duration, line: impl Into<String>) {
        self.told.push((elapsed, line.into()));
    }

    /// The lines told so far.
    pub fn told(&self) -> &[(Duration, String)] {
        &self.told
    }

    /// Explains an act that has just been carried out.
    pub fn explain(&mut self, elapsed: Duration, act: Act) {
        let line = match act {
            Act::UnplugWialon => {
                "The Wialon receiver is unplugged for 10 s: its messages wait, the other four streams go on."
            }
            Act::PlugWialon => {
                "The Wialon receiver is plugged in again; the gateway finds it at its next attempt."
            }
            Act::PublishGarbage => {
                "Something poisonous is published: half a JSON object. No script can map it, none may stumble over it."
            }
            Act::PublishRefused => {
                "A second poison: a proper message that the HTTP receiver answers with 400, and with it the whole list that it comes in."
            }
        };
        self.tell(elapsed, line);
        if act == Act::PlugWialon {
            self.recovering = Some((elapsed, 0));
        }
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
                "Wialon has caught up {:.1} s after it was plugged in: {most} messages had waited.",
                elapsed.saturating_sub(*since).as_secs_f64()
            );
            self.recovering = None;
            self.tell(elapsed, line);
        }
    }

    fn observe_dead_letters(&mut self, elapsed: Duration, rows: &[Row]) {
        self.dead.resize(rows.len(), 0);
        let reason = |row: &Row| row.last_error.clone().unwrap_or_default();
        if !self.garbage_told {
            // Told once for all five, when the last of them has it.
            if rows.is_empty() || rows.iter().any(|row| row.dead == 0) {
                return;
            }
            self.garbage_told = true;
            self.dead = rows.iter().map(|row| row.dead).collect();
            let reason = rows.first().map(reason).unwrap_or_default();
            self.tell(elapsed, format!("All five streams have set it aside and gone on ({reason})."));
        }
        for (index, row) in rows.iter().enumerate() {
            if row.dead > self.dead[index] {
                self.dead[index] = row.dead;
                self.tell(elapsed, format!("{} has set it aside and gone on ({}).", row.stream, reason(row)));
            }
        }
    }
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

    #[test]
    fn acts_come_in_order_and_once() {
        let mut story = Story::new(Some(seconds(60)));
        assert_eq!(story.due(seconds(4)), []);
        assert_eq!(story.due(seconds(12)), [Act::PublishGarbage, Act::UnplugWialon]);
        assert_eq!(story.due(seconds(12)), []);
        assert_eq!(story.due(seconds(60)), [Act::PlugWialon, Act::PublishRefused]);
        assert!(story.acts.is_empty());
    }

    #[test]
    fn a_short_demo_has_the_whole_story_with_room_to_catch_up() {
        let mut story = Story::new(Some(SHORTEST));
        story.due(SHORTEST - seconds(10));
        assert!(story.acts.is_empty());
    }

    #[test]
    fn catching_up_is_told_once_with_what_had_waited() {
        let mut story = Story::new(None);
        story.explain(seconds(20), Act::PlugWialon);
        story.observe(seconds(21), &[row("retrying", 11.0, 0, "")], 0);
        story.observe(seconds(23), &[row("running", 0.0, 0, "")], 0);
        story.observe(seconds(24), &[row("running", 0.0, 0, "")], 0);
        let told: Vec<&str> = story.told().iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[1], "Wialon has caught up 3.0 s after it was plugged in: 90 messages had waited.");
    }

    #[test]
    fn dead_letters_are_told_with_their_reasons() {
        let mut story = Story::new(None);
        let one = |dead| row("running", 0.0, dead, "dead letter (1, 2): not JSON");
        story.observe(seconds(5), &[one(1), one(0)], 0);
        assert_eq!(story.told().len(), 0);
        story.observe(seconds(6), &[one(1), one(1)], 0);
        story.observe(seconds(7), &[one(1), row("running", 0.0, 2, "dead letter (3, 4): 400")], 0);
        story.observe(seconds(8), &[one(1), row("running", 0.0, 2, "dead letter (3, 4): 400")], 0);
        let told: Vec<&str> = story.told().iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(
            told,
            [
                "All five streams have set it aside and gone on (dead letter (1, 2): not JSON).",
                "s has set it aside and gone on (dead letter (3, 4): 400).",
            ]
        );
    }
}
