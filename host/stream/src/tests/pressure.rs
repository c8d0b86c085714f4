//! What slows a stream down: age, rates, conflation, a pause, dead letters that
//! do not fit.

use journal::{DeadLetter, Outcome, Settlement};
use telemetry::histogram;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
/// Maximum bytes of dead letters.
const MAX: u64 = 2 << 20;

async fn under(pressure: Pressure, far: Arc<FarSide>, lanes: u32) -> Running {
    start_under(pressure, TRAPS_ON_MARK, far, lanes, Limits::default()).await
}

impl Running {
    /// Received now.
    async fn receive(&self, bodies: impl IntoIterator<Item = String>) {
        self.append_at(clock(), bodies).await;
    }
}

fn rate(per_second: u32) -> Arc<RateLimit> {
    Arc::new(RateLimit::new(Duration::from_secs(1) / per_second))
}

fn limited(limits: Vec<Arc<RateLimit>>) -> Pressure {
    Pressure { rate_limits: RateLimits(limits), ..Pressure::default() }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_not_sent_and_what_is_in_flight_may_still_arrive() {
    let ttl = Pressure { queue_ttl: Some(MINUTE), ..Pressure::default() };
    for window in [1, 8] {
        let far = FarSide::new(Mood::Silent, window);
        let running = under(ttl.clone(), far.clone(), 2).await;
        // More than the lanes and what waits in front of them hold.
        running.receive(numbered(3000)).await;
        sleep(MINUTE / 2).await;
        assert_eq!(running.counters().queued, 3000);
        sleep(MINUTE / 2 + Duration::from_millis(100)).await;
        let in_flight = 2 * window as u64;
        assert_eq!((running.counters().expired, running.counters().queued), (3000 - in_flight, in_flight));
        far.set(Mood::Accepts);
        running.receive(numbered(100)).await;
        running.until(|b| b.queued == 0).await;
        assert_eq!(running.counters().delivered, in_flight + 100);
        assert_eq!(running.status.state(), State::Running);
        running.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn messages_expire_on_time_also_while_the_destination_is_away() {
    let ttl = Pressure { queue_ttl: Some(MINUTE), ..Pressure::default() };
    let running = under(ttl, FarSide::new(Mood::Unreachable, 8), 2).await;
    running.receive(numbered(2000)).await;
    sleep(MINUTE + Duration::from_millis(100)).await;
    assert_eq!(running.counters().expired, 2000);
    running.receive(numbered(10)).await;
    running.far.set(Mood::Accepts);
    running.until(|b| b.queued == 0).await;
    assert_eq!((running.counters().delivered, running.counters().expired), (10, 2000));
    running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_what_has_become_too_old_is_not_made() {
    let ttl = Pressure { queue_ttl: Some(MINUTE), ..Pressure::default() };
    let far = FarSide::new(Mood::Silent, 4);
    let running = under(ttl, far.clone(), 1).await;
    running.receive(numbered(4)).await;
    sleep(2 * MINUTE).await;
    assert_eq!(running.counters().queued, 4, "all are in flight");
    far.set(Mood::Unreachable);
    sleep(MINUTE).await;
    assert_eq!(running.counters().expired, 4);
    far.set(Mood::Accepts);
    assert!(running.finish().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_over_lanes_and_repeats_and_troubles_nobody() {
    let far = FarSide::new(Mood::Accepts, 8);
    let running = under(limited(vec![rate(10)]), far.clone(), 4).await;
    running.append(numbered(110)).await;
    for second in 1..=9 {
        sleep(Duration::from_secs(1)).await;
        let sent = far.sent.lock().unwrap().len();
        assert!((10 * second..=10 * second + 10).contains(&sent), "{sent} after {second} s");
        assert_eq!(running.status.state(), State::Running);
    }
    running.until(|b| b.delivered == 110).await;
    let before = far.sent.lock().unwrap().len();
    far.set(Mood::Silent);
    running.append(numbered(32)).await;
    let start = Instant::now();
    for _ in 0..3 {
        sleep(Duration::from_secs(20)).await;
        far.set(Mood::Unreachable);
        sleep(Duration::from_secs(1)).await;
        far.set(Mood::Silent);
    }
    far.set(Mood::Accepts);
    running.until(|b| b.delivered == 142).await;
    let sent = far.sent.lock().unwrap().len() - before;
    assert!(sent > 64, "{sent}: repeats were expected");
    assert!(sent as u64 <= 10 * start.elapsed().as_secs() + 20, "{sent} in {:?}", start.elapsed());
    running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_of_streams_shares_its_rate_and_nobody_starves() {
    let group = rate(20);
    let mut running = Vec::new();
    for own in [None, None, Some(rate(2))] {
        let limits = own.into_iter().chain([group.clone()]).collect();
        running.push(under(limited(limits), FarSide::new(Mood::Accepts, 8), 2).await);
    }
    for stream in &running {
        stream.append(numbered(1000)).await;
    }
    sleep(MINUTE / 2).await;
    let delivered: Vec<u64> = running.iter().map(|r| r.counters().delivered).collect();
    let sum: u64 = delivered.iter().sum();
    assert!((20 * 29..=20 * 31 + 20).contains(&sum), "{delivered:?}");
    assert!(delivered[0] > 100 && delivered[1] > 100 && (40..=62).contains(&delivered[2]), "{delivered:?}");
    for stream in running {
        stream.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_of_each_key_is_sent_and_no_sooner_than_the_interval() {
    let conflate = Pressure { conflate: Some(10 * Duration::from_secs(1)), ..Pressure::default() };
    let running = under(conflate, FarSide::new(Mood::Accepts, 8), 3).await;
    // Seven keys, and one message each second for two minutes.
    for round in 0..120 {
        running.append((0..7).map(|key| format!("{round} {key}"))).await;
        sleep(Duration::from_secs(1)).await;
    }
    running.until(|b| b.queued == 0).await;
    let counters = running.counters();
    assert_eq!((counters.delivered + counters.superseded, counters.dead_lettered), (840, 0));
    let accepted = running.finish().await;
    for key in 0..7 {
        let suffix = format!(" {key}");
        let rounds: Vec<u32> =
            accepted.iter().filter_map(|b| b.strip_suffix(&suffix)?.parse().ok()).collect();
        assert!((12..=14).contains(&rounds.len()) && rounds.is_sorted(), "{rounds:?}");
        assert_eq!(rounds.last(), Some(&119));
    }
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_past_busy_lanes_where_old_messages_are_superseded() {
    let conflate = Pressure { conflate: Some(Duration::from_secs(1)), ..Pressure::default() };
    let far = FarSide::new(Mood::Silent, 1);
    let running = under(conflate, far.clone(), 2).await;
    running.append(numbered(7)).await;
    sleep(Duration::from_secs(5)).await;
    running.append(numbered(7000)).await;
    sleep(Duration::from_secs(5)).await;
    let counters = running.counters();
    assert!(
        counters.queued <= 14 + 7 && counters.delivered == 0,
        "what is mapped and the newest: {counters:?}"
    );
    far.set(Mood::Accepts);
    running.until(|b| b.queued == 0).await;
    let accepted = running.finish().await;
    assert!(numbered(7000)[6993..].iter().all(|newest| accepted.contains(newest)), "{accepted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_stream_settles_what_is_in_flight_and_sends_nothing_more() {
    let far = FarSide::new(Mood::Silent, 4);
    let running = start(TRAPS_ON_MARK, far.clone(), 1).await;
    running.append(numbered(20)).await;
    sleep(Duration::from_secs(1)).await;
    running.journal.pause(StreamIndex(0), true).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.status.state(), State::Paused);
    far.set(Mood::Accepts);
    running.append(numbered(2000)).await;
    sleep(60 * MINUTE).await;
    assert_eq!((running.counters().delivered, running.counters().queued), (4, 2016));
    assert_eq!(running.status.state().to_string(), "paused");
    running.journal.pause(StreamIndex(0), false).await.unwrap();
    running.until(|b| b.delivered == 2020).await;
    assert_eq!(running.status.state(), State::Running);
    running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_stream_neither_connects_nor_expires_and_can_be_stopped() {
    let ttl = Pressure { queue_ttl: Some(MINUTE), ..Pressure::default() };
    let running = under(ttl, FarSide::new(Mood::Accepts, 4), 2).await;
    running.receive(numbered(10)).await;
    running.until(|b| b.delivered == 10).await;
    running.journal.pause(StreamIndex(0), true).await.unwrap();
    running.far.set(Mood::Unreachable);
    running.receive(numbered(10)).await;
    sleep(10 * MINUTE).await;
    assert_eq!((running.counters().expired, running.counters().queued), (0, 10));
    assert_eq!(running.status.state(), State::Paused, "and no word of a destination that is away");
    let journal = running.journal.clone();
    assert_eq!(running.finish().await.len(), 10);
    assert_eq!(journal.counters(StreamIndex(0)).queued, 10);
}

/// Ends a message with a dead letter that leaves room for no other.
async fn fill_with_dead_letters(journal: &Journal, max: u64) {
    let message = Message { topic: "t".into(), payload: Bytes::new(), received_at: 0 };
    let append = Append { message: message.clone(), streams: vec![StreamIndex(0)] };
    journal.append(vec![append]).await.await.unwrap();
    let position = Position { chunk: 0, index: 0 };
    let letter = |size: u64| DeadLetter {
        position,
        at: 0,
        reason: "x".repeat(usize::try_from(size).unwrap()),
        script: String::new(),
        message: message.clone(),
        delivery: None,
        reply: None,
    };
    let letter = letter(max - letter(0).size());
    assert_eq!(letter.size(), max);
    let ended = vec![(position, Outcome::DeadLettered)];
    let settlement = Settlement { ended, dead_letters: vec![letter], ..Settlement::default() };
    journal.settle(StreamIndex(0), settlement);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_do_not_fit_block_their_stream_and_none_is_lost() {
    let journal = Journal::simulated(Simulated { max_dead_letters: MAX, ..Simulated::new(1) });
    fill_with_dead_letters(&journal, MAX).await;
    let far = FarSide::new(Mood::RefusesMarked, 8);
    let running = start_here(journal, Pressure::default(), TRAPS_ON_MARK, far, 2, Limits::default()).await;
    running.append(numbered(50)).await;
    running.until(|b| b.delivered == 50).await;
    // Forbidden, unmappable, refused.
    let marks = ["#", "!", "?"];
    running.append((0..3000).map(|n| format!("{}{n}", marks[n % 3]))).await;
    running.append(numbered(50)).await;
    sleep(10 * MINUTE).await;
    let counters = running.counters();
    assert_eq!((counters.dead_lettered, counters.queued + counters.delivered), (1, 3100));
    assert!(counters.queued > 2000, "{counters:?}");
    let state = running.status.state();
    assert_eq!(state.word(), "blocked");
    assert!(
        state.reason().unwrap().contains("replay or drop some with `sluicegate dead-letters`"),
        "{state}"
    );

    assert_eq!(running.journal.drop_dead_letters(DeadLetterFilter::default()).await, Ok(1));
    running.far.set(Mood::Accepts);
    running.until(|b| b.queued == 0).await;
    let counters = running.counters();
    assert_eq!(counters.delivered + counters.dead_lettered, 3101);
    assert!(counters.dead_lettered >= 2000, "{counters:?}");
    let letters = running.journal.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.len() as u64, counters.dead_lettered - 1, "one for each message");
    assert_eq!(running.status.state(), State::Running);
    running.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_from_receipt_to_delivery_is_measured_and_no_other() {
    let far = FarSide::new(Mood::Silent, 64);
    let running = under(Pressure::default(), far.clone(), 1).await;
    running.receive(numbered(20)).await;
    running.receive(["!traps".to_owned(), "#forbidden".to_owned()]).await;
    sleep(Duration::from_secs(40)).await;
    far.set(Mood::Accepts);
    running.until(|b| b.queued == 0).await;
    running.receive(["quick".to_owned()]).await;
    running.until(|b| b.delivered == 21).await;
    let text = histogram::render("t", "h", [("s", running.status.ack_latency())].into_iter());
    for (bound, count) in [("0.001", 1), ("30", 1), ("60", 21), ("+Inf", 21)] {
        assert!(text.contains(&format!("le=\"{bound}\"}} {count}\n")), "{bound} {count} in {text}");
    }
    running.finish().await;
}
