//! What an operator does with the script of a stream. The stream itself does
//! it, so it has to run; only what was kept can be read without.

use admin_api::answer::{MessageLine, Messages, ScriptChange, Versions};
use bytes::Bytes;
use journal::Amount;
use message::{KeyRule, Message};
use stream::ReloadHandle;
use stream::reload::{Refusal, Reloaded};

use super::{OperateError, Operations, convert, wanted};

/// Maximum messages of one answer.
pub const MAX_MESSAGES: usize = 1_000;
/// Messages of an answer when the request gives no number.
pub const USUAL_MESSAGES: usize = 10;
/// Maximum bytes of them.
const MAX_BYTES: usize = 8 << 20;
/// What names a device where no stream says it.
const IDENT: &str = "ident";

impl Operations {
    /// Has the files of a stream's script read again, and takes what is new.
    pub async fn reload(&self, stream: &str) -> Result<ScriptChange, OperateError> {
        let outcome = self.orders(stream)?.reload().await;
        changed(stream, outcome)
    }

    /// The same, and takes the version of an official adapter that the running
    /// binary has.
    pub async fn update(&self, stream: &str) -> Result<ScriptChange, OperateError> {
        let outcome = self.orders(stream)?.update().await;
        changed(stream, outcome)
    }

    /// Goes back to a version that the stream has had: the one before, or the
    /// one that begins like `to`.
    pub async fn roll_back(&self, stream: &str, to: Option<String>) -> Result<ScriptChange, OperateError> {
        let outcome = self.orders(stream)?.roll_back(to).await;
        changed(stream, outcome)
    }

    /// What another script would change; none: the one that its source has now.
    pub async fn compare(&self, stream: &str, wasm: Option<Bytes>) -> Result<ScriptChange, OperateError> {
        let outcome = self.orders(stream)?.compare(wasm).await;
        changed(stream, outcome)
    }

    /// The versions that a stream has had, the one that runs last.
    pub async fn versions(&self, stream: &str) -> Result<Versions, OperateError> {
        self.usable(stream)?;
        let Some(kept) = self.versions.clone() else { return Ok(Versions::none(stream)) };
        let name = stream.to_owned();
        let read = tokio::task::spawn_blocking(move || kept.of(&name)).await;
        let read = read.map_err(|failed| OperateError::NotNow(failed.to_string()))?;
        let versions =
            read.map_err(|error| OperateError::NotNow(format!("the accepted scripts: {error}")))?;
        let versions = versions.into_iter().map(convert::version_line).collect();
        Ok(Versions { stream: stream.to_owned(), versions })
    }

    /// The newest messages of a stream, or of all, and of one key if one is
    /// given: the oldest of them first.
    pub async fn messages(
        &self,
        stream: Option<&str>,
        key: Option<String>,
        last: usize,
    ) -> Result<Messages, OperateError> {
        if last == 0 || last > MAX_MESSAGES {
            return Err(OperateError::Wrong(format!("`last` is {last}; expected 1 to {MAX_MESSAGES}")));
        }
        let most = Amount { messages: last, bytes: MAX_BYTES };
        let found = match stream {
            Some(name) => {
                let takes = self.usable(name)?.takes.clone();
                self.journal.latest(most, wanted(takes, key.map(|key| [key].into()))).await?
            }
            None => {
                let rule = KeyRule::Field(IDENT.to_owned());
                let of_key = move |message: &Message| {
                    let of = |key: &String| rule.extract(&message.topic, &message.payload) == key.as_str();
                    key.as_ref().is_none_or(of)
                };
                self.journal.latest(most, of_key).await?
            }
        };
        Ok(Messages { messages: found.iter().map(MessageLine::of).collect() })
    }

    fn orders(&self, stream: &str) -> Result<ReloadHandle, OperateError> {
        let usable = self.usable(stream)?;
        let orders = usable.running.as_ref().map(|running| running.orders.clone());
        orders.ok_or_else(|| {
            OperateError::NotNow(
                "no gateway is running; a script is validated in a running stream".to_owned(),
            )
        })
    }
}

fn changed(stream: &str, outcome: Result<Reloaded, Refusal>) -> Result<ScriptChange, OperateError> {
    outcome.map(|outcome| convert::script_change(stream, &outcome)).map_err(of_refusal)
}

fn of_refusal(refusal: Refusal) -> OperateError {
    match refusal {
        Refusal::NoVersion(text) => OperateError::Unknown(text),
        Refusal::NoScript | Refusal::Stopped | Refusal::Disk(_) => OperateError::NotNow(refusal.to_string()),
        refusal => OperateError::NotNow(format!("the script is not taken, nothing has changed: {refusal}")),
    }
}
