//! Two streams, one unusable file and three dead letters, for tests.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;

use bytes::Bytes;
use journal::{
    Append, DeadLetter, Journal, Outcome, Position, Settlement, Simulated, StoredDelivery, StreamIndex,
};
use message::Message;
use settings::{Config, StreamEntry};
use tempfile::TempDir;

use super::{Operated, Operations};

/// When the first dead letter was given up; each further one came a second later.
pub const AT: u64 = 1_700_000_000_000;

/// A folder with `sluicegate.toml`, and a journal on a simulated disk.
pub struct Site {
    /// The folder; its data folder is there and empty.
    pub folder: TempDir,
    /// What the files say.
    pub config: Config,
    /// The journal.
    pub journal: Journal,
}

impl Site {
    /// Streams `fleet-to-web` (0) and `yard` (1), and `broken`, whose file
    /// cannot be used. `yard` has one message queued.
    pub async fn new(admin: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        for name in ["streams", "data"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let main = "[bus]\nurl = \"mqtt://broker\"\nclient_id = \"gw\"\n";
        write("sluicegate.toml", &format!("{main}[admin]\nlisten = \"{admin}\"\n"));
        let web = "topics = [\"fleet/+\"]\nkey = \"ident\"\nexcept = [\"7\"]\n[destination]\ntype = \"http\"\n\
                   url = \"https://web.example/in?token=hidden\"\n";
        write("streams/fleet-to-web.toml", web);
        write("streams/yard.toml", "topics = [\"yard\"]\n[destination]\ntype = \"wialon\"\n");
        write("streams/broken.toml", "topics = []\n");
        let config = Config::load(Some(&folder.path().join("sluicegate.toml"))).unwrap();
        let journal = Journal::simulated(Simulated::new(2));
        let site = Self { folder, config, journal };
        site.bury(0, "{\"ident\":1}", Some(("400 Bad Request: no", b"{}"))).await;
        site.bury(0, "half", None).await;
        site.bury(1, "\u{1}", Some(("closed", b"\xff"))).await;
        let waits = Message { topic: "yard".into(), payload: Bytes::new(), received_at: AT };
        drop(site.journal.append(vec![Append { message: waits, streams: vec![StreamIndex(1)] }]).await);
        site
    }

    async fn bury(&self, stream: u32, payload: &str, refused: Option<(&str, &'static [u8])>) {
        let chunk = [0, 1].map(|s| self.journal.counters(StreamIndex(s)).read).iter().sum();
        let message =
            Message { topic: "fleet/9".into(), payload: payload.to_owned().into(), received_at: AT };
        let stream = StreamIndex(stream);
        let ticket =
            self.journal.append(vec![Append { message: message.clone(), streams: vec![stream] }]).await;
        let position = Position { chunk, index: 0 };
        let letter = DeadLetter {
            position,
            at: AT + chunk * 1_000,
            reason: "it was refused".to_owned(),
            script: "http-json 0123".to_owned(),
            message,
            delivery: refused.map(|(_, body)| StoredDelivery {
                target: None,
                headers: vec![("x-a".to_owned(), "b".to_owned())],
                body: Bytes::from_static(body),
            }),
            reply: refused.map(|(reply, _)| reply.to_owned()),
        };
        let ended = vec![(position, Outcome::DeadLettered)];
        self.journal
            .settle(stream, Settlement { ended, dead_letters: vec![letter], ..Settlement::default() });
        ticket.await.unwrap();
    }

    /// The operations on that journal.
    pub fn operations(&self) -> Operations {
        let mut next = 0;
        let operated = self.config.streams.iter().map(|entry| match entry {
            StreamEntry::Ready(settings) => {
                next += 1;
                Operated::new(StreamIndex(next - 1), settings, None)
            }
            StreamEntry::Unusable { name, errors } => Operated::unusable(name, errors),
        });
        let operated = operated.collect();
        Operations::new(self.journal.clone(), operated, None)
    }
}
