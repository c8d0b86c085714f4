//! Every message reaches each of the five destinations.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluicegate_tests::PATIENCE;
use sluicegate_tests::broker::{Broker, BrokerOptions};
use sluicegate_tests::certificates::Certificates;
use sluicegate_tests::fleet::{Fleet, arrivals_in};
use sluicegate_tests::gateway::{Folder, Gateway, signal};
use sluicegate_tests::proxy::{Flow, Link, Proxy};
use sluicegate_tests::publisher::Publisher;
use sluicegate_tests::receiver::{Kind, stream_file};
use sluicegate_tests::steady::Steady;
use sluicegate_tests::subscriber::Subscriber;
use standins::aws::AwsStandin;
use standins::certificates::server_config;
use standins::http::HttpStandin;
use standins::wialon::Value as WialonValue;
use standins::{Inbox, Received};

use crate::one_stream;

const FLEET: Fleet = Fleet::new(7, 400);

/// Publishes the fleet and waits until all of it is delivered, once.
async fn deliver(broker: &Broker, gateway: &Gateway, fleet: Fleet) {
    Publisher::connect(broker).publish_all(fleet.all()).await;
    let stream = gateway.until_settled("stream", fleet.messages).await;
    assert_eq!((stream.read, stream.delivered), (fleet.messages, fleet.messages), "{stream:?}");
    assert_eq!(stream.state, "running");
}

#[tokio::test]
async fn thingsboard_gets_every_value_of_devices_that_were_connected_first() {
    let (broker, gateway, receiver) = one_stream(Kind::ThingsBoard).await;
    deliver(&broker, &gateway, FLEET).await;
    // The stand-in would have complained of data before its device's connect.
    FLEET.assert_arrived(&arrivals_in(&receiver.inbox));
    let all = receiver.inbox.all();
    let connects = all.iter().filter(|r| matches!(r, Received::DeviceConnected { .. })).count();
    assert_eq!(connects, 7, "one for each device");
    for received in &all {
        let Received::Telemetry { values, .. } = received else { continue };
        let number = values["n"].as_u64().unwrap();
        for (key, value) in FLEET.message(number).as_object().unwrap() {
            // These two are the device and the time of the entry.
            if !matches!(key.as_str(), "ident" | "timestamp") {
                assert_eq!(values.get(key), Some(value), "{key} of message {number}");
            }
        }
    }
}

#[tokio::test]
async fn thingsboard_devices_are_connected_again_in_a_new_connection() {
    let (broker, gateway, receiver) = one_stream(Kind::ThingsBoard).await;
    let fleet = Fleet::new(3, 60);
    let publisher = Publisher::connect(&broker);
    publisher.publish_all(fleet.some(0..30)).await;
    gateway.until_settled("stream", 30).await;
    receiver.plug().cut().await.unwrap();
    publisher.publish_all(fleet.some(30..60)).await;
    gateway.until_settled("stream", 60).await;
    fleet.assert_arrived(&arrivals_in(&receiver.inbox));
    let connects =
        receiver.inbox.all().iter().filter(|r| matches!(r, Received::DeviceConnected { .. })).count();
    assert!(connects >= 6, "three devices in two connections, but {connects} connects");
    assert!(receiver.plug().connections() >= 2);
}

#[tokio::test]
async fn wialon_gets_every_packet() {
    let (broker, gateway, receiver) = one_stream(Kind::Wialon).await;
    deliver(&broker, &gateway, FLEET).await;
    FLEET.assert_arrived(&arrivals_in(&receiver.inbox));
    for received in receiver.inbox.all() {
        let Received::Packet(packet) = received else { panic!("{received:?}") };
        let block = |name: &str| packet.blocks.iter().find(|block| block.name == name).map(|b| &b.value);
        let Some(WialonValue::Posinfo(position)) = block("posinfo") else { panic!("{packet:?}") };
        let Some(WialonValue::Int32(number)) = block("n") else { panic!("{packet:?}") };
        assert_eq!((position.lat, position.lon, position.sats), (52.5, 13.25, 9));
        assert_eq!(i32::from(position.speed), number % 90);
        assert!(
            matches!(block("fuel_level"), Some(WialonValue::Double(level)) if *level == 41.75),
            "{packet:?}"
        );
    }
}

#[tokio::test]
async fn http_gets_every_object() {
    let (broker, gateway, receiver) = one_stream(Kind::Http).await;
    deliver(&broker, &gateway, FLEET).await;
    assert_eq!(FLEET.assert_arrived(&arrivals_in(&receiver.inbox)), 0, "nothing comes twice");
    for received in receiver.inbox.all() {
        let Received::Request { target, objects, .. } = received else { panic!("{received:?}") };
        assert_eq!(target, "/in");
        assert!(objects.len() <= 10, "limit_messages is 10, a request has {}", objects.len());
    }
}

#[tokio::test]
async fn http_bodies_are_compressed_where_the_stream_says_so() {
    let inbox = Inbox::default();
    let standin = HttpStandin::start(inbox.clone(), None).await.unwrap();
    let broker = Broker::start().await;
    let destination = format!("url = \"http://{}/in\"\ngzip = true", standin.address());
    let folder =
        Folder::new().bus(&broker.url()).stream("stream", &stream_file(Kind::Http, "", &destination));
    let gateway = folder.start().await;
    deliver(&broker, &gateway, FLEET).await;
    FLEET.assert_arrived(&arrivals_in(&inbox));
    let mut compressed = 0;
    for received in inbox.all() {
        let Received::Request { headers, objects, .. } = received else { panic!("{received:?}") };
        let gzip = headers.iter().any(|(name, value)| name == "content-encoding" && value == "gzip");
        // The limit is 1 KiB, and a message has about 250 bytes.
        match objects.len() {
            ..=3 => assert!(!gzip, "{} small objects are compressed", objects.len()),
            6.. => assert!(gzip, "{} objects are not compressed", objects.len()),
            _ => {}
        }
        compressed += usize::from(gzip);
    }
    assert!(compressed > 0, "each request had few messages");
}

#[tokio::test]
async fn https_with_a_private_authority_headers_and_a_secret_from_a_file() {
    let folder = Folder::new();
    let certificates = Certificates::create(folder.path());
    let tls = server_config(&certificates.server, None, &[]).unwrap();
    let inbox = Inbox::default();
    let standin = HttpStandin::start(inbox.clone(), Some(tls)).await.unwrap();
    let broker = Broker::start().await;
    let destination = format!(
        "url = \"https://localhost:{}/in?tenant=7\"\nca = \"{}\"\n\
         headers = {{ x-fleet = \"north\", authorization = {{ file = \"token.txt\" }} }}",
        standin.address().port(),
        certificates.file("ca.pem").display()
    );
    let folder = folder
        .bus(&broker.url())
        .file("streams/token.txt", "Bearer s3cret\n")
        .stream("stream", &stream_file(Kind::Http, "", &destination));
    let gateway = folder.start().await;
    let fleet = Fleet::new(5, 200);
    deliver(&broker, &gateway, fleet).await;
    fleet.assert_arrived(&arrivals_in(&inbox));
    for received in inbox.all() {
        let Received::Request { target, headers, .. } = received else { panic!("{received:?}") };
        assert_eq!(target, "/in?tenant=7");
        for (name, value) in [("x-fleet", "north"), ("authorization", "Bearer s3cret")] {
            assert!(headers.iter().any(|(n, v)| n == name && v == value), "{name} in {headers:?}");
        }
    }
    let log = serde_json::to_string(&gateway.log_lines()).unwrap();
    assert!(!log.contains("s3cret"), "the log shows the secret");
}

#[tokio::test]
async fn unknown_authority_blocks_stream_without_loss() {
    let folder = Folder::new();
    let certificates = Certificates::create(folder.path());
    let tls = server_config(&certificates.server, None, &[]).unwrap();
    let inbox = Inbox::default();
    let standin = HttpStandin::start(inbox.clone(), Some(tls)).await.unwrap();
    let broker = Broker::start().await;
    let stranger = tempfile::tempdir().unwrap();
    let stranger = Certificates::create(stranger.path());
    let destination = format!(
        "url = \"https://localhost:{}/in\"\nca = \"{}\"",
        standin.address().port(),
        certificates.file("other.pem").display()
    );
    let folder = folder
        .bus(&broker.url())
        .file("other.pem", &stranger.authority.certificate)
        .stream("stream", &stream_file(Kind::Http, "", &destination));
    let gateway = folder.start().await;
    Publisher::connect(&broker).publish_all(Fleet::new(1, 10).all()).await;
    let stream = gateway.until("stream", "blocked", |s| s.read == 10 && s.troubled_by("ertificate")).await;
    assert_eq!((stream.state.as_str(), stream.queued), ("blocked", 10), "{stream:?}");
}

#[tokio::test]
async fn mqtt_through_a_second_mosquitto() {
    let broker = Broker::start().await;
    let far = Broker::start().await;
    let inbox = Inbox::default();
    let _subscriber = Subscriber::start(&far, "out/#", inbox.clone()).await;
    let destination = format!("url = \"{}\"", far.url());
    let stream = stream_file(Kind::Mqtt, "topic = \"out/{ident}\"", &destination);
    let gateway = Folder::new().bus(&broker.url()).stream("stream", &stream).start().await;
    deliver(&broker, &gateway, FLEET).await;
    let count = usize::try_from(FLEET.messages).unwrap();
    assert!(inbox.wait_until(PATIENCE, |all| all.len() >= count).await);
    assert_eq!(FLEET.assert_arrived(&arrivals_in(&inbox)), 0, "nothing comes twice");
    for received in inbox.all() {
        let Received::Publish { topic, payload, .. } = received else { panic!("{received:?}") };
        let object: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(topic, format!("out/{}", object["ident"].as_str().unwrap()));
    }
}

/// The destination is a real broker that is killed again and again in the
/// middle of what it is sent, and frozen until the gateway has given it up.
///
/// mosquitto acknowledges before it persists: what it forgets that way nobody
/// can send again. So before it is killed it saves what it has acknowledged,
/// and what it acknowledges from then on reaches nobody.
#[tokio::test]
async fn killed_and_frozen_mosquitto_gets_every_message() {
    let broker = Broker::start().await;
    let mut far = Broker::start_with(BrokerOptions { persistence: true, ..BrokerOptions::default() }).await;
    let link = Proxy::start(([127, 0, 0, 1], far.port()).into()).await;
    let inbox = Inbox::default();
    let _subscriber = Subscriber::start_lasting(&far, "out/#", inbox.clone()).await;
    let destination = format!("url = \"mqtt://{}\"\ntimeout = \"1s\"", link.address());
    let stream = stream_file(Kind::Mqtt, "topic = \"out/{ident}\"", &destination);
    let gateway = Folder::new().bus(&broker.url()).stream("stream", &stream).start().await;
    let fleet = Fleet::new(7, u64::MAX);
    let steady = Steady::start(broker.port(), fleet, 200);
    for round in 0..6 {
        let before = inbox.all().len();
        assert!(inbox.wait_until(PATIENCE, |all| all.len() >= before + 100).await, "round {round}: it flows");
        if round % 3 == 2 {
            signal(far.process(), "STOP");
            gateway.until("stream", "the destination is given up", |s| s.state == "retrying").await;
            signal(far.process(), "CONT");
        } else {
            link.set(Link { to_client: Flow::Swallowed, ..Link::default() }).await;
            far.save().await;
            far.kill().await;
            far.resume().await;
            link.heal().await;
        }
    }
    let messages = steady.finish().await;
    let repeats = Fleet { messages, ..fleet }.until_arrived(&inbox).await;
    println!("{messages} messages, {repeats} repeats");
    assert!(repeats > 0, "what was under way when it was killed comes again");
    let stream = gateway.until_settled("stream", messages).await;
    assert_eq!((stream.dead_lettered, stream.delivered), (0, stream.read), "{stream:?}");
}

#[tokio::test]
async fn mqtt_with_lanes_keeps_the_order_of_each_device() {
    let (broker, gateway, receiver) = {
        let folder = Folder::new();
        let mut receiver = sluicegate_tests::receiver::Receiver::start(Kind::Mqtt, folder.path()).await;
        receiver.stream.push_str("[delivery]\nlanes = 4\n");
        let (broker, gateway) = crate::to_receiver(folder, &receiver).await;
        (broker, gateway, receiver)
    };
    let fleet = Fleet::new(13, 1500);
    deliver(&broker, &gateway, fleet).await;
    assert_eq!(fleet.assert_arrived(&arrivals_in(&receiver.inbox)), 0, "nothing comes twice");
    assert!(receiver.plug().connections() >= 4, "each lane has a connection");
}

/// Every message also goes to a topic of its own, so that nothing coalesces
/// there; the shadows end with the newest message.
#[tokio::test]
async fn aws_iot_gets_shadows_and_a_publish_of_each_message() {
    let folder = Folder::new();
    let certificates = Certificates::create(folder.path());
    let tls = server_config(&certificates.server, Some(&certificates.authority), &[]).unwrap();
    let inbox = Inbox::default();
    let standin = AwsStandin::start(inbox.clone(), tls).await.unwrap();
    let broker = Broker::start().await;
    let settings = "thing_name = \"fleet-{ident}\"\nmqtt_topic = \"fleet/{ident}\"";
    let destination = format!(
        "url = \"mqtts://localhost:{}\"\nreject_window = \"200ms\"\n{}",
        standin.port(),
        certificates.client_lines()
    );
    let stream = stream_file(Kind::AwsIot, settings, &destination);
    let gateway = folder.bus(&broker.url()).stream("stream", &stream).start().await;
    let fleet = Fleet::new(5, 150);
    deliver(&broker, &gateway, fleet).await;
    // The stand-in checks SNI, certificate, rate, topics and documents.
    fleet.assert_arrived(&arrivals_in(&inbox));
    let mut versions = BTreeSet::new();
    for received in inbox.all() {
        if let Received::Shadow(update) = received {
            assert!(versions.insert((update.thing.clone(), update.version)));
        }
    }
    for number in 145..150 {
        let thing = format!("fleet-{}", fleet.device(number));
        let reported = &standin.shadow(&thing, None).unwrap()["reported"];
        assert_eq!(reported["n"].as_u64(), Some(number), "{thing} ends with the newest message");
        assert_eq!(reported["text"], "naïve ☃");
    }
    assert!(versions.len() < 150, "updates of one thing coalesce, but there were {}", versions.len());
}

/// AWS IoT takes 100 publishes a second of a connection, which the stand-in
/// checks; eight lanes are eight connections.
#[tokio::test]
async fn lanes_lift_the_rate_of_an_aws_iot_connection() {
    let folder = Folder::new();
    let certificates = Certificates::create(folder.path());
    let tls = server_config(&certificates.server, Some(&certificates.authority), &[]).unwrap();
    let standin = AwsStandin::start(Inbox::default(), tls).await.unwrap();
    let broker = Broker::start().await;
    let destination = format!(
        "url = \"mqtts://localhost:{}\"\nreject_window = \"200ms\"\n{}\n[delivery]\nlanes = 8\n",
        standin.port(),
        certificates.client_lines()
    );
    let stream = stream_file(Kind::AwsIot, "thing_name = \"{ident}\"", &destination);
    let gateway = folder.bus(&broker.url()).stream("stream", &stream).start().await;
    let fleet = Fleet::new(2000, 2000);
    let began = Instant::now();
    deliver(&broker, &gateway, fleet).await;
    let took = began.elapsed();
    for number in 0..fleet.messages {
        assert_eq!(standin.shadow(&fleet.device(number), None).unwrap()["reported"]["n"], number);
    }
    assert!(took < Duration::from_secs(15), "one connection takes 20 s for these, eight took {took:?}");
}
