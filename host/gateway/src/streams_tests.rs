#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use admin_api::answer::Change as Word;
use journal::{Append, Counters};
use message::{Message, unix_millis};
use serde_json::json;
use standins::Inbox;
use standins::mqtt::MqttStandin;
use stream::reload::versions::Versions;
use tempfile::TempDir;
use watch::Watch;

use super::*;
use crate::operate::Operations;

/// Streams without a bus: messages are put into the journal as they are routed.
struct Site {
    folder: TempDir,
    inbox: Inbox,
    receiver: MqttStandin,
    streams: Streams,
    journal: Journal,
    routes: Routes,
    versions: Option<Versions>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Site {
    async fn start(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("streams")).unwrap();
        let main = "[bus]\nurl = \"mqtt://127.0.0.1:9\"\nclient_id = \"gw\"\n";
        fs::write(folder.path().join("sluicegate.toml"), main).unwrap();
        let inbox = Inbox::default();
        let receiver = MqttStandin::start(inbox.clone(), None).await.unwrap();
        for name in names {
            fs::write(file(&folder, name), stream(&receiver, "")).unwrap();
        }
        let config = Config::load(Some(&folder.path().join("sluicegate.toml"))).unwrap();
        let journal = wiring::open_journal(&config).await.unwrap();
        let routes = Routes::new(Router::new(Vec::new()));
        routes.pretend_subscribed();
        let engine = Streams::engine(&config, Compilation::default()).unwrap();
        let scripts = wiring::scripts(&config, Watch::looking_only()).await.unwrap();
        let versions = scripts.versions.clone();
        let streams = Streams::start(config, engine, scripts, journal.clone(), routes.clone(), Vec::new());
        Self { folder, inbox, receiver, streams, journal, routes, versions }
    }

    fn write(&self, name: &str, delivery: &str) {
        fs::write(file(&self.folder, name), stream(&self.receiver, delivery)).unwrap();
    }

    async fn apply(&self) -> Vec<(String, Word)> {
        let answer = self.streams.apply(|| ()).await.unwrap();
        assert_eq!((answer.applied, &answer.waiting), (true, &None));
        answer.streams.into_iter().map(|line| (line.stream, line.change)).collect()
    }

    /// One message to each stream that wants it.
    async fn publish(&self, number: u64) {
        let message = Message {
            topic: "t".into(),
            payload: json!({ "ident": "a", "n": number }).to_string().into(),
            received_at: unix_millis(),
        };
        let streams = self.routes.current().route(&[], &message);
        self.journal.append(vec![Append { message, streams }]).await.await.unwrap();
    }

    fn status(&self, name: &str) -> Arc<StreamStatus> {
        self.streams.statuses().into_iter().find(|s| s.name() == name).unwrap()
    }

    fn counters(&self, name: &str) -> Counters {
        self.journal.counters(self.status(name).index().unwrap())
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let looking = async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, looking).await.is_ok(), "not within {PATIENCE:?}: {what}");
    }

    async fn close(self) {
        self.streams.shut_down().await;
        self.journal.close().await;
    }
}

fn file(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(format!("streams/{name}.toml"))
}

fn stream(receiver: &MqttStandin, delivery: &str) -> String {
    format!(
        "topics = [\"t\"]\n[destination]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"\n\
         [script.settings]\ntopic = \"out\"\n{delivery}",
        receiver.port()
    )
}

fn words(words: &[(&str, Word)]) -> Vec<(String, Word)> {
    words.iter().map(|(name, word)| ((*name).to_owned(), *word)).collect()
}

/// A script is written, validated, compared, loaded, rejected and rolled back, as
/// operators do it.
#[tokio::test]
async fn running_stream_changes_its_script() {
    let site = Site::start(&["a"]).await;
    site.until("the adapter runs", || site.status("a").script().is_some()).await;
    let (name, version) = site.status("a").script().unwrap();
    let script = site.folder.path().join("mine.wasm");
    let write = |transform: &str| fs::write(&script, script::testing::transform(transform)).unwrap();
    let pass = "(call $pass (local.get $batch) (local.get $n))";
    let marked = format!("(i32.store8 (i32.load offset=8 (local.get $batch)) (i32.const 120)) {pass}");
    write(pass);
    let with_script = stream(&site.receiver, "").replace(
        "[script.settings]\ntopic = \"out\"\n",
        "topic = \"out\"\n[script]\npath = \"../mine.wasm\"\n",
    );
    fs::write(file(&site.folder, "a"), with_script).unwrap();
    site.apply().await;
    site.publish(1).await;
    site.until("it is delivered", || site.counters("a").delivered == 1).await;

    let versions = site.versions.clone();
    let operations = Operations::new(site.journal.clone(), site.streams.operated(), versions);
    let first = operations.reload("a").await.unwrap();
    assert_eq!((first.taken, first.before.as_ref()), (false, Some(&first.after)));
    write(&marked);
    let compared = operations.compare("a", None).await.unwrap();
    assert_eq!((compared.taken, compared.differing, &compared.refusal), (false, 1, &None));
    assert_eq!(compared.differences[0].new[0]["body"].as_str().unwrap().chars().next(), Some('x'));
    let taken = operations.reload("a").await.unwrap();
    assert_eq!((taken.taken, &taken.after), (true, &compared.after));
    write("unreachable");
    let refused = operations.reload("a").await.unwrap_err().to_string();
    assert!(refused.contains("nothing has changed") && refused.contains("unreachable"), "{refused}");
    assert!(site.status("a").refused().is_some());
    let back = operations.roll_back("a", None).await.unwrap();
    assert_eq!((back.taken, &back.after), (true, &first.after));
    let kept = operations.versions("a").await.unwrap().versions;
    let kept: Vec<String> = kept.iter().map(|v| format!("{} {}", v.name, &v.version[..12])).collect();
    assert_eq!(kept, [format!("{name} {version}"), taken.after, first.after]);
    let error = operations.roll_back("a", Some("0000".to_owned())).await.unwrap_err().to_string();
    assert_eq!(error, "the stream has had no version 0000");
    let running = back.after.rsplit(' ').next().unwrap().to_owned();
    let error = operations.roll_back("a", Some(running.clone())).await.unwrap_err().to_string();
    assert_eq!(error, format!("version {running} is the one that runs already"));
    site.close().await;
}

/// A stream of which the script is `mine.wasm` and gets these settings.
fn scripted(site: &Site, settings: &str) -> String {
    stream(&site.receiver, "").replace(
        "[script.settings]\ntopic = \"out\"\n",
        &format!("topic = \"out\"\n[script]\npath = \"../mine.wasm\"\n[script.settings]\n{settings}"),
    )
}

/// The new script is refused with the old settings and the old one with the
/// new: the two are taken together.
#[tokio::test]
async fn new_setting_lets_new_script_load() {
    let site = Site::start(&["a"]).await;
    let pass = "(call $pass (local.get $batch) (local.get $n))";
    let old = script::testing::transform_for("{\"a\":1}", pass);
    let new = script::testing::transform_for("{\"a\":1,\"b\":2}", pass);
    let write = |wasm: &[u8]| fs::write(site.folder.path().join("mine.wasm"), wasm).unwrap();
    let settings = |settings: &str| fs::write(file(&site.folder, "a"), scripted(&site, settings)).unwrap();
    write(&old);
    settings("a = 1\n");
    site.apply().await;
    site.publish(1).await;
    site.until("it is delivered", || site.counters("a").delivered == 1).await;
    let version = |wasm: &[u8]| script::Version::of(wasm).to_string();
    assert_eq!(site.status("a").script().unwrap().1, version(&old));

    write(&new);
    let operations = Operations::new(site.journal.clone(), site.streams.operated(), site.versions.clone());
    operations.reload("a").await.unwrap_err();
    settings("a = 1\nb = 2\n");
    let told = site.streams.plan().await.unwrap().streams.remove(0).script.unwrap();
    let (old, new) = (version(&old), version(&new));
    let expected = format!("mine {new} takes the place of mine {old}, unproven: it refuses its settings: ");
    assert!(told.starts_with(&expected), "{told}");
    let applied = site.streams.apply(|| ()).await.unwrap();
    assert_eq!(applied.streams[0].script, Some(told));
    site.publish(2).await;
    site.until("it is delivered", || site.counters("a").delivered == 2).await;
    assert_eq!(site.status("a").script().unwrap().1, new);

    // What nothing takes is not applied.
    settings("c = 3\n");
    let error = site.streams.apply(|| ()).await.unwrap_err().to_string();
    assert!(error.contains("the script `mine` refuses its settings"), "{error}");
    // Nor is a file next to which something is broken.
    settings("a = 1\nb = 2\n[delivery]\nlanes = 2\n");
    write(b"half a fi");
    let error = site.streams.apply(|| ()).await.unwrap_err().to_string();
    assert!(error.contains("the script `mine` cannot be used"), "{error}");
    assert_eq!(site.status("a").script().unwrap().1, new);
    site.close().await;
}

/// A disk that is not there, or an operator who is about to put another folder in
/// its place.
#[tokio::test]
async fn missing_folder_does_not_stop_its_streams() {
    let site = Site::start(&["a"]).await;
    let folder = site.folder.path().join("streams");
    let aside = site.folder.path().join("aside");
    fs::rename(&folder, &aside).unwrap();
    for error in [
        site.streams.plan().await.unwrap_err().to_string(),
        site.streams.apply(|| panic!("nothing changed")).await.unwrap_err().to_string(),
    ] {
        assert!(error.contains("streams: the folder does not exist, but there are streams"), "{error}");
        assert!(error.contains("no change applied; the running configuration is kept"), "{error}");
    }
    fs::create_dir(&folder).unwrap();
    assert_eq!(site.apply().await, words(&[("a", Word::Detached)]));
    // Without streams there need be no folder.
    fs::remove_dir(&folder).unwrap();
    assert_eq!(site.apply().await, []);
    site.close().await;
}

/// A stream that gets the name of one that was forgotten is another stream.
#[tokio::test]
async fn removed_stream_loses_its_script_versions() {
    let site = Site::start(&["a", "b"]).await;
    let kept = || site.versions.clone().unwrap().of("b").unwrap().len();
    site.until("they run", || kept() == 1).await;
    for by_an_operator in [true, false] {
        fs::remove_file(file(&site.folder, "b")).unwrap();
        site.apply().await;
        assert_eq!(kept(), 1, "it may come back");
        if by_an_operator {
            let operated = site.streams.operated();
            Operations::new(site.journal.clone(), operated, site.versions.clone()).forget("b").await.unwrap();
        } else {
            // As the journal does it after 24 hours.
            assert!(site.journal.forget("b").await.unwrap());
            site.streams.forget_scripts().await;
        }
        assert_eq!(kept(), 0);
        assert_eq!(site.versions.clone().unwrap().of("a").unwrap().len(), 1);
        site.write("b", "");
        site.apply().await;
        site.until("it runs", || kept() == 1).await;
    }
    // Nor does it run what the other one had, if no check ran meanwhile.
    fs::remove_file(file(&site.folder, "b")).unwrap();
    site.apply().await;
    assert!(site.journal.forget("b").await.unwrap());
    let pass = "(call $pass (local.get $batch) (local.get $n))";
    fs::write(site.folder.path().join("mine.wasm"), script::testing::transform(pass)).unwrap();
    fs::write(file(&site.folder, "b"), scripted(&site, "")).unwrap();
    site.apply().await;
    site.until("it runs", || kept() == 1).await;
    site.close().await;
}

/// What a stream has read and could not send is not lost when it is started
/// again, comes in order, and counts once.
#[tokio::test]
async fn changed_stream_reads_in_flight_messages_again() {
    let site = Site::start(&["changed", "same"]).await;
    site.receiver.plug().unplug().await.unwrap();
    for number in 0..50 {
        site.publish(number).await;
    }
    site.until("it tries again and again", || site.status("changed").state().word() == "retrying").await;
    let index = site.status("changed").index();
    site.write("changed", "[delivery]\nbatch_messages = 3\n");
    assert_eq!(site.apply().await, words(&[("changed", Word::Changed), ("same", Word::Unchanged)]));
    assert_eq!(site.status("changed").index(), index);
    for number in 50..60 {
        site.publish(number).await;
    }
    site.receiver.plug().plug().await.unwrap();
    for name in ["changed", "same"] {
        site.until("all is delivered", || site.counters(name).delivered == 60).await;
        let counters = site.counters(name);
        assert!(counters.balance() && counters.queued == 0, "{counters:?}");
    }
    assert_eq!(site.inbox.all().len(), 120, "each stream sends each message once");
    site.close().await;
}

#[tokio::test]
async fn changed_stream_keeps_its_counters() {
    let site = Site::start(&["a"]).await;
    site.publish(0).await;
    site.until("it is delivered", || site.counters("a").delivered == 1).await;
    let before = site.status("a");
    site.write("a", "[delivery]\nlanes = 2\n");
    site.apply().await;
    assert!(Arc::ptr_eq(&before, &site.status("a")));
    site.publish(1).await;
    site.until("it is delivered", || site.counters("a").delivered == 2).await;
    assert_eq!(site.status("a").ack_latency().count(), 2);
    site.until("it runs", || site.status("a").state().word() == "running").await;
    site.close().await;
}

#[tokio::test]
async fn nothing_is_routed_to_a_stream_that_is_gone() {
    let site = Site::start(&["a", "b"]).await;
    site.publish(0).await;
    let gone = site.status("b");
    fs::remove_file(file(&site.folder, "b")).unwrap();
    assert_eq!(site.apply().await, words(&[("a", Word::Unchanged), ("b", Word::Detached)]));
    assert_eq!((gone.state().word(), site.journal.detached().len()), ("stopped", 1));
    site.publish(1).await;
    site.write("b", "");
    assert_eq!(site.apply().await, words(&[("a", Word::Unchanged), ("b", Word::New)]));
    assert_eq!(site.status("b").index(), gone.index(), "it has what it had");
    site.publish(2).await;
    site.until("all is delivered", || site.counters("a").delivered == 3).await;
    site.until("all but one", || site.counters("b").delivered == 2).await;
    assert_eq!((site.counters("b").read, site.journal.detached().len()), (2, 0));
    site.close().await;
}

#[tokio::test]
async fn bad_file_changes_nothing_and_is_not_accepted() {
    let site = Site::start(&["a"]).await;
    site.write("a", "[delivery]\nlanes = 2\n");
    site.write("b", "[script.limits]\ntime = \"soon\"\n");
    let error = site.streams.apply(|| panic!("nothing changed")).await.unwrap_err().to_string();
    assert!(error.contains("b.toml:8:8: `time`: "), "{error}");
    assert!(error.ends_with("meanwhile: no change applied; the running configuration is kept"), "{error}");
    assert!(!site.folder.path().join("data/accepted").exists());
    site.write("b", "");
    fs::write(site.folder.path().join("sluicegate.toml"), "[bus]\n").unwrap();
    let error = site.streams.plan().await.unwrap_err().to_string();
    assert!(error.contains("sluicegate.toml:1:2: `url` is missing in `[bus]`"), "{error}");
    site.close().await;
}

#[tokio::test]
async fn more_lanes_than_there_is_room_for_need_a_restart() {
    let site = Site::start(&["a"]).await;
    site.write("a", "[delivery]\nlanes = 1000\n");
    let error = site.streams.apply(|| ()).await.unwrap_err().to_string();
    assert!(error.contains("the streams have 1000 lanes") && error.contains("at most 512 until"), "{error}");
    site.close().await;
}

/// The gateway is told to end while a change is under way: the change comes to
/// its end first, and nothing runs afterwards.
#[tokio::test]
async fn stop_waits_for_running_change() {
    let site = Arc::new(Site::start(&["a"]).await);
    site.write("b", "");
    let applying = tokio::spawn({
        let site = site.clone();
        async move { site.apply().await }
    });
    site.streams.shut_down().await;
    let _ = applying.await;
    assert!(site.streams.statuses().iter().all(|status| status.state().word() == "stopped"));
    site.journal.close().await;
}
