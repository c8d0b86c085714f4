//! What a command works on: a running gateway, or its journal.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use admin_api::answer::{
    DropRequest, Forgotten, JournalLine, Letter, LetterFilter, Letters, Messages, Paused, ReplayRequest,
    RewindRequest, Rewound, RollbackRequest, ScriptChange, StreamLine, Taken, Versions,
};
use admin_api::{Client, ClientError};
use bytes::Bytes;
use hyper::Method;
use settings::{Accepted, Config, StreamEntry};
use settings_reader::ConfigErrors;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::{OperateError, Operated, Operations};
use crate::wiring;

/// For a connection on the same machine.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A running gateway, or its journal.
pub enum Target {
    /// The gateway does it.
    Running(Box<Client>),
    /// No gateway runs: the command does it itself.
    Offline(Operations),
}

/// Why a command cannot do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The configuration, which says where the gateway is, cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// No gateway is running, and the journal cannot be opened.
    #[error("{absent}, and the journal in {} cannot be opened: {reason}", folder.display())]
    NoGateway {
        /// Who was asked.
        absent: String,
        /// The journal's folder.
        folder: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The gateway did not do it.
    #[error(transparent)]
    Running(#[from] ClientError),
    /// It cannot be done on the journal.
    #[error(transparent)]
    Offline(#[from] OperateError),
}

impl Target {
    /// Looks for the gateway of this configuration.
    pub async fn find(config: Option<&Path>) -> Result<Self, TargetError> {
        let config = Config::load(config)?;
        let absent = match running(&config).await {
            Ok(client) => return Ok(Self::Running(Box::new(client))),
            Err(absent) => absent,
        };
        let folder = config.journal.path.clone();
        let operations = open_journal(config).await;
        operations.map(Self::Offline).map_err(|reason| TargetError::NoGateway { absent, folder, reason })
    }

    /// Ends the work: what was done on the journal is durable then.
    pub async fn close(self) {
        if let Self::Offline(operations) = self {
            operations.close().await;
        }
    }

    /// Every stream that has a file.
    pub async fn streams(&self) -> Result<Vec<StreamLine>, TargetError> {
        Ok(match self {
            Self::Running(client) => client.read("/streams").await?,
            Self::Offline(operations) => operations.streams(),
        })
    }

    /// The journal as a whole.
    pub async fn journal(&self) -> Result<JournalLine, TargetError> {
        Ok(match self {
            Self::Running(client) => client.read("/journal").await?,
            Self::Offline(operations) => operations.journal(),
        })
    }

    /// Lets a stream's messages wait, or no longer.
    pub async fn pause(&self, stream: &str, paused: bool) -> Result<Paused, TargetError> {
        let word = if paused { "pause" } else { "resume" };
        Ok(match self {
            Self::Running(client) => client.call(Method::POST, &stream_path(stream, word), NO_BODY).await?,
            Self::Offline(operations) => operations.pause(stream, paused).await?,
        })
    }

    /// Lets a stream read again what it has settled.
    pub async fn rewind(&self, stream: &str, request: RewindRequest) -> Result<Rewound, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                client.call(Method::POST, &stream_path(stream, "rewind"), Some(&request)).await?
            }
            Self::Offline(operations) => operations.rewind(stream, request).await?,
        })
    }

    /// Forgets a stream that has no file any more.
    pub async fn forget(&self, stream: &str) -> Result<Forgotten, TargetError> {
        Ok(match self {
            Self::Running(client) => client.call(Method::DELETE, &stream_path(stream, ""), NO_BODY).await?,
            Self::Offline(operations) => operations.forget(stream).await?,
        })
    }

    /// Has a stream's script read again.
    pub async fn reload(&self, stream: &str) -> Result<ScriptChange, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                client.call(Method::POST, &stream_path(stream, "reload"), NO_BODY).await?
            }
            Self::Offline(operations) => operations.reload(stream).await?,
        })
    }

    /// Takes the version of an official adapter that the running binary has.
    pub async fn update(&self, stream: &str) -> Result<ScriptChange, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                client.call(Method::POST, &stream_path(stream, "update"), NO_BODY).await?
            }
            Self::Offline(operations) => operations.update(stream).await?,
        })
    }

    /// Takes a stream back to a version that it has had.
    pub async fn roll_back(&self, stream: &str, to: Option<String>) -> Result<ScriptChange, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                let request = RollbackRequest { to };
                client.call(Method::POST, &stream_path(stream, "rollback"), Some(&request)).await?
            }
            Self::Offline(operations) => operations.roll_back(stream, to).await?,
        })
    }

    /// What another script would change; none: the one that its source has.
    pub async fn compare(&self, stream: &str, wasm: Option<Bytes>) -> Result<ScriptChange, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                client.send(Method::POST, &stream_path(stream, "compare"), wasm.unwrap_or_default()).await?
            }
            Self::Offline(operations) => operations.compare(stream, wasm).await?,
        })
    }

    /// The versions of its script that a stream has had.
    pub async fn versions(&self, stream: &str) -> Result<Versions, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                client.call(Method::GET, &stream_path(stream, "versions"), NO_BODY).await?
            }
            Self::Offline(operations) => operations.versions(stream).await?,
        })
    }

    /// The newest messages of a stream, or of all.
    pub async fn messages(
        &self,
        stream: Option<&str>,
        key: Option<String>,
        last: usize,
    ) -> Result<Messages, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                let last = Some(last.to_string());
                let query = query([("stream", stream), ("key", key.as_deref()), ("last", last.as_deref())]);
                client.call(Method::GET, &format!("/messages?{query}"), NO_BODY).await?
            }
            Self::Offline(operations) => operations.messages(stream, key, last).await?,
        })
    }

    /// The dead letters that the filter lets through.
    pub async fn dead_letters(&self, filter: &LetterFilter) -> Result<Letters, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                client.call(Method::GET, &format!("/dead-letters?{}", letter_query(filter)), NO_BODY).await?
            }
            Self::Offline(operations) => operations.dead_letters(filter).await?,
        })
    }

    /// One dead letter.
    pub async fn dead_letter(&self, id: u64) -> Result<Letter, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                client.call(Method::GET, &format!("/dead-letters/{id}"), NO_BODY).await?
            }
            Self::Offline(operations) => operations.dead_letter(id).await?,
        })
    }

    /// Lets the streams of these dead letters read their messages again.
    pub async fn replay(&self, filter: &LetterFilter, as_is: bool) -> Result<Taken, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                let request = ReplayRequest { filter: filter.clone(), as_is };
                client.call(Method::POST, "/dead-letters/replay", Some(&request)).await?
            }
            Self::Offline(operations) => operations.replay(filter, as_is).await?,
        })
    }

    /// Forgets these dead letters.
    pub async fn drop_dead_letters(&self, filter: &LetterFilter) -> Result<Taken, TargetError> {
        Ok(match self {
            Self::Running(client) => {
                let request = DropRequest { filter: filter.clone() };
                client.call(Method::POST, "/dead-letters/drop", Some(&request)).await?
            }
            Self::Offline(operations) => operations.drop_dead_letters(filter).await?,
        })
    }
}

/// A call without a body.
pub const NO_BODY: Option<&()> = None;

/// The gateway that runs, or who was asked in vain.
pub async fn running(config: &Config) -> Result<Client, String> {
    match &config.admin {
        None => Err("the admin listener is off ([admin] listen = \"off\")".to_owned()),
        Some(admin) => match knock(admin.listen).await {
            Ok(()) => Ok(Client::new(admin.listen, config.data.clone())),
            Err(error) => Err(format!("no gateway answers at {} ({error})", admin.listen)),
        },
    }
}

/// Whether a process listens on the address.
async fn knock(address: SocketAddr) -> io::Result<()> {
    timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await.map_err(io::Error::from)?.map(drop)
}

/// Opens the journal of a gateway that does not run, for the streams that it
/// would run.
async fn open_journal(mut config: Config) -> Result<Operations, String> {
    if !config.journal.path.exists() {
        return Err("there is none yet".to_owned());
    }
    let accepted = Accepted::load(&config.data).map_err(|error| error.to_string())?;
    config.settle(&accepted, false);
    let journal = wiring::open_journal(&config).await.map_err(|error| error.to_string())?;
    let operated = config.streams.iter().filter_map(|entry| match entry {
        StreamEntry::Ready(settings) => Some(Operated::new(journal.stream(&settings.name)?, settings, None)),
        StreamEntry::Unusable { name, errors } => Some(Operated::unusable(name, errors)),
    });
    let operated = operated.collect();
    let scripts =
        wiring::versions(&config).await.map_err(|error| format!("the accepted scripts: {error}"))?;
    Ok(Operations::new(journal, operated, Some(scripts)))
}

/// `/streams/NAME/WORD`.
fn stream_path(stream: &str, word: &str) -> String {
    let name: String = byte_serialize(stream.as_bytes()).collect();
    // In a path a plus is a plus.
    let name = name.replace('+', "%20");
    if word.is_empty() { format!("/streams/{name}") } else { format!("/streams/{name}/{word}") }
}

fn letter_query(filter: &LetterFilter) -> String {
    let limit = filter.limit.map(|limit| limit.to_string());
    query([
        ("stream", filter.stream.as_deref()),
        ("reason", filter.reason.as_deref()),
        ("since", filter.since.as_deref()),
        ("limit", limit.as_deref()),
    ])
}

/// What is given, as the query of a URL.
fn query<const N: usize>(given: [(&str, Option<&str>); N]) -> String {
    let mut query = Serializer::new(String::new());
    for (name, value) in given {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}
