//! What the demo runs against: the broker, the five fake receivers, and a
//! configuration folder like any other for the gateway between them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use bus::embedded;
use bytes::Bytes;
use standins::Inbox;
use standins::aws::AwsStandin;
use standins::certificates::{Authority, server_config};
use standins::http::{HttpStandin, Mode};
use standins::mqtt::MqttStandin;
use standins::thingsboard::ThingsBoardStandin;
use standins::wialon::WialonStandin;

use super::ledger::{Receiver, TOPICS};

/// An error text for the person who started the demo.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Text that makes the HTTP receiver refuse a message.
pub const REFUSED_TEXT: &str = "this is the poisoned message";

/// Longest packet that the broker takes.
pub const MAX_PACKET: u32 = 1 << 20;

/// The fake receivers and the folder. The folder stays on disk, for inspection.
pub struct Site {
    /// Configuration, data and log of the gateway.
    pub folder: PathBuf,
    /// `sluicegate.toml` in it.
    pub config: PathBuf,
    /// The gateway's log in it.
    pub log: PathBuf,
    /// Where the broker listens: in this process, so that it outlives the
    /// gateway.
    pub broker: SocketAddr,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// The inbox of each receiver, in the order of [`Receiver::ALL`].
    pub inboxes: [Inbox; 5],
    /// The receiver that is unplugged.
    pub wialon: WialonStandin,
    _aws: AwsStandin,
    _thingsboard: ThingsBoardStandin,
    _http: HttpStandin,
    _mqtt: MqttStandin,
}

/// The stream of a receiver.
pub fn stream_name(receiver: Receiver) -> &'static str {
    match receiver {
        Receiver::Aws => "aws",
        Receiver::ThingsBoard => "thingsboard",
        Receiver::Wialon => "wialon",
        Receiver::Http => "http",
        Receiver::Mqtt => "mqtt",
    }
}

impl Site {
    /// Starts the fake receivers and writes the folder.
    pub async fn set_up() -> Result<Self, Error> {
        let inboxes: [Inbox; 5] = Default::default();
        let inbox = |receiver: Receiver| inboxes[receiver as usize].clone();

        let authority = Authority::new("Sluicegate demo CA")?;
        let server = authority.server(&["localhost"])?;
        let gateway = authority.client("gateway")?;
        let token = format!("{:032x}", fastrand::u128(..));

        let aws =
            AwsStandin::start(inbox(Receiver::Aws), server_config(&server, Some(&authority), &[])?).await?;
        let thingsboard = ThingsBoardStandin::start(inbox(Receiver::ThingsBoard), &token).await?;
        let wialon = WialonStandin::start(inbox(Receiver::Wialon)).await?;
        let http = HttpStandin::start(inbox(Receiver::Http), None).await?;
        http.set_mode(Mode::RefuseText(REFUSED_TEXT.to_owned()));
        let mqtt = MqttStandin::start(inbox(Receiver::Mqtt), None).await?;
        let (broker, admin) = free_addresses()?;
        embedded::start(broker, MAX_PACKET).await?;

        let folder = std::env::temp_dir().join(format!("sluicegate-demo-{}", std::process::id()));
        let write = |name: &str, text: &str| write_private(&folder.join(name), text);
        std::fs::create_dir_all(folder.join("streams"))?;
        write("ca.pem", &authority.certificate)?;
        write("gateway.crt", &gateway.certificate)?;
        write("gateway.key", &gateway.key)?;
        write("thingsboard.token", &token)?;
        write("sluicegate.toml", &gateway_toml(broker, admin))?;
        std::fs::create_dir_all(folder.join("mapper"))?;
        write("mapper/adapter.toml", &adapter_toml(TOPICS[0]))?;
        std::fs::write(folder.join(MAPPER), mapper()?)?;
        let destinations = [
            (Receiver::Aws, aws_toml(aws.port())),
            (Receiver::ThingsBoard, thingsboard_toml(thingsboard.port())),
            (Receiver::Wialon, wialon_toml(&wialon.url())),
            (Receiver::Http, http_toml(http.address())),
            (Receiver::Mqtt, mqtt_toml(mqtt.port())),
        ];
        for (receiver, rest) in destinations {
            let text = format!("topics = [\"flespi/message/gw/devices/+\"]\nkey = \"ident\"\n{rest}");
            write(&format!("streams/{}.toml", stream_name(receiver)), &text)?;
        }
        Ok(Self {
            config: folder.join("sluicegate.toml"),
            log: folder.join("gateway.log"),
            folder,
            broker,
            admin,
            inboxes,
            wialon,
            _aws: aws,
            _thingsboard: thingsboard,
            _http: http,
            _mqtt: mqtt,
        })
    }
}

impl Site {
    /// Saves the adapter for MQTT with another topic.
    pub fn edit_script(&self) -> io::Result<()> {
        write_private(&self.folder.join("mapper/adapter.toml"), &adapter_toml(TOPICS[1]))
    }

    /// Writes half of its WebAssembly over it.
    pub fn break_script(&self) -> Result<(), Error> {
        let wasm = mapper()?;
        let half = wasm.get(..wasm.len() / 2).unwrap_or_default();
        Ok(std::fs::write(self.folder.join(MAPPER), half)?)
    }
}

/// The WebAssembly of the adapter for MQTT: that of the official one, in a
/// folder of its own like any adapter.
const MAPPER: &str = "mapper/my-mapper.wasm";

fn mapper() -> Result<Bytes, Error> {
    let official = adapters::official("mqtt-json").ok_or("the adapter mqtt-json is not in this program")?;
    Ok(official.wasm.clone())
}

/// The manifest of that adapter.
fn adapter_toml(topic: &str) -> String {
    format!(
        "name = \"my-mapper\"\nversion = \"1.0.0\"\ndescription = \"Publishes each message as it is\"\n\
         destinations = [\"mqtt\"]\n\n[settings]\ntype = \"object\"\n\n\
         [settings.properties.topic]\ntype = \"string\"\ndescription = \"Where a message is published\"\n\
         default = \"{topic}\"\n"
    )
}

fn gateway_toml(broker: SocketAddr, admin: SocketAddr) -> String {
    format!(
        "[bus]\nurl = \"mqtt://{broker}\"\nclient_id = \"sluicegate-demo\"\n\n\
         [admin]\nlisten = \"{admin}\"\n"
    )
}

fn aws_toml(port: u16) -> String {
    format!(
        "\n[script.settings]\nthing_name = \"{{ident}}\"\n\n\
         [destination]\ntype = \"aws-iot\"\nurl = \"mqtts://localhost:{port}\"\n\
         ca = \"../ca.pem\"\ncert = \"../gateway.crt\"\nkey = \"../gateway.key\"\n"
    )
}

fn thingsboard_toml(port: u16) -> String {
    format!(
        "\n[script.settings]\ndevice_type = \"vehicle\"\nattributes = [\"device.name\", \"device.type.id\"]\n\n\
         [destination]\ntype = \"thingsboard\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         access_token = {{ file = \"../thingsboard.token\" }}\n"
    )
}

fn wialon_toml(url: &str) -> String {
    format!("\n[destination]\ntype = \"wialon\"\nurl = \"{url}\"\n")
}

fn http_toml(address: SocketAddr) -> String {
    format!("\n[destination]\ntype = \"http\"\nurl = \"http://{address}/flespi\"\n")
}

fn mqtt_toml(port: u16) -> String {
    format!(
        "\n[script]\npath = \"../mapper\"\n\n\
         [destination]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{port}\"\n"
    )
}

/// Two ports that are unused now. The gateway binds them a moment later.
fn free_addresses() -> io::Result<(SocketAddr, SocketAddr)> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok((first.local_addr()?, second.local_addr()?))
}

/// Readable only by this user: keys and tokens are among the files.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}
