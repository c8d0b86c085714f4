//! A stream to a local file.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use sluicegate_tests::broker::Broker;
use sluicegate_tests::fleet::Fleet;
use sluicegate_tests::gateway::Folder;
use sluicegate_tests::publisher::Publisher;

const STREAM: &str = "topics = [\"flespi/message/gw/devices/+\"]\nkey = \"ident\"\n\
                      [destination]\ntype = \"file\"\npath = \"../out.jsonl\"\n\
                      max_size = \"256KiB\"\nkeep = 100\n[delivery]\nin_flight = 16\nrate_limit = \"1000/s\"\n";

/// The numbers of the messages in whole lines of the file and of the rotated
/// ones, and whether a line is torn.
fn numbers(folder: &Path) -> (HashSet<u64>, bool) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let ours = files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("out.jsonl"));
    let (mut numbers, mut torn) = (HashSet::new(), false);
    for path in ours {
        for line in std::fs::read(path).unwrap().split_inclusive(|byte| *byte == b'\n') {
            if line.ends_with(b"\n") {
                let object: Value = serde_json::from_slice(line).unwrap();
                numbers.insert(object["n"].as_u64().unwrap());
            } else {
                torn = true;
            }
        }
    }
    (numbers, torn)
}

#[tokio::test]
async fn killed_gateway_leaves_every_line_whole_and_loses_none() {
    let fleet = Fleet::new(7, 4000);
    let broker = Broker::start().await;
    let mut gateway = Folder::new().bus(&broker.url()).stream("stream", STREAM).start().await;
    Publisher::connect(&broker).publish_all(fleet.all()).await;
    gateway.until("stream", "it has read all", |stream| stream.read == fleet.messages).await;
    let mut delivered = 0;
    for _ in 0..3 {
        let wanted = delivered + 300;
        delivered = gateway
            .until("stream", "it has delivered some more", |stream| stream.delivered >= wanted)
            .await
            .delivered;
        gateway.kill();
        // What counts as delivered was on the disk when it was counted.
        assert!(numbers(gateway.path()).0.len() as u64 >= delivered);
        gateway.restart().await;
    }
    gateway.until_settled("stream", fleet.messages).await;
    gateway.terminate().await;
    assert_eq!(numbers(gateway.path()), ((0..fleet.messages).collect(), false));
}
