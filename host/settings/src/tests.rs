//! Configurations that are right.

use std::fs;
use std::time::Duration;

use bus::BusSource;
use destination::aws_iot::AwsIotSettings;
use destination::http::{HttpMethod, HttpSettings};
use destination::mqtt::MqttSettings;
use destination::thingsboard::ThingsBoardSettings;
use destination::wialon::WialonSettings;
use journal::{OnFull, Quota, SyncMode};
use message::{KeyRule, Selection};
use script::{Columns, TableSettings};

use super::*;

const MAIN: &str = "[bus]\nurl = \"mqtt://127.0.0.1:1883\"\nclient_id = \"sluicegate-1\"\n";

/// A folder with these files, read.
fn read(files: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let config = Config::load(Some(&folder.path().join("sluicegate.toml"))).unwrap();
    let errors: Vec<String> = config.stream_errors().map(ToString::to_string).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    (folder, config)
}

fn only_stream(config: &Config) -> Arc<StreamSettings> {
    match &config.streams[..] {
        [StreamEntry::Ready(settings)] => settings.clone(),
        other => panic!("one stream was expected: {other:?}"),
    }
}

#[test]
fn the_least_that_is_needed() {
    let (folder, config) = read(&[("sluicegate.toml", MAIN)]);
    assert_eq!(config.data, folder.path().join("data"));
    assert_eq!(config.admin.unwrap().listen.to_string(), "127.0.0.1:8080");
    assert!(config.streams.is_empty());
    let bus = config.bus;
    assert!(matches!(bus.source, BusSource::Mqtt(url) if url.to_string() == "mqtt://127.0.0.1:1883"));
    assert_eq!(bus.session_expiry, Duration::from_secs(7 * 86_400));
    assert_eq!((bus.receive_maximum, bus.window_messages, bus.window_bytes), (10_000, 10_000, 16 << 20));
    let journal = JournalSettings {
        path: folder.path().join("data/journal"),
        max_size: 10 << 30,
        keep: Duration::from_secs(3600),
        sync: SyncMode::Always,
        dead_letters_max_size: 256 << 20,
    };
    assert_eq!(config.journal, journal);
    assert!(config.rate_limit_groups.is_empty());
}

#[test]
fn dead_letters_take_no_more_than_half_of_the_journal() {
    for (text, most) in [
        ("[journal]\nmax_size = \"64MiB\"\n", 32 << 20),
        ("[journal]\nmax_size = \"512MiB\"\n", 256 << 20),
        ("[journal]\nmax_size = \"1024GiB\"\n", 256 << 20),
        ("[journal]\nmax_size = \"64MiB\"\n[dead_letters]\nmax_size = \"32MiB\"\n", 32 << 20),
    ] {
        let (_folder, config) = read(&[("sluicegate.toml", &format!("{MAIN}{text}"))]);
        assert_eq!(config.journal.dead_letters_max_size, most, "{text}");
    }
}

const STREAM: &str = "topics = [\"a\"]\n[destination]\ntype = \"http\"\nurl = \"http://x\"\n";

#[test]
fn pressure_is_off_unless_it_is_asked_for() {
    let main = format!("{MAIN}[journal]\nmax_size = \"1GiB\"\n");
    let (_folder, config) = read(&[("sluicegate.toml", &main), ("streams/a.toml", STREAM)]);
    let quota = Quota { max_backlog: (1 << 30) / 5, on_full: OnFull::ExpireOldest };
    assert_eq!(only_stream(&config).delivery, DeliverySettings { quota, ..DeliverySettings::default() });
}

#[test]
fn the_keys_of_pressure() {
    let main = format!(
        "{MAIN}[journal]\npath = \"/j\"\nmax_size = \"1GiB\"\nkeep = \"0s\"\nsync = \"none\"\n\
         [dead_letters]\nmax_size = \"1MiB\"\n[rate_limit_groups]\naws = \"500/s\"\nslow = \"30/min\"\n"
    );
    let stream = format!(
        "{STREAM}[delivery]\nqueue_ttl = \"2h\"\nrate_limit = \"100/s\"\nrate_limit_group = \"aws\"\n\
         backlog_rate_limit = \"90/min\"\nlive_first = true\nconflate = true\nmin_interval = \"5s\"\n\
         max_backlog = \"1GiB\"\non_full = \"block\"\n"
    );
    let conflate_only = format!("{STREAM}[delivery]\nconflate = true\n");
    let (_folder, config) = read(&[("sluicegate.toml", &main), ("streams/a.toml", &stream)]);
    assert_eq!(config.journal.path, Path::new("/j"));
    assert_eq!((config.journal.keep, config.journal.sync), (Duration::ZERO, SyncMode::None));
    assert_eq!(config.journal.dead_letters_max_size, 1 << 20);
    let groups: Vec<_> = config.rate_limit_groups.iter().map(|(n, r)| format!("{n} {r}")).collect();
    assert_eq!(groups, ["aws 500/s", "slow 30/min"]);
    let delivery = &only_stream(&config).delivery;
    assert_eq!(delivery.queue_ttl, Some(Duration::from_secs(7200)));
    assert_eq!(delivery.rate_limit.map(Rate::per_second), Some(100.0));
    assert_eq!(delivery.rate_limit_group.as_deref(), Some("aws"));
    assert_eq!(delivery.backlog_rate_limit.map(Rate::per_second), Some(1.5));
    assert!(delivery.live_first);
    assert_eq!(delivery.conflate, Some(Duration::from_secs(5)));
    assert_eq!(delivery.quota, Quota { max_backlog: 1 << 30, on_full: OnFull::Block });
    let (_folder, config) = read(&[("sluicegate.toml", MAIN), ("streams/a.toml", &conflate_only)]);
    assert_eq!(only_stream(&config).delivery.conflate, Some(Duration::from_secs(1)));
}

#[test]
fn the_embedded_broker_needs_no_more_than_its_name() {
    let main = "data = \"/var/lib/gateway\"\n[bus]\nurl = \"embedded\"\n[admin]\nlisten = \"off\"\n";
    let (_folder, config) = read(&[("sluicegate.toml", main)]);
    let listen = "127.0.0.1:1883".parse().unwrap();
    assert_eq!(config.bus.source, BusSource::Embedded { listen });
    assert!(config.admin.is_none());
    assert_eq!(config.data, Path::new("/var/lib/gateway"));
}

#[test]
fn a_stream_to_aws() {
    let stream = r#"
        topics = ["flespi/message/gw/devices/+"]
        key = "ident"
        only = { file = "acme.txt" }
        [script]
        adapter = "aws-shadow"
        [script.settings]
        thing_name = "{ident}"
        max_document = 4096
        fields = ["ident", "position.*"]
        [script.limits]
        time = "100ms"
        memory = "16MiB"
        output = "1MiB"
        state = "4MiB"
        log_lines = 5
        [destination]
        type = "aws-iot"
        url = "mqtts://example-ats.iot.eu-central-1.amazonaws.com:443"
        ca = "AmazonRootCA1.pem"
        cert = "gateway.crt"
        key = "gateway.key"
        [delivery]
        lanes = 4
        in_flight = 16
    "#;
    let keys = "\u{feff}# Acme's devices\n352625333222111\n\n  352625333222112  \r\n";
    let (folder, config) = read(&[
        ("sluicegate.toml", MAIN),
        ("streams/fleet-to-aws.toml", stream),
        ("streams/acme.txt", keys),
        ("streams/.fleet.toml", "an editor's own file"),
        ("streams/notes.md", "no stream"),
    ]);
    let settings = only_stream(&config);
    assert_eq!(settings.name, "fleet-to-aws");
    assert_eq!(settings.key, KeyRule::Field("ident".into()));
    let selection = settings.selection.as_ref().unwrap();
    assert!(selection.admits("352625333222111") && selection.admits("352625333222112"));
    assert!(!selection.admits("352625333222113") && !selection.admits(""));
    assert_eq!(settings.script.source, ScriptSource::Official("aws-shadow".into()));
    assert_eq!(
        settings.script.settings.to_string(),
        r#"{"thing_name":"{ident}","max_document":4096,"fields":["ident","position.*"]}"#
    );
    let limits = ScriptLimits {
        time: Some(Duration::from_millis(100)),
        memory: Some(16 << 20),
        output: Some(1 << 20),
        state: Some(4 << 20),
        log_lines: Some(5),
    };
    assert_eq!(settings.script.limits, limits);
    assert_eq!((settings.delivery.lanes, settings.delivery.batch_messages), (4, 128));
    let aws = settings.destination.as_kind::<AwsIotSettings>().unwrap();
    assert_eq!(aws.access.client_id, "sluicegate-1-fleet-to-aws");
    assert_eq!(aws.access.tls.alpn, ["x-amzn-mqtt-ca"]);
    assert_eq!(aws.access.tls.ca, Some(folder.path().join("streams/AmazonRootCA1.pem")));
    assert_eq!(aws.access.in_flight, 16);
    assert_eq!((aws.reject_window, aws.publishes_per_second), (Duration::from_secs(1), 100));
}

#[test]
fn the_type_picks_the_adapter() {
    for (kind, more, adapter) in [
        ("aws-iot", "url = \"mqtts://x:443\"\nusername = \"u\"", "aws-shadow"),
        ("thingsboard", "access_token = { file = \"token\" }", "thingsboard-gateway"),
        ("wialon", "", "wialon-retranslator"),
        ("http", "url = \"http://x\"", "http-json"),
        ("mqtt", "url = \"mqtt://x\"\ntopic = \"up\"", "mqtt-json"),
    ] {
        let stream = format!("topics = [\"a\"]\n[destination]\ntype = \"{kind}\"\n{more}\n");
        let (_folder, config) =
            read(&[("sluicegate.toml", MAIN), ("streams/a.toml", &stream), ("streams/token", "secret\n")]);
        let settings = only_stream(&config);
        assert_eq!(settings.script.source, ScriptSource::Official(adapter.into()));
        assert_eq!(settings.destination.type_name(), kind);
        let destination = &*settings.destination;
        if let Some(aws) = destination.as_kind::<AwsIotSettings>() {
            assert_eq!(aws.access.tls.alpn, ["mqtt"]);
        } else if let Some(board) = destination.as_kind::<ThingsBoardSettings>() {
            assert_eq!(board.access.url.to_string(), "mqtt://demo.thingsboard.io:1883");
            assert_eq!(board.access.username.as_ref().unwrap().expose(), "secret");
        } else if let Some(wialon) = destination.as_kind::<WialonSettings>() {
            assert_eq!((&*wialon.host, wialon.port), ("193.193.165.165", 20163));
            assert_eq!(wialon.timeout, Duration::from_secs(10));
        } else if let Some(http) = destination.as_kind::<HttpSettings>() {
            assert_eq!((http.method, http.gzip, http.flespi), (HttpMethod::Post, false, false));
        } else {
            let mqtt = destination.as_kind::<MqttSettings>().unwrap();
            assert_eq!(mqtt.topic.as_deref(), Some("up"));
        }
        assert!(!format!("{settings:?}").contains("secret\""));
    }
}

#[test]
fn headers_may_be_text_or_references() {
    let stream = "topics = [\"a\"]\nexcept = [\"a/b\"]\n[destination]\ntype = \"http\"\nurl = \"https://x/in?a=b\"\n\
                  compat = \"flespi\"\nmethod = \"PUT\"\n[destination.headers]\nX-Plain = \"text\"\n\
                  Authorization = { file = \"../bearer\" }\n";
    let (_folder, config) =
        read(&[("sluicegate.toml", MAIN), ("streams/a.toml", stream), ("bearer", "Bearer 123\n")]);
    let settings = only_stream(&config);
    assert!(matches!(&settings.selection, Some(s) if s.admits("a") && !s.admits("a/b")));
    let http = settings.destination.as_kind::<HttpSettings>().unwrap();
    let headers: Vec<_> = http.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(headers, [("X-Plain", "text"), ("Authorization", "Bearer 123")]);
    assert!(http.flespi && http.method == HttpMethod::Put);
    assert!(!format!("{settings:?}").contains("Bearer"));
}

#[test]
fn a_customer_with_twenty_thousand_devices() {
    let keys: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let stream =
        "topics = [\"a\"]\nkey = \"ident\"\nonly = { file = \"keys\" }\n[destination]\ntype = \"wialon\"\n";
    let (_folder, config) =
        read(&[("sluicegate.toml", MAIN), ("streams/a.toml", stream), ("streams/keys", &keys)]);
    let settings = only_stream(&config);
    assert!(matches!(&settings.selection, Some(Selection::Only(keys)) if keys.len() == 20_000));
}

#[test]
fn a_key_of_another_certificate_is_told_at_the_key() {
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    };
    let ((one, one_key), (_, other_key)) = (certificate("one"), certificate("other"));
    let stream = "topics = [\"a\"]\n[destination]\ntype = \"aws-iot\"\nurl = \"mqtts://x\"\nca = \"one.pem\"\n\
                  cert = \"one.pem\"\nkey = \"key.pem\"\n";
    let files = [
        ("sluicegate.toml", MAIN),
        ("streams/a.toml", stream),
        ("streams/one.pem", &one),
        ("streams/key.pem", &one_key),
    ];
    let (folder, config) = read(&files);
    assert_eq!(Config::check(Some(&config.path)).unwrap().stream_errors().count(), 0);
    fs::write(folder.path().join("streams/key.pem"), other_key).unwrap();
    let checked = Config::check(Some(&config.path)).unwrap();
    let errors: Vec<String> = checked.stream_errors().map(ConfigError::summary).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("a.toml:7:7: ") && errors[0].contains("keys may not be consistent"),
        "{errors:?}"
    );
}

#[test]
fn tables_are_named_with_their_files_and_columns() {
    let stream = "topics = [\"a\"]\n[destination]\ntype = \"wialon\"\n\
                  [tables.imei_to_id]\nfile = \"gone/x.csv\"\n\
                  [tables.owners]\nfile = \"../y.csv\"\nkey = \"id\"\nvalue = \"owner\"\n";
    // They are read with the script, so that one that comes late is found.
    let (folder, config) = read(&[("sluicegate.toml", MAIN), ("streams/a.toml", stream)]);
    let file = |path: &str| folder.path().join("streams").join(path);
    let columns = Columns { key: Some("id".to_owned()), value: Some("owner".to_owned()) };
    assert_eq!(
        only_stream(&config).script.tables,
        [
            TableSettings {
                name: "imei_to_id".to_owned(),
                file: file("gone/x.csv"),
                columns: Columns::default()
            },
            TableSettings { name: "owners".to_owned(), file: file("../y.csv"), columns },
        ]
    );
}
