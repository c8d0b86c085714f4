#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::{fs, io};

use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;
use tempfile::TempDir;

use super::line::base64;
use super::writer::rotated;
use super::*;
use crate::{FaultKind, Identity};

fn settings(folder: &TempDir) -> FileSettings {
    FileSettings {
        path: folder.path().join("out"),
        max_size: 1 << 20,
        keep: 3,
        format: Format::Lines,
        in_flight: 256,
    }
}

fn delivery(body: impl Into<Bytes>) -> Delivery {
    Delivery { target: None, headers: Vec::new(), body: body.into(), identity: None }
}

async fn open(settings: FileSettings) -> Box<dyn Connection> {
    FileDestination::new(settings).connect(0).await.unwrap()
}

async fn send(connection: &mut Box<dyn Connection>, bodies: &[&str]) {
    for (id, body) in bodies.iter().enumerate() {
        connection.send(DeliveryId(id as u64), &delivery(body.to_string())).await.unwrap();
    }
}

/// Sends the bodies together and collects a verdict for each.
async fn deliver(connection: &mut Box<dyn Connection>, bodies: &[&str]) {
    send(connection, bodies).await;
    for id in 0..bodies.len() {
        assert_eq!(connection.next().await.unwrap(), (DeliveryId(id as u64), Verdict::Delivered));
    }
}

async fn refusal(settings: FileSettings) -> Fault {
    FileDestination::new(settings).connect(0).await.err().unwrap()
}

#[tokio::test]
async fn lines_are_appended_after_a_restart() {
    let folder = TempDir::new().unwrap();
    for body in ["one", "two"] {
        let mut connection = open(settings(&folder)).await;
        deliver(&mut connection, &[body, "more"]).await;
        connection.close().await;
    }
    assert_eq!(fs::read_to_string(folder.path().join("out")).unwrap(), "one\nmore\ntwo\nmore\n");
}

#[tokio::test]
async fn sync_comes_before_delivered_and_serves_all_that_were_sent_together() {
    let folder = TempDir::new().unwrap();
    let (entered, has_entered) = sync_channel::<()>(8);
    let (release, released) = sync_channel::<()>(8);
    let released = Mutex::new(released);
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = syncs.clone();
    let mut destination = FileDestination::new(settings(&folder));
    destination.sync = Arc::new(move |file| {
        counted.fetch_add(1, Ordering::SeqCst);
        entered.send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        file.sync_data()
    });
    let mut connection = destination.connect(0).await.unwrap();
    send(&mut connection, &["a", "b", "c"]).await;
    assert!(connection.next().now_or_never().is_none());
    tokio::task::spawn_blocking(move || has_entered.recv().unwrap()).await.unwrap();
    // All is written, and nothing is synced.
    assert_eq!(fs::read_to_string(folder.path().join("out")).unwrap(), "a\nb\nc\n");
    assert!(connection.next().now_or_never().is_none());
    release.send(()).unwrap();
    for id in 0..3 {
        assert_eq!(connection.next().await.unwrap(), (DeliveryId(id), Verdict::Delivered));
    }
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
    assert!(connection.next().now_or_never().is_none());
}

#[tokio::test]
async fn failed_sync_is_a_fault_and_leaves_no_line() {
    let folder = TempDir::new().unwrap();
    let mut destination = FileDestination::new(settings(&folder));
    destination.sync = Arc::new(|_| Err(io::Error::from(io::ErrorKind::StorageFull)));
    let mut connection = destination.connect(0).await.unwrap();
    send(&mut connection, &["a"]).await;
    let fault = connection.next().await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Transient, "{fault}");
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), b"");
}

#[tokio::test]
async fn file_is_rotated_before_it_exceeds_its_size() {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(&folder);
    settings.max_size = 8;
    settings.keep = 2;
    let mut connection = open(settings.clone()).await;
    deliver(&mut connection, &["aaa", "bbb", "ccc"]).await;
    deliver(&mut connection, &["ddddddd", "eee", "fff", "ggg"]).await;
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!(read(&settings.path), "ggg\n");
    assert_eq!(read(&rotated(&settings.path, 1)), "eee\nfff\n");
    assert_eq!(read(&rotated(&settings.path, 2)), "ddddddd\n");
    assert!(!rotated(&settings.path, 3).exists());
    // The new file is locked as the first one was.
    assert!(refusal(settings).await.reason.contains("in use by another stream"));
}

#[tokio::test]
async fn torn_line_is_removed_when_the_file_is_opened() {
    for (found, kept) in [("one\ntwo\nthr", "one\ntwo\n"), ("torn", ""), ("", ""), ("one\n", "one\n")] {
        let folder = TempDir::new().unwrap();
        let settings = settings(&folder);
        fs::write(&settings.path, found).unwrap();
        let mut connection = open(settings.clone()).await;
        deliver(&mut connection, &["next"]).await;
        assert_eq!(fs::read_to_string(&settings.path).unwrap(), format!("{kept}next\n"));
    }
}

#[tokio::test]
async fn torn_line_longer_than_a_block_is_removed() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder);
    fs::write(&settings.path, format!("one\n{}", "x".repeat(200_000))).unwrap();
    drop(open(settings.clone()).await);
    assert_eq!(fs::read_to_string(&settings.path).unwrap(), "one\n");
}

#[test]
fn line_end_in_a_body_is_refused_for_lines_only() {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(&folder);
    let lines = FileDestination::new(settings.clone());
    assert!(lines.check(&delivery("a\nb")).unwrap_err().contains("line end"));
    assert_eq!(lines.check(&delivery("a b")), Ok(()));
    settings.format = Format::Json;
    assert_eq!(FileDestination::new(settings).check(&delivery("a\nb")), Ok(()));
}

#[tokio::test]
async fn line_larger_than_the_file_may_be_is_refused() {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(&folder);
    settings.max_size = 4;
    let mut connection = open(settings).await;
    send(&mut connection, &["abcd"]).await;
    let (_, verdict) = connection.next().await.unwrap();
    assert!(matches!(verdict, Verdict::Refused(reply) if reply.0.contains("5 bytes")));
    deliver(&mut connection, &["abc"]).await;
}

#[tokio::test]
async fn second_connection_to_the_same_file_is_a_persistent_fault() {
    let folder = TempDir::new().unwrap();
    let connection = open(settings(&folder)).await;
    let fault = refusal(settings(&folder)).await;
    assert_eq!((fault.kind, fault.cause), (FaultKind::Persistent, Some(Cause::Configuration)));
    assert_eq!(FileDestination::new(settings(&folder)).prove(7).await, Ok(()));
    drop(connection);
    open(settings(&folder)).await;
}

#[tokio::test]
async fn missing_folder_is_a_persistent_fault() {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(&folder);
    settings.path = folder.path().join("no/such");
    let fault = refusal(settings.clone()).await;
    assert_eq!((fault.kind, fault.cause), (FaultKind::Persistent, Some(Cause::Configuration)));
    assert!(FileDestination::new(settings).prove(7).await.is_err());
}

#[tokio::test]
async fn removed_file_is_noticed_before_anything_counts_as_delivered() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder);
    let mut connection = open(settings.clone()).await;
    deliver(&mut connection, &["one"]).await;
    fs::remove_file(&settings.path).unwrap();
    send(&mut connection, &["two"]).await;
    assert_eq!(connection.next().await.unwrap_err().kind, FaultKind::Transient);
    deliver(&mut open(settings.clone()).await, &["two"]).await;
    assert_eq!(fs::read_to_string(&settings.path).unwrap(), "two\n");
}

#[test]
fn json_lines_have_all_parts_of_a_delivery() {
    let identity = Identity { key: "k".into(), positions: "1/0".into() };
    let whole = Delivery {
        target: Some("up".into()),
        headers: vec![("a".into(), "b".into())],
        body: Bytes::from_static(b"x\n"),
        identity: Some(identity),
    };
    let line = |delivery: &Delivery| String::from_utf8(line::of(Format::Json, delivery).unwrap()).unwrap();
    assert_eq!(
        line(&whole),
        "{\"target\":\"up\",\"headers\":[[\"a\",\"b\"]],\"body\":\"x\\n\",\"key\":\"k\",\"positions\":\"1/0\"}\n"
    );
    assert_eq!(line(&delivery(Bytes::from_static(&[0xff]))), "{\"body_base64\":\"/w==\"}\n");
}

#[test]
fn base64_is_that_of_the_standard() {
    for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever the sizes and the batches, the newest lines are in the files in
    /// order, whole, and no file is larger than allowed.
    #[test]
    fn files_have_the_newest_lines_in_order(
        batches in prop::collection::vec(prop::collection::vec(0_usize..30, 1..6), 1..12),
        torn in 0_usize..5,
    ) {
        let folder = TempDir::new().unwrap();
        let settings = FileSettings { max_size: 64, keep: 2, ..settings(&folder) };
        let mut written = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            let lines: Vec<String> =
                batch.iter().enumerate().map(|(n, size)| format!("{number}.{n}.{}\n", "x".repeat(*size))).collect();
            let mut writer = Writer::open(&settings, Arc::new(fs::File::sync_data)).unwrap();
            writer.append(&lines).unwrap();
            drop(writer);
            written.extend(lines);
            // A crash in the middle of the next line.
            let mut file = fs::OpenOptions::new().append(true).open(&settings.path).unwrap();
            io::Write::write_all(&mut file, &vec![b'?'; torn]).unwrap();
        }
        drop(Writer::open(&settings, Arc::new(fs::File::sync_data)).unwrap());
        let mut found = String::new();
        for path in [rotated(&settings.path, 2), rotated(&settings.path, 1), settings.path.clone()] {
            let text = fs::read_to_string(path).unwrap_or_default();
            prop_assert!(text.len() <= 64);
            found.push_str(&text);
        }
        let all = written.concat();
        prop_assert!(all.ends_with(&found));
        prop_assert!(found.is_empty() || found.ends_with('\n'));
        prop_assert!(all.len() == found.len() || found.len() > 64);
    }
}
