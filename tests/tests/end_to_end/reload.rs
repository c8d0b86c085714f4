//! Scripts that are written anew while messages flow.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use script::Version;
use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::{Fleet, arrivals};
use sluicegate_tests::gateway::{Folder, Gateway, LogLine, Stream, resident};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::scripts;
use sluicegate_tests::traffic::Traffic;
use standins::mqtt::MqttStandin;
use standins::{Inbox, Received};

/// As many as a test can publish.
const FLEET: Fleet = Fleet::new(20, 10_000_000);

/// How often the script is written anew under traffic.
const REPLACEMENTS: u32 = 100;

/// How often in a row on order.
const RELOADS: usize = 500;

/// MiB that the gateway may have more after all that: an instance that is full
/// for each reload, or the code of each version, would show.
const GROWTH: f64 = 48.0;

/// A stream `fleet` whose script is `mine.wasm`.
struct Site {
    broker: Broker,
    gateway: Gateway,
    inbox: Inbox,
    _standin: MqttStandin,
}

/// How reloads of the stream have ended, by `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ended {
    replaced: u64,
    refused: u64,
    rolled_back: u64,
}

impl Site {
    async fn start(wasm: &[u8]) -> Self {
        let inbox = Inbox::default();
        let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
        let stream = format!(
            "topics = [\"flespi/message/gw/devices/+\"]\nkey = \"ident\"\n[script]\npath = \"../mine.wasm\"\n\
             [script.limits]\ntime = \"50ms\"\n\
             [destination]\ntype = \"mqtt\"\nurl = \"mqtt://localhost:{}\"\ntopic = \"out\"\n",
            standin.port()
        );
        let broker = Broker::start().await;
        let gateway = Folder::new()
            .bus(&broker.url())
            // A trial of its own length would be over before the test looks.
            .table("[reload]\nguard_messages = 100000000")
            .file("mine.wasm", wasm)
            .stream("fleet", &stream)
            .start()
            .await;
        Self { broker, gateway, inbox, _standin: standin }
    }

    fn script(&self) -> PathBuf {
        self.gateway.path().join("mine.wasm")
    }

    /// Writes the script beside its place and renames it.
    fn write(&self, wasm: &[u8]) {
        let beside = self.gateway.path().join("mine.wasm.new");
        std::fs::write(&beside, wasm).unwrap();
        std::fs::rename(beside, self.script()).unwrap();
    }

    async fn ended(&self) -> Ended {
        let (_, text) = self.gateway.get("/metrics").await;
        let text = String::from_utf8_lossy(&text);
        let count = |outcome: &str| {
            let labels = format!("{{stream=\"fleet\",outcome=\"{outcome}\"}} ");
            let line = text.lines().find_map(|line| line.split_once(&labels));
            line.map_or(0, |(_, count)| count.parse().unwrap())
        };
        Ended { replaced: count("replaced"), refused: count("refused"), rolled_back: count("rolled-back") }
    }

    /// Waits until one more reload has ended than `before`, and says how.
    async fn until_ended(&self, before: Ended) -> Ended {
        // The compiler has the lowest priority.
        let deadline = tokio::time::Instant::now() + 3 * sluicegate_tests::PATIENCE;
        loop {
            let now = self.ended().await;
            if now != before {
                return now;
            }
            let stream = self.gateway.stream("fleet").await;
            assert!(tokio::time::Instant::now() < deadline, "nothing becomes of the new version: {stream:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_runs(&self, wasm: &[u8]) -> Stream {
        let version = version_of(wasm);
        self.gateway.until("fleet", &format!("it runs {version}"), |s| runs(s, &version)).await
    }
}

fn version_of(wasm: &[u8]) -> String {
    Version::of(wasm).to_string()
}

fn runs(stream: &Stream, version: &str) -> bool {
    stream.script.as_ref().is_some_and(|script| script.version == version)
}

/// What is written in the script's place.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Good,
    Large,
    Leaking,
    TrapsLater,
    Trapping,
    Looping,
    Impure,
    WrongSignatures,
    Truncated,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Good,
        Self::Large,
        Self::Leaking,
        Self::TrapsLater,
        Self::Trapping,
        Self::Looping,
        Self::Impure,
        Self::WrongSignatures,
        Self::Truncated,
    ];

    /// Different bytes for each `mark`.
    fn wasm(self, mark: &str) -> Vec<u8> {
        match self {
            Self::Good => scripts::marking(mark),
            Self::Large => scripts::marking_and_large(mark),
            Self::Leaking => scripts::marking_and_leaking(mark),
            Self::TrapsLater => scripts::marking_but_trapping_at_marked(mark),
            Self::Trapping => labelled(scripts::trapping_in_configure(), mark),
            Self::Looping => labelled(scripts::looping(), mark),
            Self::Impure => labelled(scripts::counting(), mark),
            Self::WrongSignatures => labelled(scripts::of_other_signatures(), mark),
            Self::Truncated => {
                let mut wasm = scripts::marking(mark);
                wasm.truncate(wasm.len() - 20);
                wasm
            }
        }
    }

    fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::Large | Self::Leaking)
    }
}

/// The module with a section of that content, which means nothing.
fn labelled(mut wasm: Vec<u8>, label: &str) -> Vec<u8> {
    let size = u8::try_from(label.len() + 2).unwrap();
    wasm.extend([0, size, 1, b'x']);
    wasm.extend(label.as_bytes());
    wasm
}

/// The script is replaced at random, by good versions and by all kinds of bad
/// ones, while messages flow: none is lost, none is out of order, none was
/// mapped by a version that was not accepted, and what is good runs throughout.
#[tokio::test]
async fn hundred_versions_replace_each_other_under_traffic() {
    let first = scripts::marking("v");
    let site = Site::start(&first).await;
    let traffic = Traffic::in_bursts(&site.broker, FLEET, 100, Duration::from_millis(5));
    traffic.more(2_000).await;
    let memory = resident(site.gateway.process());

    let marked = Publisher::connect(&site.broker);
    let mut published = 0;
    let (mut running, mut accepted) = (version_of(&first), HashSet::from(["v".to_owned()]));
    let mut good = HashSet::from([running.clone()]);
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..REPLACEMENTS {
        let (kind, mark) = (*random.choice(&Kind::ALL).unwrap(), format!("v{number}"));
        let wasm = kind.wasm(&mark);
        let before = site.ended().await;
        if random.bool() {
            site.write(&wasm);
        } else {
            std::fs::write(site.script(), &wasm).unwrap();
        }
        let after = site.until_ended(before).await;
        let taken = after.replaced > before.replaced;
        match kind {
            kind if kind.is_good() => {
                assert!(taken, "{kind:?}: {before:?}, {after:?}");
                running = version_of(&wasm);
                good.insert(running.clone());
                accepted.insert(mark);
            }
            // Its first message that shows it may have come already.
            Kind::TrapsLater => {
                if taken {
                    accepted.insert(mark);
                    let payload = format!("{{\"ident\":\"mark\",\"n\":{published},\"text\":\"!\"}}");
                    marked.publish("flespi/message/gw/devices/mark", payload).await;
                    published += 1;
                    let back = site.until_ended(after).await;
                    assert_eq!(back.rolled_back, after.rolled_back + 1);
                    // The last one whose own trial is over, which only the gateway knows.
                    let is_back = |s: &Stream| good.iter().any(|version| runs(s, version));
                    let stream = site.gateway.until("fleet", "a good version is back", is_back).await;
                    running = stream.script.unwrap().version;
                }
            }
            kind => assert!(!taken && after.refused == before.refused + 1, "{kind:?}: {before:?}, {after:?}"),
        }
        let it_runs = |s: &Stream| runs(s, &running);
        let stream = site.gateway.until("fleet", &format!("it runs {running}"), it_runs).await;
        assert_eq!(stream.state, "running");
        assert_eq!(stream.refused.is_none(), kind.is_good(), "{kind:?}: {stream:?}");
    }
    let count = traffic.end().await;
    let stream = site.gateway.until_settled("fleet", count + published).await;
    assert_eq!((stream.delivered, stream.dead_lettered), (stream.read, 0), "{stream:?}");
    let received = site.inbox.all();
    assert_eq!(site.inbox.violations(), [] as [String; 0]);
    let (marks, of_fleet): (Vec<Received>, Vec<Received>) = received.into_iter().partition(is_marked);
    for topic in of_fleet.iter().chain(&marks).filter_map(topic) {
        assert!(accepted.contains(topic), "a version that was not accepted has mapped a message: {topic}");
    }
    assert!(marks.len() as u64 >= published);
    let repeats = FLEET.assert_some_arrived(&arrivals(&of_fleet), |number| number < count);
    let ended = site.ended().await;
    let after = resident(site.gateway.process());
    println!(
        "{count} messages, {repeats} repeats; {ended:?}; memory: {memory:.1} MiB before, {after:.1} MiB after"
    );
    assert!(after < memory + GROWTH, "{memory:.1} MiB before, {after:.1} MiB after");
}

fn topic(received: &Received) -> Option<&str> {
    match received {
        Received::Publish { topic, .. } => Some(topic),
        _ => None,
    }
}

fn is_marked(received: &Received) -> bool {
    matches!(received, Received::Publish { payload, .. } if payload.contains(&b'!'))
}

#[tokio::test]
async fn five_hundred_reloads_leave_nothing_behind() {
    let versions: Vec<Vec<u8>> = (0..4).map(|number| scripts::marking(&format!("v{number}"))).collect();
    let site = Site::start(&versions[0]).await;
    Publisher::connect(&site.broker).publish_all(FLEET.some(0..50)).await;
    site.gateway.until_settled("fleet", 50).await;
    let mut memory = 0.0;
    for number in 1..=RELOADS {
        site.write(&versions[number % versions.len()]);
        let (status, answer) = site.gateway.post("/streams/fleet/reload").await;
        assert_eq!(status, 200, "{answer}");
        // The file may have been noticed before the order came.
        site.until_runs(&versions[number % versions.len()]).await;
        if number == RELOADS / 5 {
            memory = resident(site.gateway.process());
        }
    }
    Publisher::connect(&site.broker).publish_all(FLEET.some(50..100)).await;
    site.gateway.until_settled("fleet", 100).await;
    FLEET.assert_some_arrived(&arrivals(&site.inbox.all()), |number| number < 100);
    let after = resident(site.gateway.process());
    println!("memory: {memory:.1} MiB after {} reloads, {after:.1} MiB after {RELOADS}", RELOADS / 5);
    assert!(after < memory + GROWTH / 2.0, "{memory:.1} MiB, then {after:.1} MiB");
}

/// What was accepted is what runs after a crash, whatever has become of the
/// file.
#[tokio::test]
async fn restart_runs_last_accepted_script() {
    let (old, new) = (scripts::marking("old"), scripts::marking("new"));
    let mut site = Site::start(&old).await;
    site.write(&new);
    site.until_runs(&new).await;
    for ruin in [scripts::garbage(), scripts::marking_and_large("x")[..1_000].to_vec(), Vec::new()] {
        site.gateway.kill();
        if ruin.is_empty() {
            std::fs::remove_file(site.script()).unwrap();
        } else {
            site.write(&ruin);
        }
        site.gateway.restart().await;
        site.gateway.until_ready().await;
        site.until_runs(&new).await;
        site.gateway.until("fleet", "it is running", |s| s.state == "running").await;
        site.gateway.until("fleet", "it says so", |s| s.refused.is_some()).await;
    }
    Publisher::connect(&site.broker).publish_all(FLEET.some(0..10)).await;
    site.gateway.until_settled("fleet", 10).await;
    assert!(site.inbox.all().iter().all(|received| topic(received) == Some("new")));
    // One that is mended is taken at once.
    site.write(&old);
    assert_eq!(site.until_runs(&old).await.refused, None);
}

/// The swap of a symbolic link, as Kubernetes does it with the files of a
/// ConfigMap.
#[tokio::test]
async fn changed_symlink_is_a_new_version() {
    let (old, new) = (scripts::marking("old"), scripts::marking("new"));
    let site = Site::start(&old).await;
    let at = |name: &str| site.gateway.path().join(name);
    for (folder, wasm) in [("first", &old), ("second", &new)] {
        std::fs::create_dir(at(folder)).unwrap();
        std::fs::write(at(folder).join("mine.wasm"), wasm).unwrap();
    }
    std::os::unix::fs::symlink("first", at("data-link")).unwrap();
    std::os::unix::fs::symlink("data-link/mine.wasm", at("link")).unwrap();
    std::fs::rename(at("link"), site.script()).unwrap();
    std::os::unix::fs::symlink("second", at("other-link")).unwrap();
    std::fs::rename(at("other-link"), at("data-link")).unwrap();
    site.until_runs(&new).await;
}

/// A table is a part of the mapping, also of a script that the binary brings
/// along.
#[tokio::test]
async fn changed_table_is_loaded_and_bad_one_is_rejected() {
    let inbox = Inbox::default();
    let standin = MqttStandin::start(inbox.clone(), None).await.unwrap();
    let stream = format!(
        "topics = [\"flespi/message/gw/devices/+\"]\n[script.settings]\ntopic = \"out/{{names[ident]}}\"\n\
         [tables.names]\nfile = \"../names.csv\"\n\
         [destination]\ntype = \"mqtt\"\nurl = \"mqtt://localhost:{}\"\n",
        standin.port()
    );
    let broker = Broker::start().await;
    let mut gateway = Folder::new()
        .bus(&broker.url())
        .file("names.csv", "ident,name\nunit-0,zero\n")
        .stream("fleet", &stream)
        .start()
        .await;
    let publisher = Publisher::connect(&broker);
    let fleet = Fleet::new(1, 5);
    let folder = gateway.path().to_owned();
    let write = |csv: &str| {
        std::fs::write(folder.join("names.new"), csv).unwrap();
        std::fs::rename(folder.join("names.new"), folder.join("names.csv")).unwrap();
    };
    publisher.publish_all(fleet.some(0..1)).await;
    gateway.until_settled("fleet", 1).await;
    write("ident,name\nunit-0,null\n");
    let taken = |line: &LogLine| line["message"] == "new script version in use" && line["differing"] == 1;
    gateway.until_logged("the table is taken", taken).await;
    publisher.publish_all(fleet.some(1..2)).await;
    gateway.until_settled("fleet", 2).await;
    // The vehicle would be without a name, and its messages rejected.
    write("ident,name\nunit-1,one\n");
    gateway.until("fleet", "the table is refused", |s| s.refused.is_some()).await;
    publisher.publish_all(fleet.some(2..3)).await;
    gateway.until_settled("fleet", 3).await;
    // Nor does a restart take it, or an apply, which starts the stream anew.
    assert!(gateway.terminate().await.success());
    gateway.restart().await;
    gateway.until_ready().await;
    gateway.until("fleet", "the table is refused again", |s| s.refused.is_some()).await;
    publisher.publish_all(fleet.some(3..4)).await;
    gateway.until_settled("fleet", 4).await;
    gateway.write_stream("fleet", &format!("{stream}[delivery]\nbatch_messages = 7\n"));
    gateway.prints(&["apply"]).await;
    gateway.until("fleet", "and again", |s| s.state == "running" && s.refused.is_some()).await;
    publisher.publish_all(fleet.some(4..5)).await;
    gateway.until_settled("fleet", 5).await;
    let topics: Vec<String> = inbox.all().iter().filter_map(topic).map(str::to_owned).collect();
    assert_eq!(topics, ["out/zero", "out/null", "out/null", "out/null", "out/null"]);
    assert_eq!(gateway.stream("fleet").await.dead_lettered, 0);
}

/// As a person does it: look, take, regret.
#[tokio::test]
async fn script_commands_preview_and_apply_changes() {
    let (old, new) = (scripts::marking("old"), scripts::marking("new"));
    let site = Site::start(&old).await;
    Publisher::connect(&site.broker).publish_all(FLEET.some(0..3)).await;
    site.gateway.until_settled("fleet", 3).await;
    let other = site.gateway.path().join("other.wasm");
    std::fs::write(&other, &new).unwrap();
    let (old, new) = (Version::of(&old).to_string(), Version::of(&new).to_string());

    let shown =
        site.gateway.prints(&["diff", "--stream", "fleet", "--script", other.to_str().unwrap()]).await;
    let head = format!(
        "fleet: mine {new} compared with mine {old}, which is running\noutput differs for 3 of the last 3 messages:\n"
    );
    assert!(shown.starts_with(&head), "{shown}");
    assert!(
        shown.contains("\n- {\"target\":\"old\"") && shown.contains("\n+ {\"target\":\"new\""),
        "{shown}"
    );
    assert!(runs(&site.gateway.stream("fleet").await, &old), "nothing has changed");

    std::fs::write(&other, scripts::trapping_in_configure()).unwrap();
    let refused =
        site.gateway.command(&["diff", "--stream", "fleet", "--script", other.to_str().unwrap()]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it cannot be started"), "{refused:?}");

    let mapped = site.gateway.prints(&["map", "--stream", "fleet", "--key", "unit-1", "--last", "5"]).await;
    assert_eq!(mapped.lines().count(), 1);
    assert!(mapped.contains("unit-1"), "{mapped}");

    site.write(&scripts::marking("new"));
    site.until_runs(&scripts::marking("new")).await;
    let versions = site.gateway.prints(&["streams", "versions", "fleet"]).await;
    let first: Vec<&str> = versions.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(first, ["VERSION", &new, &old]);
    let back = site.gateway.prints(&["streams", "rollback", "fleet"]).await;
    assert_eq!(back, format!("fleet: mine {old} replaced mine {new}\n"));
    let unknown = site.gateway.command(&["streams", "rollback", "fleet", "--to", "00000000"]).await;
    let unknown = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown, "sluicegate: the stream has had no version 00000000\n");
    // A rolled-back version is loaded only by an order, not automatically.
    let again = site.gateway.prints(&["streams", "reload", "fleet"]).await;
    assert!(again.starts_with(&format!("fleet: mine {new} replaced mine {old}\n")), "{again}");
    let nothing = site.gateway.prints(&["streams", "update", "fleet"]).await;
    assert!(nothing.starts_with(&format!("fleet: mine {new} is still the newest version\n")), "{nothing}");
}
